//! What this machine allows, and what to do about what it does not.
//!
//! The main finding is not guessed: helpers are started and a sandbox is made in an empty image. The others say why that
//! fails, or what works less well than it could.

use std::path::{Path, PathBuf};

use lamina_ground::causes;
use rustix::fs::FileType;

use crate::cgroups::{Enforcement, LimitsReport};
use crate::helper_process::OWN;
use crate::idmap::{add_range_command, subordinate_ids_hint};
use crate::tiny_root::DEVICES;
use crate::{Helpers, IdMap, SandboxError, SandboxSpec, Stdio, Upper, helpers};

/// Who owns in a user namespace what belongs to nobody in it.
const OVERFLOW_ID: u32 = 65_534;
/// Since when the kernel has what sandboxes need, and what they are faster or stricter with.
const OVERLAY_FOR_USERS: (u32, u32) = (5, 11);
const ATTRIBUTES_IN_MEMORY: (u32, u32) = (6, 6);
/// Landlock keeps abstract unix sockets apart from this version on.
const SOCKET_SCOPES: i64 = 6;

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, with something less.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub status: Status,
    /// One sentence.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, detail: detail.into(), hint: None }
    }

    fn warning(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, status: Status::Warning, detail: detail.into(), hint: Some(hint.into()) }
    }

    fn problem(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, status: Status::Problem, detail: detail.into(), hint: Some(hint.into()) }
    }
}

/// Looks at everything that sandboxes need, short of making one.
#[must_use]
pub fn look() -> Vec<Finding> {
    let mut findings = vec![kernel(&release()), user_namespaces(), subordinate_ids()];
    findings.extend(surrounding_container());
    findings.push(devices(Path::new("/dev")));
    findings.extend([seccomp(), landlock()]);
    findings
}

/// What came of a trial in `directory`.
#[must_use]
pub fn judge(directory: &Path, trial: &Result<LimitsReport, SandboxError>) -> Vec<Finding> {
    const NAME: &str = "sandbox";
    match trial {
        Ok(report) => {
            let detail = format!("A sandbox was made and ended in `{}`.", directory.display());
            vec![limits(*report), Finding::ok(NAME, detail)]
        }
        Err(error) => {
            let detail = format!("A sandbox could not be made: {}.", causes(error));
            vec![Finding::problem(NAME, detail, trial_hint(error))]
        }
    }
}

/// Makes a sandbox of an empty image in `directory`, whose file system matters, with the ids of a store or those that a
/// new one would have. That its command is not found is what shows that everything else worked. Returns how it is limited.
///
/// # Errors
/// When the machine does not allow it.
pub fn try_sandbox(directory: &Path, map: Option<IdMap>) -> Result<LimitsReport, SandboxError> {
    let trial = Trial::new(directory, map.map_or_else(IdMap::for_current_user, Ok)?)?;
    let helpers = Helpers::start(&trial.content, &trial.map, &[])?;
    for upper in [Upper::Store { upper: "upper".into(), work: "work".into() }, Upper::Memory { limit_bytes: 1 << 20 }] {
        let spec = SandboxSpec { upper, argv: vec!["/trial".into()], ..SandboxSpec::default() };
        match helpers.launcher.spawn(&spec, Stdio::null()?) {
            Ok(_) | Err(SandboxError::CommandNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(helpers.launcher.limits())
}

/// A content directory for a trial, removed at the end.
struct Trial {
    content: PathBuf,
    map: IdMap,
}

impl Trial {
    fn new(directory: &Path, map: IdMap) -> Result<Self, SandboxError> {
        let content = directory.join(format!("modal-doctor-{}", std::process::id()));
        fs_err::create_dir(&content)?;
        let trial = Self { content, map };
        for name in ["upper", "work"] {
            let path = trial.content.join(name);
            fs_err::create_dir(&path)?;
            helpers::claim(Path::new(OWN), &path.to_string_lossy(), &trial.map)?;
        }
        Ok(trial)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // All of it is the user's or removable by root, but overlays lock their scratch directories.
        for scratch in ["work/work", "work/work/incompat", "work/work/incompat/volatile"] {
            let unlocked = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            let _ = fs_err::set_permissions(self.content.join(scratch), unlocked);
        }
        let _ = helpers::remove(Path::new(OWN), &self.content.to_string_lossy(), &self.map);
    }
}

/// What to do when the trial fails.
fn trial_hint(error: &SandboxError) -> String {
    match error {
        SandboxError::IdMap { hint, .. } => hint.clone(),
        SandboxError::Setup { path, .. } if path == "proc" => {
            "Start the surrounding container with an unmasked /proc: `docker run --security-opt systempaths=unconfined`."
                .into()
        }
        SandboxError::Setup { path, .. } if path.contains("upper") => {
            "Keep the store on a filesystem that overlays can be written to, such as ext4, xfs or btrfs: set MODAL_STORE."
                .into()
        }
        _ => "See the findings above; `--privileged` is what a surrounding container needs at most.".into(),
    }
}

/// The kernel's version, for example `6.8.0-31-generic`.
fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn kernel(release: &str) -> Finding {
    let mut numbers =
        release.split(|character: char| !character.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OVERLAY_FOR_USERS {
        let detail = format!("The kernel is {release}, and overlays in user namespaces came with 5.11.");
        return Finding::problem("kernel", detail, "Update the kernel.");
    }
    if version < ATTRIBUTES_IN_MEMORY {
        let detail = format!("The kernel is {release}: containers have their changes on disk, from 6.6 on in memory.");
        return Finding::ok("kernel", detail);
    }
    Finding::ok("kernel", format!("The kernel is {release}."))
}

fn user_namespaces() -> Finding {
    const NAME: &str = "user namespaces";
    let is = |path: &str, value: &str| fs_err::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if is("/proc/sys/user/max_user_namespaces", "0") {
        return Finding::problem(
            NAME,
            "User namespaces are switched off.",
            "Run `sudo sysctl user.max_user_namespaces=15000`.",
        );
    }
    if !rustix::process::geteuid().is_root() {
        if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
            let hint = "Run `sudo sysctl kernel.unprivileged_userns_clone=1`.";
            return Finding::problem(NAME, "User namespaces are allowed for root only.", hint);
        }
        if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
            let detail = "AppArmor allows user namespaces only to programs that have a profile.";
            return Finding::warning(NAME, detail, apparmor_profile());
        }
    }
    Finding::ok(NAME, "User namespaces are allowed.")
}

/// The profile that Ubuntu 24.04 and later ask for.
fn apparmor_profile() -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "/usr/local/bin/modal".into());
    format!(
        "If the trial below fails, save these lines as `/etc/apparmor.d/modal` and run \
         `sudo apparmor_parser -r /etc/apparmor.d/modal`:\n\
         abi <abi/4.0>,\ninclude <tunables/global>\nprofile modal {} flags=(unconfined) {{\n  userns,\n}}",
        program.display()
    )
}

