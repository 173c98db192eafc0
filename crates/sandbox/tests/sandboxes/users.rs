//! Ordinary users: with subordinate ids, without, and what keeps their sandboxes apart from root's.

use std::process::{Command, ExitCode};

use lamina_ground::Hint;
use lamina_sandbox::{ExitStatus, IdMap, Limits, SandboxSpec};

use crate::basics;
use crate::support::{Store, probe, run, script, try_run};

crate::tests!(
    a_user_with_subordinate_ids,
    a_user_with_a_single_id,
    a_map_that_is_not_the_users,
    root_and_users_share_no_ids,
    the_doctor_tries_a_sandbox,
);

/// Runs as the user that the arguments name a scenario for; a failure is the exit status.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    match arguments.first().map(String::as_str) {
        Some("mapped") => mapped(),
        Some("single") => single(),
        Some("foreign_map") => foreign_map(),
        Some("older_kernels") => basics::without_features(),
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

/// Runs a scenario in a process with one more environment variable.
pub(crate) fn with_variable(name: &str, value: &str, scenario: &str) {
    let status =
        Command::new(std::env::current_exe().unwrap()).args(["__as_user", scenario]).env(name, value).status().unwrap();
    assert!(status.success());
}

/// An account of this machine, removed at the end.
struct Account {
    name: String,
}

impl Account {
    fn new(options: &[&str]) -> Self {
        let name = format!("lamina-{}", std::process::id());
        let status = Command::new("useradd").args(options).arg(&name).status().unwrap();
        assert!(status.success());
        Self { name }
    }

    /// Runs a scenario as this user. Its stores are removed by root: some of their files are not the user's.
    fn run(&self, scenario: &str) {
        let directory = tempfile::tempdir().unwrap();
        fs_err::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        let status = Command::new("setpriv")
            .args(["--reuid", &self.name, "--regid", &self.name, "--clear-groups", "--reset-env", "env"])
            .arg(format!("TMPDIR={}", directory.path().display()))
            .arg(std::env::current_exe().unwrap())
            .args(["__as_user", scenario])
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg(&self.name).status();
    }
}

fn a_user_with_subordinate_ids() {
    if !rustix::process::geteuid().is_root() {
        return mapped();
    }
    Account::new(&["--no-create-home"]).run("mapped");
}

fn a_user_with_a_single_id() {
    if !rustix::process::geteuid().is_root() {
        return single();
    }
    Account::new(&["--no-create-home", "--system", "--user-group"]).run("single");
}

fn a_map_that_is_not_the_users() {
    if !rustix::process::geteuid().is_root() {
        return foreign_map();
    }
    Account::new(&["--no-create-home"]).run("foreign_map");
}

fn root_and_users_share_no_ids() {
    let map = IdMap::for_current_user().unwrap();
    let subordinate = fs_err::read_to_string("/etc/subuid").unwrap_or_default();
    for line in subordinate.lines().filter(|line| !line.starts_with("root:")) {
        let numbers: Vec<u32> = line.split(':').skip(1).map(|number| number.parse().unwrap()).collect();
        let range = &map.uids[map.uids.len() - 1];
        let apart = range.outside >= numbers[0] + numbers[1] || numbers[0] >= range.outside + range.count;
        assert!(apart || !rustix::process::geteuid().is_root(), "{line} and {range:?}");
    }
}

