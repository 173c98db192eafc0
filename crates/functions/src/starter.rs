//! What a pool needs from whatever makes containers.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use lamina_devices::DevicesError;
use lamina_ground::{Hint, causes};
use lamina_sandbox::{DiskShortage, Entered, Entry, SandboxError, Stdio};
use lamina_store::StoreError;

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
    /// Has the runner look at what it was sent, although it runs an input.
    fn nudge(&self) {}
    /// Starts a further command among them.
    ///
    /// # Errors
    /// When they have ended, or the command cannot be executed.
    fn enter(&self, _entry: &Entry, _stdio: &Stdio) -> Result<Entered, SandboxError> {
        Err(SandboxError::Lost)
    }
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
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartError {
    /// Its sandbox was not made.
    #[error("{}", causes(&**_0))]
    Sandbox(Arc<SandboxError>),
    /// Its GPUs cannot be had.
    #[error("{}", causes(&**_0))]
    Devices(Arc<DevicesError>),
    /// The store gave it no place for its changes.
    #[error("{}", causes(&**_0))]
    Store(Arc<StoreError>),
    /// The engine's own end of it was not made.
    #[error("{what}: {}", causes(&**error))]
    Engine {
        /// What was not made.
        what: &'static str,
        /// Why.
        error: Arc<std::io::Error>,
    },
}

impl StartError {
    /// An adapter for `map_err` that says what the engine could not make for it.
    pub(crate) fn engine(what: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::Engine { what, error: Arc::new(error) }
    }
}

impl Hint for StartError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Sandbox(error) => match **error {
                SandboxError::CommandNotFound { ref command, .. } if is_python(command) => Some(Cow::Borrowed(
                    "functions need a Python interpreter in their image: `add_python=\"3.12\"` of `Image.from_registry` and \
                     `Image.from_dockerfile` adds one",
                )),
                SandboxError::CommandNotFound { .. } => {
                    Some(Cow::Borrowed("it is the image's entrypoint: `.entrypoint([])` takes it away"))
                }
                SandboxError::WorkingDirectory { .. } => {
                    Some(Cow::Borrowed("make the directory in a step of the image"))
                }
                _ => error.hint(),
            },
            Self::Devices(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Engine { error, .. } => error.hint(),
        }
    }
}

/// Whether a command is what runs functions, and not an entrypoint.
fn is_python(command: &str) -> bool {
    command.rsplit('/').next().is_some_and(|name| name.starts_with("python"))
}

impl From<SandboxError> for StartError {
    fn from(error: SandboxError) -> Self {
        Self::Sandbox(Arc::new(error))
    }
}

impl From<DevicesError> for StartError {
    fn from(error: DevicesError) -> Self {
        Self::Devices(Arc::new(error))
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}