fn subordinate_ids() -> Finding {
    const NAME: &str = "user ids";
    let map = match IdMap::for_current_user() {
        Ok(map) => map,
        Err(error) => return Finding::problem(NAME, error.to_string(), add_range_command("root")),
    };
    if !map.is_single() {
        let count: u32 = map.uids.iter().map(|range| range.count).sum();
        return Finding::ok(NAME, format!("Containers have {count} user ids; their root is {} here.", map.root_uid()));
    }
    let detail = "Containers have a single user id: Debian bases and `apt_install` need more.";
    Finding::warning(NAME, detail, format!("{}.", subordinate_ids_hint()))
}

/// Whether this already runs in a container, which may not let another one be made.
fn surrounding_container() -> Option<Finding> {
    const NAME: &str = "container";
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let masked: Vec<&str> = mounts.lines().filter_map(masked_path).collect();
    if let Some(first) = masked.first() {
        let detail = format!("Parts of /proc are masked here, `{first}` for one: the kernel then refuses a new /proc.");
        let hint = "Start the surrounding container with `docker run --security-opt systempaths=unconfined`, or in \
                      Kubernetes with `procMount: Unmasked`.";
        return Some(Finding::warning(NAME, detail, hint));
    }
    let marks = ["/.dockerenv", "/run/.containerenv"];
    let inside = marks.iter().any(|path| Path::new(path).exists());
    inside.then(|| Finding::ok(NAME, "This is a container, with a whole /proc."))
}

/// The mount point of a line of `mountinfo`, if it hides a part of `/proc`.
fn masked_path(line: &str) -> Option<&str> {
    let point = line.split(' ').nth(4)?;
    let hides =
        point.starts_with("/proc/") && !point.starts_with("/proc/sys/fs/binfmt_misc") && point != "/proc/fs/nfsd";
    hides.then_some(point)
}

/// Whether the host's device nodes are as every system has them. Somebody who runs a container with them may have given
/// them away: whoever owns a node can change its mode for everybody.
fn devices(directory: &Path) -> Finding {
    const NAME: &str = "device nodes";
    let root = (0, 0);
    for name in DEVICES {
        let path = directory.join(name);
        let number = number_of_device(name);
        let Ok(status) = rustix::fs::stat(&path) else {
            let hint = format!("Run `sudo mknod -m 666 {} c {} {}`.", path.display(), number.0, number.1);
            return Finding::problem(NAME, format!("`{}` is missing.", path.display()), hint);
        };
        let is = (rustix::fs::major(status.st_rdev), rustix::fs::minor(status.st_rdev));
        if !FileType::from_raw_mode(status.st_mode).is_char_device() || is != number {
            let (path, detail) = (path.display(), format!("`{}` is not the device that it should be.", path.display()));
            let hint = format!("Run `sudo rm {path} && sudo mknod -m 666 {path} c {} {}`.", number.0, number.1);
            return Finding::problem(NAME, detail, hint);
        }
        // In a user namespace the host's root is nobody. A terminal may belong to a group of its own.
        let owners = [root, (OVERFLOW_ID, OVERFLOW_ID)];
        let is_owned =
            owners.iter().any(|(uid, gid)| status.st_uid == *uid && (status.st_gid == *gid || name == "tty"));
        let mode = status.st_mode & 0o7777;
        if !is_owned || mode != 0o666 {
            let (path, uid, gid) = (path.display(), status.st_uid, status.st_gid);
            let detail = format!("`{path}` belongs to {uid}:{gid} and has mode {mode:04o}, not 0:0 and 0666.");
            let hint = format!("Run `sudo chown root:root {path} && sudo chmod 666 {path}`.");
            return Finding::problem(NAME, detail, hint);
        }
    }
    Finding::ok(NAME, "The host's device nodes belong to root and have their usual modes.")
}