/// The whole of it with subordinate ids.
fn mapped() {
    let store = Store::new();
    assert!(!store.map.is_single(), "{:?}", store.map);
    assert!(store.map.uids.iter().all(|range| range.outside > 65_535), "the user's own id is not among them");
    let upper = store.upper("step");
    let helpers = store.start();
    let spec = SandboxSpec { upper, ..script("id -u; echo x > /tmp/file; chmod 600 /tmp/file; exit 6") };
    let output = run(&helpers, &spec);
    assert_eq!((output.stdout.as_str(), output.exit.status), ("0\n", ExitStatus::Exited(6)));
    let other = SandboxSpec { user: Some("1000:1000".to_owned()), ..script("id -u; id -g; echo x > /tmp/file") };
    assert_eq!(run(&helpers, &other).success(), "1000\n1000\n");
    the_binary_is_safe(&helpers);
    the_doctor_agrees(&std::env::temp_dir());
    a_new_store_belongs_to_container_root();
    // Whatever enforces it here.
    let limits = Limits { pids: Some(20), ..Limits::default() };
    let started: u64 = run(&helpers, &SandboxSpec { limits, ..probe("processes") }).success().trim().parse().unwrap();
    assert!((10..20).contains(&started), "{started}");
}

/// The calling user makes the content directory, and cannot give it away without help.
fn a_new_store_belongs_to_container_root() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let map = IdMap::for_current_user().unwrap();
    let content = std::env::temp_dir().join("content");
    fs_err::create_dir(&content).unwrap();
    fs_err::set_permissions(&content, PermissionsExt::from_mode(0o700)).unwrap();
    for _ in 0..2 {
        drop(lamina_sandbox::Helpers::start(&content, &map, &[]).unwrap());
        let status = fs_err::metadata(&content).unwrap();
        assert_eq!((status.uid(), status.gid()), (map.root_uid(), map.root_gid()));
        assert_eq!(status.mode() & 0o777, 0o755);
    }
}

/// The whole of it with one id.
fn single() {
    let store = Store::new();
    assert!(store.map.is_single());
    let helpers = store.start();
    let spec = SandboxSpec { upper: store.upper("step"), ..script("id -u; echo x > /root/file") };
    assert_eq!(run(&helpers, &spec).success(), "0\n");
    assert!(store.content().join("work/step/upper/root/file").exists());
    let other = SandboxSpec { user: Some("1000:1000".to_owned()), ..script("true") };
    assert!(try_run(&helpers, &other).unwrap_err().to_string().contains("1000"));
    the_binary_is_safe(&helpers);
    the_doctor_agrees(&store.content());
}

/// Root inside is the very user who owns the store and may own the binary: still nothing can be written.
fn the_binary_is_safe(helpers: &lamina_sandbox::Helpers) {
    let output = run(helpers, &probe("executables")).success();
    assert!(
        output.contains("1 write false") && output.contains("1 read false") && output.contains("1 fd/0 false"),
        "{output}"
    );
}

/// A recorded map that the machine does not allow any more.
fn foreign_map() {
    let mut map = IdMap::for_current_user().unwrap();
    map.uids[0].outside = 3_000_000_000;
    let store = Store::with_map(map);
    let error = lamina_sandbox::Helpers::start(&store.content(), &store.map, &[]).unwrap_err();
    let hint = error.hint().unwrap_or_default();
    assert!(error.to_string().contains("newuidmap") && hint.contains("usermod --add-subuids"), "{error}: {hint}");
}

/// The doctor's trial works where sandboxes do.
fn the_doctor_agrees(directory: &std::path::Path) {
    use lamina_sandbox::doctor::{Status, judge, look, try_sandbox};
    let mut findings = look();
    findings.extend(judge(directory, &try_sandbox(directory, None)));
    let trial = findings.iter().find(|finding| finding.name == "sandbox").unwrap();
    assert_eq!(trial.status, Status::Ok, "{findings:#?}");
    assert!(findings.iter().all(|finding| (finding.status == Status::Ok) == finding.hint.is_none()));
    let ids = findings.iter().find(|finding| finding.name == "user ids").unwrap();
    let command = ids.hint.as_deref().unwrap_or_default();
    let is_single = IdMap::for_current_user().unwrap().is_single();
    assert_eq!(is_single, command.contains("usermod --add-subuids"), "{command}");
    let entries = fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = entries.filter(|name| name.to_string_lossy().starts_with("modal-doctor")).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn the_doctor_tries_a_sandbox() {
    the_doctor_agrees(&Store::new().content());
}
