//! Starting the two helper processes: the engine's side.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fs_err::os::unix::fs::chown;
use lamina_ground::causes;
use rustix::process::Pid;

use crate::cgroups::Scope;
use crate::disk::DiskGuard;
use crate::helper_process::{HelperProcess, OWN, Starting};
use crate::idmap::{IdRange, add_range_command, find_program};
use crate::protocol::{Configuration, Errand, StartUp};
use crate::{IdMap, Launcher, Resource, SandboxError, resources};

/// The two processes inside the store's user namespace, as the engine sees them.
#[derive(Debug)]
pub struct Helpers {
    /// Starts sandboxes.
    pub launcher: Launcher,
    /// The connection with the store worker.
    pub worker: UnixStream,
}

impl Helpers {
    /// Starts both from this program's own binary. Beside the store's content, sandboxes can be given these resources.
    ///
    /// # Errors
    /// When the user namespace cannot be made or entered, or a resource cannot be reached.
    pub fn start(content: &Path, map: &IdMap, resources: &[Resource]) -> Result<Self, SandboxError> {
        Self::start_with(Path::new(OWN), content, map, resources)
    }

    /// Starts both from another binary, whose `main` calls [`crate::helpers_main`] when its first argument is `__helpers`.
    ///
    /// # Errors
    /// As [`Helpers::start`].
    pub fn start_with(
        executable: &Path,
        content: &Path,
        map: &IdMap,
        resources: &[Resource],
    ) -> Result<Self, SandboxError> {
        Self::start_beside(None, executable, content, map, resources)
    }

    /// Starts a further launcher for a store that has one already: resources that were not known when that began are
    /// for the sandboxes of this one. Both share control groups, so `launcher` has to be closed last. The binary is as in
    /// [`Helpers::start_with`], or this program's own.
    ///
    /// # Errors
    /// As [`Helpers::start`].
    pub fn further_launcher(
        launcher: &Launcher,
        executable: Option<&Path>,
        content: &Path,
        map: &IdMap,
        resources: &[Resource],
    ) -> Result<Launcher, SandboxError> {
        let executable = executable.unwrap_or(Path::new(OWN));
        // Its store worker ends with the connection, which nobody has.
        Self::start_beside(Some(launcher), executable, content, map, resources).map(|helpers| helpers.launcher)
    }

    fn start_beside(
        other: Option<&Launcher>,
        executable: &Path,
        content: &Path,
        map: &IdMap,
        resources: &[Resource],
    ) -> Result<Self, SandboxError> {
        resources::check(resources)?;
        let content = fs_err::canonicalize(content)?;
        let Some(content) = content.to_str() else {
            return Err(SandboxError::Invalid(format!("the store's path `{}` is not UTF-8", content.display())));
        };
        let disk = DiskGuard::new(Path::new(content))?;
        claim(executable, content, map)?;
        let (launcher, launcher_theirs) = UnixStream::pair()?;
        let (worker, worker_theirs) = UnixStream::pair()?;
        let configuration =
            Configuration { content: content.into(), resources: resources.to_vec(), ids: map.inner(), errand: None };
        let theirs = [launcher_theirs.as_fd(), worker_theirs.as_fd()];
        let child = start_up(executable, &configuration, &theirs, &map.with_the_user())?;
        let names = resources.iter().map(|resource| resource.name.clone()).collect();
        Ok(Self { launcher: Launcher::new(launcher, child, disk, names, other)?, worker })
    }
}

