//! Further commands of a running sandbox. Its pid 1 starts them: so they are inside of all that it has taken upon itself,
//! and outside of what the first command has beside that, into which they can look as debuggers do.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use lamina_wire::{Frame, Receiver, Sender};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitStatus, kill_process_group};

use crate::failure::Failure;
use crate::init::{forward, is_readable, read_spec};
use crate::payload::{self, Payload};
use crate::protocol::{Enter, HandOn, Report, receive, send};
use crate::rlimits::{Fallback, Files};
use crate::user::User;
use crate::{SandboxError, SandboxSpec, Stdio, terminal};

/// The further commands that have not been reaped.
#[derive(Default)]
pub(crate) struct FurtherCommands {
    commands: Vec<FurtherCommand>,
}

struct FurtherCommand {
    pid: Pid,
    sender: Sender,
    /// Until whoever has asked for it is gone.
    receiver: Option<Receiver>,
}

impl FurtherCommands {
    /// Starts a command, and tells whoever asks for it whether it runs.
    ///
    /// # Errors
    /// When the request is broken.
    pub(crate) fn start(&mut self, mut frame: Frame, files: Files) -> Result<(), SandboxError> {
        let Enter { begin, fallback } = serde_json::from_slice(&frame.control)?;
        if frame.fds.is_empty() {
            return Err(SandboxError::Invalid("the request has no connection".into()));
        }
        let connection = UnixStream::from(frame.fds.remove(0));
        let (spec, stdio) = read_spec(begin, frame.payload, frame.fds)?;
        // Without descriptors left the connection ends, and the sandbox goes on.
        let Ok(sender) = connection.try_clone().map(Sender::new) else { return Ok(()) };
        let told = match start(&spec, stdio, fallback, files) {
            Ok((pid, terminal)) => {
                let terminal: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                let told = send(&sender, &Report::Started, &terminal);
                self.commands.push(FurtherCommand { pid, sender, receiver: Some(Receiver::new(connection)) });
                told
            }
            Err(failure) => send(&sender, &Report::Failed(failure), &[]),
        };
        // Who does not hear it is gone, and the end of the connection says so.
        drop(told);
        Ok(())
    }

    /// What is to be watched: the connections.
    pub(crate) fn watched(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.commands.iter().filter_map(|command| command.receiver.as_ref()).map(|it| PollFd::new(it, PollFlags::IN))
    }

    /// Hands on the signals that are there, and ends commands that nobody waits for any more.
    pub(crate) fn listen(&mut self) {
        for command in &mut self.commands {
            let Some(receiver) = &mut command.receiver else { continue };
            if !is_readable(receiver.as_fd()).unwrap_or(true) {
                continue;
            }
            if let Ok(Some((HandOn { signal }, _))) = receive(receiver) {
                forward(command.pid, signal);
            } else {
                command.receiver = None;
                let _ = kill_process_group(command.pid, Signal::KILL);
            }
        }
    }

    /// Tells how a process has ended, if it is one of these.
    pub(crate) fn ended(&mut self, pid: Pid, status: WaitStatus) {
        let Some(place) = self.commands.iter().position(|command| command.pid == pid) else { return };
        let report = Report::Exited {
            code: status.exit_status(),
            signal: status.terminating_signal(),
            max_rss_kib: 0,
            created_mountpoints: Vec::new(),
        };
        // Nobody may be waiting for it.
        let _ = send(&self.commands.swap_remove(place).sender, &report, &[]);
    }
}

fn start(
    spec: &SandboxSpec,
    stdio: Stdio,
    fallback: Fallback,
    files: Files,
) -> Result<(Pid, Option<OwnedFd>), Failure> {
    let user = User::find(spec.user.as_deref())?;
    let terminal = spec.terminal.map(|terminal| terminal::open(terminal.size, user.uid)).transpose()?;
    payload::start(Payload { spec, user, fallback, files, stdio, terminal, is_first: false })
}
