//! The process that becomes the helpers, as the engine sees it: forked from this program before it has threads, which spares
//! executing the binary once, or executed.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use lamina_ground::{EnvVars, RunRecord, null_device};
use lamina_system::{self as system, Side};
use lamina_wire::{Receiver, Sender};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use serde::Serialize;

use crate::SandboxError;
use crate::enter;
use crate::protocol::{StartUp, receive, send};

/// This program's own binary.
pub(crate) const OWN: &str = "/proc/self/exe";

/// Environment variables of the engine that the helpers keep. The rest may hold secrets, and they need none of it.
const KEPT_ENVIRONMENT: [&str; 5] = [
    "LD_LIBRARY_PATH",
    EnvVars::MODAL_STORE_WITHOUT,
    "RAYON_NUM_THREADS",
    "RUST_BACKTRACE",
    EnvVars::MODAL_SANDBOX_WITHOUT,
];

/// The process that [`fork_ahead`] has made, until it is used.
static AHEAD: Mutex<Option<Starting>> = Mutex::new(None);

/// Makes the next helper process now, by `fork` instead of by executing the binary. For a program that will start helpers,
/// while it has one thread; where it fails, they are started as without it.
pub fn fork_ahead() {
    if let Ok(process) = Starting::fork() {
        *AHEAD.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    }
}

/// A child that is a helper, or becomes one.
#[derive(Debug)]
pub(crate) struct HelperProcess(Pid);

impl HelperProcess {
    /// Its id.
    pub(crate) fn id(&self) -> Pid {
        self.0
    }

    /// Waits for its end.
    pub(crate) fn wait(self) -> io::Result<()> {
        rustix::io::retry_on_intr(|| waitpid(Some(self.0), WaitOptions::empty()))?;
        Ok(())
    }
}

/// A helper process that is being started. It waits for its configuration, and ends if the connection does.
#[derive(Debug)]
pub(crate) struct Starting {
    pid: Pid,
    sender: Sender,
    receiver: Receiver,
}

impl Starting {
    /// Starts it from a binary, or takes the one that was forked from this program.
    pub(crate) fn begin(executable: &Path) -> Result<Self, SandboxError> {
        let ahead = || AHEAD.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (executable == Path::new(OWN)).then(ahead).flatten() {
            Some(starting) => Ok(starting),
            None => Self::execute(executable),
        }
    }

    fn execute(executable: &Path) -> Result<Self, SandboxError> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(executable)
            .arg(enter::ARGUMENT)
            .env_clear()
            .envs(environment())
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(record().map_or_else(Stdio::null, Stdio::from))
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("failed to start `{}`: {error}", executable.display()))
            })?;
        Self::new(child.id(), ours)
    }

    fn fork() -> Result<Self, SandboxError> {
        let (ours, theirs) = UnixStream::pair()?;
        let output = record().map_or_else(null_device, Ok)?;
        match system::split(0)? {
            Side::Parent { pid, .. } => Self::new(pid, ours),
            Side::Child => {
                drop(ours);
                system::exit_now(i32::from(become_helper(&theirs, &output).is_err()))
            }
        }
    }

    fn new(pid: u32, ours: UnixStream) -> Result<Self, SandboxError> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::RANGE)?;
        Ok(Self { pid, sender: Sender::new(ours.try_clone()?), receiver: Receiver::new(ours) })
    }

    /// Its id.
    pub(crate) fn id(&self) -> Pid {
        self.pid
    }

    /// Tells it something.
    pub(crate) fn tell<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        send(&self.sender, message, fds)
    }

    /// Waits for it to reach a step of the start-up.
    pub(crate) fn expect(&mut self, expected: &StartUp) -> Result<(), SandboxError> {
        match receive::<StartUp>(&mut self.receiver)? {
            Some((message, _)) if message == *expected => Ok(()),
            Some((StartUp::Failed(failure), _)) => Err(failure.into()),
            Some((message, _)) => Err(SandboxError::Invalid(format!("the helper process says `{message:?}`"))),
            None => Err(SandboxError::Lost),
        }
    }

    /// It is at work: there is nothing more to say.
    pub(crate) fn done(self) -> HelperProcess {
        HelperProcess(self.pid)
    }
}

/// What a fork does to be as if the binary had been executed.
fn become_helper(socket: &UnixStream, output: &OwnedFd) -> Result<(), SandboxError> {
    system::place_descriptor(output.as_fd(), 1)?;
    // What this program was given stays open in it alone.
    system::close_on_exec_from(3);
    rustix::process::chdir("/")?;
    enter::run_outside(socket, environment())
}

/// What the helpers write their record to.
fn record() -> Option<OwnedFd> {
    RunRecord::current().and_then(|record| record.for_helper().ok())
}

/// The helpers' environment.
fn environment() -> Vec<(OsString, OsString)> {
    let kept = KEPT_ENVIRONMENT.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let shown = RunRecord::current().and_then(RunRecord::shown);
    kept.chain(shown.map(|shown| (EnvVars::MODAL_LOG.into(), shown.into()))).collect()
}