/// Starts a helper process with an id map, and waits until it is at work.
fn start_up(
    executable: &Path,
    configuration: &Configuration,
    fds: &[BorrowedFd<'_>],
    map: &IdMap,
) -> Result<HelperProcess, SandboxError> {
    let mut starting = Starting::begin(executable)?;
    starting.tell(configuration, fds)?;
    starting.expect(&StartUp::Unshared)?;
    let pid = starting.id();
    tracing::info!(%pid, map = ?map, content = configuration.content, "helper process");
    // With its map it takes other ids.
    let scope = configuration.errand.is_none().then(|| Scope::ask(pid)).flatten();
    write_map(pid, map)?;
    if let Some(scope) = scope {
        scope.wait();
    }
    starting.tell(&StartUp::Mapped, &[])?;
    starting.expect(&StartUp::Ready)?;
    Ok(starting.done())
}

/// Gives the content directory to root inside, if it belongs to somebody else: it was made by the calling user just now.
pub(crate) fn claim(executable: &Path, content: &str, map: &IdMap) -> Result<(), SandboxError> {
    let metadata = fs_err::metadata(content)?;
    if (metadata.uid(), metadata.gid()) == (map.root_uid(), map.root_gid()) || map.is_users_own() {
        return Ok(());
    }
    if rustix::process::geteuid().is_root() {
        return Ok(chown(content, Some(map.root_uid()), Some(map.root_gid()))?);
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(SandboxError::IdMap {
            reason: format!(
                "`{content}` belongs to user id `{}`, and by the store's `idmap.json` it should be `{}`",
                metadata.uid(),
                map.root_uid()
            ),
            hint: "Put the former `idmap.json` back, or set MODAL_STORE to another directory".into(),
        });
    }
    // The group may be one of the surrounding directory, which the namespace would not have.
    chown(content, None, Some(rustix::process::getegid().as_raw()))?;
    run_errand(executable, content, map, Errand::Claim)
}

/// Removes a content directory.
pub(crate) fn remove(executable: &Path, content: &str, map: &IdMap) -> Result<(), SandboxError> {
    if rustix::process::geteuid().is_root() || map.is_users_own() {
        return Ok(fs_err::remove_dir_all(content)?);
    }
    run_errand(executable, content, map, Errand::Remove)
}

/// Does what an ordinary user cannot do with files of a subordinate id, but root of a user namespace with both can.
fn run_errand(executable: &Path, content: &str, map: &IdMap, errand: Errand) -> Result<(), SandboxError> {
    let (resources, ids) = (Vec::new(), map.inner());
    let configuration = Configuration { content: content.into(), resources, ids, errand: Some(errand) };
    Ok(start_up(executable, &configuration, &[], &map.for_errands())?.wait()?)
}

/// Writes the id map of the helper's user namespace.
fn write_map(pid: Pid, map: &IdMap) -> Result<(), SandboxError> {
    if rustix::process::geteuid().is_root() {
        write_file(pid, "uid_map", &map.uids)?;
        return write_file(pid, "gid_map", &map.gids);
    }
    if map.is_single() {
        // Groups could otherwise be dropped that deny access to something.
        fs_err::write(format!("/proc/{pid}/setgroups"), "deny")?;
        write_file(pid, "uid_map", &map.uids)?;
        return write_file(pid, "gid_map", &map.gids);
    }
    let programs = [start_program("newuidmap", pid, &map.uids)?, start_program("newgidmap", pid, &map.gids)?];
    for (name, program) in programs {
        let output = program.wait_with_output()?;
        if !output.status.success() {
            let user = lamina_system::user_name(rustix::process::geteuid().as_raw()).unwrap_or_else(|| "$USER".into());
            return Err(SandboxError::IdMap {
                reason: format!("`{name}` failed: {}", String::from_utf8_lossy(&output.stderr).trim()),
                hint: format!("If the recorded range is no longer yours: {}", add_range_command(&user)),
            });
        }
    }
    Ok(())
}

fn write_file(pid: Pid, name: &str, ranges: &[IdRange]) -> Result<(), SandboxError> {
    let lines: Vec<String> =
        ranges.iter().map(|range| format!("{} {} {}", range.inside, range.outside, range.count)).collect();
    fs_err::write(format!("/proc/{pid}/{name}"), lines.join("\n")).map_err(|error| SandboxError::IdMap {
        reason: causes(&error),
        hint: "`modal doctor` says what this machine allows".into(),
    })
}

/// Starts `newuidmap` or `newgidmap`: both at once, since each takes milliseconds.
fn start_program(name: &'static str, pid: Pid, ranges: &[IdRange]) -> Result<(&'static str, Child), SandboxError> {
    let program = find_program(name).ok_or_else(|| SandboxError::IdMap {
        reason: format!("the program `{name}` was not found"),
        hint: "Install the `uidmap` package (`shadow-utils` on Fedora)".into(),
    })?;
    let numbers = ranges.iter().flat_map(|range| [range.inside, range.outside, range.count]);
    let child = Command::new(program)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok((name, child))
}