/// The number of a device node, the same on every Linux.
fn number_of_device(name: &str) -> (u32, u32) {
    match name {
        "null" => (1, 3),
        "zero" => (1, 5),
        "full" => (1, 7),
        "random" => (1, 8),
        "urandom" => (1, 9),
        _ => (5, 0),
    }
}

fn limits(report: LimitsReport) -> Finding {
    const NAME: &str = "limits";
    let word = |enforcement| match enforcement {
        Enforcement::ControlGroup => "by control group",
        Enforcement::ResourceLimit => "by resource limit, for each process",
        Enforcement::Off => "not at all",
    };
    let detail = format!(
        "Memory is limited {}, processors {}, the number of processes {}.",
        word(report.memory),
        word(report.cpus),
        word(report.pids)
    );
    if [report.memory, report.cpus, report.pids] == [Enforcement::ControlGroup; 3] {
        return Finding::ok(NAME, detail);
    }
    let hint = if rustix::process::geteuid().is_root() {
        "Let control groups be written to: a surrounding container has to be started with that right."
    } else {
        "Use a machine with control groups of version 2 alone and a systemd that runs for this user: it gives groups. \
         `sudo loginctl enable-linger $USER` has it run also without a login."
    };
    Finding::warning(NAME, detail, hint)
}

fn seccomp() -> Finding {
    const NAME: &str = "system call filter";
    let actions = fs_err::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_ascii_whitespace().any(|action| action == "errno") {
        Finding::ok(NAME, "System calls can be filtered.")
    } else {
        Finding::problem(NAME, "The kernel has no system call filters.", "Use a kernel with CONFIG_SECCOMP_FILTER.")
    }
}

fn landlock() -> Finding {
    const NAME: &str = "abstract sockets";
    match lamina_system::landlock_version() {
        Ok(version) if version >= SOCKET_SCOPES => {
            Finding::ok(NAME, "Abstract unix sockets of the host are out of reach of containers.")
        }
        answer => {
            let version = answer.map_or_else(|_| "none".into(), |version| version.to_string());
            let detail = format!("Containers reach abstract unix sockets of the host (Landlock version: {version}).");
            Finding::warning(NAME, detail, "Use a kernel from 6.12 on with Landlock, or `block_network=True`.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_judged_by_their_version() {
        for (release, status) in [
            ("6.18.44-fc", Status::Ok),
            ("6.6", Status::Ok),
            ("6.5.0-41-generic", Status::Ok),
            ("5.10.0-28-amd64", Status::Problem),
            ("4.18.0", Status::Problem),
        ] {
            assert_eq!(kernel(release).status, status, "{release}");
        }
    }

    #[test]
    fn device_nodes_that_were_given_away_are_found() {
        assert_eq!(devices(Path::new("/dev")).status, Status::Ok, "{:?}", devices(Path::new("/dev")));
        let directory = tempfile::tempdir().unwrap();
        let missing = devices(directory.path());
        assert!(missing.detail.contains("is missing") && missing.hint.unwrap().contains("mknod -m 666"));
        fs_err::write(directory.path().join("full"), "").unwrap();
        assert!(devices(directory.path()).detail.contains("not the device"));
        if !rustix::process::geteuid().is_root() {
            return;
        }
        fs_err::remove_file(directory.path().join("full")).unwrap();
        let make = |name: &str, mode: u32| {
            let (path, (major, minor)) = (directory.path().join(name), number_of_device(name));
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, 0o600.into(), device).unwrap();
            fs_err::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            path
        };
        for name in DEVICES {
            make(name, 0o666);
        }
        assert_eq!(devices(directory.path()).status, Status::Ok);
        let null = directory.path().join("null");
        fs_err::set_permissions(&null, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(devices(directory.path()).detail.contains("mode 0644"));
        fs_err::set_permissions(&null, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        std::os::unix::fs::chown(&null, Some(100_000), None).unwrap();
        let given_away = devices(directory.path());
        assert!(given_away.detail.contains("belongs to 100000:0"), "{given_away:?}");
        assert!(given_away.hint.unwrap().contains("chown root:root"));
    }

    #[test]
    fn only_what_hides_proc_is_a_mask() {
        let line = |point: &str| format!("30 25 0:5 /null {point} rw - devtmpfs devtmpfs rw");
        assert_eq!(masked_path(&line("/proc/kcore")), Some("/proc/kcore"));
        for point in ["/proc", "/proc/sys/fs/binfmt_misc", "/dev/null"] {
            assert_eq!(masked_path(&line(point)), None);
        }
    }
}
