//! The user's Python: finding the interpreter, starting it with a connection to the engine.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;

use lamina_ground::EnvVars;
use lamina_system::{spawn_bound, with_interrupts_blocked};
use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::failure::Failure;

/// Names under which an interpreter is looked for.
const NAMES: [&str; 2] = ["python3", "python"];

/// What it executes: as `-m modal._cli` would, without the modules that Python imports for that.
const PROGRAM: &str = "import sys; from modal._cli.__main__ import start; sys.exit(start())";

/// A running interpreter that executes `modal._cli`.
pub(crate) struct Python {
    child: Child,
    handle: Handle,
}

/// A way to signal the interpreter from another thread that can never hit another process.
#[derive(Clone)]
pub(crate) struct Handle {
    process: Arc<OwnedFd>,
    is_bound: bool,
}

impl Handle {
    /// Sends a signal; an interpreter that is gone does not mind.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(&*self.process, signal);
    }

    /// Whether the interpreter gets no signals but through this.
    pub(crate) fn is_bound(&self) -> bool {
        self.is_bound
    }
}

impl Python {
    /// Starts `modal._cli` with arguments and returns it with the engine's end of the connection. One that is bound gets
    /// no signals but ours, and is killed when this process is.
    pub(crate) fn start(
        arguments: &[OsString],
        environment: &[(&str, &OsStr)],
        is_bound: bool,
    ) -> Result<(Self, UnixStream), Failure> {
        let interpreter = find()?;
        let (ours, theirs) = UnixStream::pair()?;
        // Every other descriptor is closed on exec; nothing else is started before this one is closed here.
        rustix::io::fcntl_setfd(&theirs, FdFlags::empty()).map_err(std::io::Error::from)?;
        let mut command = Command::new(&interpreter);
        command
            .args(["-c", PROGRAM])
            .args(arguments)
            .env(EnvVars::MODAL_ENGINE_FD, theirs.as_fd().as_raw_fd().to_string())
            .envs(environment.iter().copied());
        // Python would show an interrupt during its own start as a failure; `modal._cli` takes it when it can.
        let child = if is_bound { spawn_bound(&mut command) } else { with_interrupts_blocked(|| command.spawn()) };
        let child = child.map_err(|error| {
            Failure::new(format!("cannot start `{}`: {error}", interpreter.display()))
                .hint("MODAL_PYTHON names the interpreter that imports the program")
        })?;
        let pid = Pid::from_child(&child);
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(std::io::Error::from)?;
        Ok((Self { child, handle: Handle { process: Arc::new(handle), is_bound } }, ours))
    }

    /// A way to signal it.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for its end and returns its exit code, 128 + the signal if one killed it.
    pub(crate) fn wait(&mut self) -> Result<u8, Failure> {
        let status = self.child.wait()?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
        Ok(u8::try_from(code).unwrap_or(1))
    }
}

/// The interpreter that imports the user's program.
fn find() -> Result<PathBuf, Failure> {
    if let Some(chosen) = std::env::var_os(EnvVars::MODAL_PYTHON).filter(|value| !value.is_empty()) {
        return Ok(chosen.into());
    }
    let own = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let active = std::env::var_os(EnvVars::VIRTUAL_ENV).map(|directory| Path::new(&directory).join("bin"));
    let path = std::env::var_os(EnvVars::PATH).unwrap_or_default();
    own.into_iter()
        .chain(active)
        .find_map(|directory| interpreter_in(&directory))
        .or_else(|| search(&path, &Pyenv::of_this_process()))
        .ok_or_else(|| {
            Failure::new("no Python interpreter found beside `modal`, in an active virtual environment or on PATH")
                .hint("install Python 3.9 or later, or set MODAL_PYTHON to an interpreter")
        })
}

fn interpreter_in(directory: &Path) -> Option<PathBuf> {
    NAMES.iter().map(|name| directory.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs_err::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The first interpreter on `path`; a pyenv shim, a shell script that takes longer than our whole start, is
/// replaced by what it would run.
fn search(path: &OsStr, pyenv: &Pyenv) -> Option<PathBuf> {
    let mut shim = None;
    for directory in std::env::split_paths(path) {
        let Some(interpreter) = interpreter_in(&directory) else {
            continue;
        };
        if !directory.ends_with("shims") {
            return Some(interpreter);
        }
        if let Some(real) = directory.parent().and_then(|root| pyenv.resolve(root)) {
            return Some(real);
        }
        shim.get_or_insert(interpreter);
    }
    shim
}

/// Where pyenv looks for the version in use.
struct Pyenv {
    version: Option<OsString>,
    directory: Option<PathBuf>,
}

impl Pyenv {
    fn of_this_process() -> Self {
        Self { version: std::env::var_os(EnvVars::PYENV_VERSION), directory: std::env::current_dir().ok() }
    }

    /// The interpreter of the version that pyenv would choose, below its root.
    fn resolve(&self, root: &Path) -> Option<PathBuf> {
        let named = self.version.as_ref().and_then(|version| version.to_str().map(str::to_owned));
        let local = || {
            let ancestors = self.directory.iter().flat_map(|directory| directory.ancestors());
            ancestors
                .map(|ancestor| ancestor.join(".python-version"))
                .find_map(|file| fs_err::read_to_string(file).ok())
        };
        let versions = named
            .map(|names| names.replace(':', "\n"))
            .or_else(local)
            .or_else(|| fs_err::read_to_string(root.join("version")).ok())?;
        let version = versions.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
        interpreter_in(&root.join("versions").join(version).join("bin"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpreter(directory: &Path) -> PathBuf {
        fs_err::create_dir_all(directory).unwrap();
        let path = directory.join("python3");
        fs_err::write(&path, "").unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn shims_are_replaced_by_what_they_run() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let shim = interpreter(&root.join("pyenv/shims"));
        let system = interpreter(&root.join("usr/bin"));
        let path = std::env::join_paths([shim.parent().unwrap(), system.parent().unwrap()]).unwrap();
        let only_shim = std::env::join_paths([shim.parent().unwrap()]).unwrap();
        let pyenv = |version: Option<&str>| Pyenv {
            version: version.map(Into::into),
            directory: Some(root.join("project/deep")),
        };

        assert_eq!(search(&path, &pyenv(None)), Some(system));
        assert_eq!(search(&only_shim, &pyenv(None)), Some(shim));

        let global = interpreter(&root.join("pyenv/versions/3.11.7/bin"));
        fs_err::write(root.join("pyenv/version"), "3.11.7\n").unwrap();
        assert_eq!(search(&path, &pyenv(None)), Some(global));

        let local = interpreter(&root.join("pyenv/versions/3.12.1/bin"));
        fs_err::create_dir_all(root.join("project/deep")).unwrap();
        fs_err::write(root.join("project/.python-version"), "# ours\n3.12.1\n").unwrap();
        assert_eq!(search(&path, &pyenv(None)), Some(local));

        let chosen = interpreter(&root.join("pyenv/versions/3.13.0/bin"));
        assert_eq!(search(&path, &pyenv(Some("3.13.0:3.12.1"))), Some(chosen));
    }
}
