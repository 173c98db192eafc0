//! What a pool needs from whatever makes containers.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use lamina_ground::{Hint, causes};
use lamina_sandbox::DiskShortage;

/// Makes containers of one function. A trait, so that pools are tested without any.
pub trait ContainerStarter: Send + Sync {
    /// Starts the container that will be known as `task`. Blocks until its process runs.
    ///
    /// # Errors
    /// When the container cannot be made.
    fn start(&self, task: &str) -> Result<StartedContainer, StartError>;
}

/// Our ends of a running container.
pub struct StartedContainer {
    /// The socket to the runner.
    pub socket: UnixStream,
    /// What the container writes to standard output.
    pub stdout: OwnedFd,
    /// What the container writes to standard error.
    pub stderr: OwnedFd,
    /// Our end of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
    /// Its processes.
    pub process: Arc<dyn ContainerProcess>,
}

/// The processes of a container.
pub trait ContainerProcess: Send + Sync {
    /// Kills all of them at once.
    fn kill(&self);
    /// Waits until they are gone, at most for `patience`; `None` when they are not.
    fn wait(&self, patience: Duration) -> Option<ContainerEnd>;
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerEnd {
    /// Its first process exited with this code.
    Exited(i32),
    /// Its first process was killed by this signal.
    Signaled(i32),
    /// Something in it was killed for want of memory.
    OutOfMemory,
    /// It was killed because the disk of the store had too little of this left.
    OutOfDisk(DiskShortage),
    /// It is gone, but nobody can say how.
    Lost(String),
}

/// Why a container did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl StartError {
    /// That a container did not start because of `error`.
    pub(crate) fn of(error: &(impl Hint + 'static)) -> Self {
        Self { message: causes(error), hint: error.hint().map(Cow::into_owned) }
    }
}
