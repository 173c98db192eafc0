//! The engine's side of a further command in a running sandbox.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use lamina_wire::{Receiver, Sender};

use crate::protocol::{Begin, Enter, HandOn, Report, receive, send};
use crate::wait::wait_readable;
use crate::{ExitStatus, Sandbox, SandboxError, SandboxSpec, Signal, Stdio, TerminalSize, TerminalSpec};

/// A further command for a running sandbox. It has the user, the environment and the directory of the sandbox's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The size of the terminal that its standard streams are, if they are one.
    pub terminal: Option<TerminalSize>,
    /// Variables beside those of the sandbox's command, or instead of them.
    pub variables: Vec<(String, String)>,
}

/// A further command that runs in a sandbox. Dropping it kills the command's process group.
#[derive(Debug)]
pub struct Entered {
    /// With pid 1, which tells the end.
    connection: UnixStream,
    sender: Sender,
    receiver: Mutex<Receiver>,
    terminal: Option<OwnedFd>,
}

impl Sandbox {
    /// Starts a further command; returns when it runs. It ends with the sandbox.
    ///
    /// # Errors
    /// When the sandbox has ended, or the command cannot be executed.
    pub fn enter(&self, entry: &Entry, stdio: &Stdio) -> Result<Entered, SandboxError> {
        let mut env = self.command.env.clone();
        env.retain(|(name, _)| !entry.variables.iter().any(|(other, _)| name == other));
        env.extend(entry.variables.iter().cloned());
        let spec = SandboxSpec {
            argv: entry.argv.clone(),
            env,
            terminal: entry.terminal.map(|size| TerminalSpec { size, is_stdio: true }),
            ..self.command.clone()
        };
        tracing::info!(sandbox = self.process.pid, program = spec.argv.first(), "a further command");
        stdio.open_pipes_to_the_command();
        let (connection, theirs) = UnixStream::pair()?;
        let (begin, payload) = Begin::pack(&spec);
        let message = serde_json::to_vec(&Enter { begin, fallback: self.fallback })?;
        let fds: Vec<_> = [theirs.as_fd()].into_iter().chain(stdio.descriptors()).collect();
        self.control.send(&message, &payload, &fds)?;
        drop(fds);
        drop(theirs);
        let mut receiver = Receiver::new(connection.try_clone()?);
        match receive::<Report>(&mut receiver)? {
            Some((Report::Started, fds)) => {
                let sender = Sender::new(connection.try_clone()?);
                let terminal = fds.into_iter().next();
                Ok(Entered { connection, sender, receiver: Mutex::new(receiver), terminal })
            }
            Some((Report::Failed(failure), _)) => Err(failure.into()),
            Some((Report::Exited { .. }, _)) | None => Err(SandboxError::Lost),
        }
    }
}

impl Entered {
    /// The engine's end of its terminal.
    #[must_use]
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Lets go of the engine's end of its terminal, of which somebody else has a copy.
    pub fn close_terminal(&mut self) {
        self.terminal = None;
    }

    /// Sends a signal to the process group of the command.
    pub fn signal(&self, signal: Signal) {
        // It may have ended already, which is no failure.
        let _ = send(&self.sender, &HandOn { signal: signal.kernel().as_raw() }, &[]);
    }

    /// Readable when it has ended.
    #[must_use]
    pub fn end(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it cannot be observed.
    pub fn wait(&self) -> Result<ExitStatus, SandboxError> {
        while !wait_readable(self.connection.as_fd(), None::<Instant>)? {}
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match receive::<Report>(&mut receiver) {
            Ok(Some((Report::Exited { code: Some(code), .. }, _))) => ExitStatus::Exited(code),
            Ok(Some((Report::Exited { signal: Some(signal), .. }, _))) => ExitStatus::Signaled(signal),
            // The sandbox was killed, and it with that.
            _ => ExitStatus::Signaled(libc::SIGKILL),
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // The end of the connection has pid 1 end the command; one that was told already has ended.
        self.sender.shutdown();
    }
}
