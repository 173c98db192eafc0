//! The engine's side: asking the launcher for sandboxes and waiting for them.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::{SandboxError, SandboxSpec};

/// Asks for sandboxes. Clones share the one launcher process; it ends, with all its sandboxes, when the last is dropped.
#[derive(Debug, Clone)]
pub struct Launcher {}

impl Launcher {
    /// Starts a sandbox; returns when its command runs.
    ///
    /// # Errors
    /// When the sandbox cannot be set up or the command cannot be executed.
    pub fn spawn(&self, spec: &SandboxSpec, stdio: Stdio) -> Result<Sandbox, SandboxError> {
        let _ = (spec, stdio);
        Err(SandboxError::Lost)
    }
}

/// The descriptors that the command starts with.
#[derive(Debug)]
pub struct Stdio {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
    /// Descriptor 3, if the sandbox has one.
    pub socket: Option<OwnedFd>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It returned this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

/// What is known about a sandbox after its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// How the command ended.
    pub status: ExitStatus,
    /// Whether the kernel killed a process of the sandbox because of its memory limit.
    pub out_of_memory: bool,
    /// The most memory that one process of the sandbox had resident.
    pub max_rss_bytes: u64,
    /// Files and directories made in the upper only to be mounted over.
    pub created_mountpoints: Vec<String>,
}

/// A running sandbox. Dropping it kills everything inside.
#[derive(Debug)]
pub struct Sandbox {}

impl Sandbox {
    /// The host's process id of pid 1.
    #[must_use]
    pub fn pid(&self) -> u32 {
        0
    }

    /// Sends a signal to the process group of the command.
    pub fn signal(&self, signal: i32) {
        let _ = signal;
    }

    /// Kills everything inside.
    pub fn kill(&self) {}

    /// Waits for the end: no process is left and everything is unmounted when this returns.
    ///
    /// # Errors
    /// When the sandbox cannot be observed.
    pub fn wait(&self) -> Result<Exit, SandboxError> {
        Err(SandboxError::Lost)
    }

    /// Waits for the end for at most `timeout`.
    ///
    /// # Errors
    /// As [`Sandbox::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<Exit>, SandboxError> {
        let _ = timeout;
        Err(SandboxError::Lost)
    }

    /// The engine's end of the terminal, once.
    #[must_use]
    pub fn take_terminal(&self) -> Option<OwnedFd> {
        None
    }
}
