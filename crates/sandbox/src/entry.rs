//! The engine's side of a further command in a running sandbox.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use lamina_wire::{Receiver, Sender};

use crate::client::begin;
use crate::protocol::{Go, HandOn, Report, receive, send};
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
    pidfd: OwnedFd,
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
        let (pid, pidfd, control) = self.starter().make_entrant(&self.process)?;
        let mut env = self.command.env.clone();
        env.retain(|(name, _)| !entry.variables.iter().any(|(other, _)| name == other));
        env.extend(entry.variables.iter().cloned());
        let spec = SandboxSpec {
            argv: entry.argv.clone(),
            env,
            terminal: entry.terminal.map(|size| TerminalSpec { size, is_stdio: true }),
            ..self.command.clone()
        };
        tracing::info!(pid, sandbox = self.process.pid, program = spec.argv.first(), "a further command");
        stdio.open_pipes_to_the_command();
        let mut receiver = Receiver::new(control.try_clone()?);
        let sender = Sender::new(control);
        // What it starts counts as the sandbox's own from the beginning.
        self.process.group.join(pid)?;
        begin(&sender, &spec, stdio)?;
        send(&sender, &Go { fallback: self.fallback }, &[])?;
        match receive::<Report>(&mut receiver)? {
            Some((Report::Started, fds)) => {
                let terminal = fds.into_iter().next();
                Ok(Entered { pidfd, sender, receiver: Mutex::new(receiver), terminal })
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
        self.pidfd.as_fd()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it cannot be observed.
    pub fn wait(&self) -> Result<ExitStatus, SandboxError> {
        while !wait_readable(self.pidfd.as_fd(), None::<Instant>)? {}
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
        // The end of its connection has it end the command; one that was told already has ended.
        self.sender.shutdown();
    }
}
