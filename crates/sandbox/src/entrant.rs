//! What starts a further command in a running sandbox: it stays outside of the namespace of process ids, where nobody
//! inside can reach it, starts the command within, hands on signals and reports the end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use lamina_system::{self as system, Disposition};
use lamina_wire::{Receiver, Sender};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process_group, set_parent_process_death_signal, waitpid,
};

use crate::failure::{During, Failure};
use crate::filter::Filters;
use crate::init::{forward, is_readable, read_begin};
use crate::launcher::NAMESPACES;
use crate::payload::{self, Payload};
use crate::protocol::{Go, HandOn, Report, receive, send};
use crate::rlimits::Files;
use crate::user::User;
use crate::{Network, SandboxError, SandboxSpec, terminal};

/// What it starts with.
pub(crate) struct Entrant<'launcher> {
    /// The connection with the engine.
    pub(crate) control: UnixStream,
    /// Pidfd of the launcher.
    pub(crate) launcher: OwnedFd,
    /// Pidfd of the sandbox's pid 1.
    pub(crate) sandbox: OwnedFd,
    pub(crate) filters: &'launcher Filters,
    pub(crate) files: Files,
}

/// Runs until the command has ended.
pub(crate) fn run(entrant: Entrant<'_>) -> ! {
    // The engine sees the connection close in any case; the status is for nobody.
    system::exit_now(i32::from(supervise(entrant).is_err()))
}

fn supervise(entrant: Entrant<'_>) -> Result<(), SandboxError> {
    let Entrant { control, launcher, sandbox, filters, files } = entrant;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if is_readable(launcher.as_fd())? {
        // The launcher died before the line above took effect.
        return Err(SandboxError::Lost);
    }
    drop(launcher);
    system::block_signals(&[libc::SIGCHLD]);
    system::set_disposition(libc::SIGCHLD, Disposition::Default);
    let signals = system::signal_descriptor(&[libc::SIGCHLD])?;
    let sender = Sender::new(control.try_clone()?);
    let mut receiver = Receiver::new(control);
    let Some(frame) = receiver.receive()? else {
        return Err(SandboxError::Lost);
    };
    let (spec, stdio) = read_begin(frame)?;
    let Some((go, _)) = receive::<Go>(&mut receiver)? else {
        return Err(SandboxError::Lost);
    };
    let started = enter(&spec, &sandbox).and_then(|(user, terminal)| {
        payload::start(Payload { spec: &spec, user, fallback: go.fallback, files, filters, stdio, terminal })
    });
    let (command, master) = match started {
        Ok(started) => started,
        Err(failure) => return send(&sender, &Report::Failed(failure), &[]),
    };
    drop((spec, sandbox));
    let terminal: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
    let told = send(&sender, &Report::Started, &terminal);
    drop(master);
    let watched = told.and_then(|()| watch(command, &signals, &mut receiver));
    let Ok(status) = watched else {
        // Nobody waits for it any more.
        let _ = kill_process_group(command, Signal::KILL);
        return Err(SandboxError::Lost);
    };
    let report = Report::Exited {
        code: status.exit_status(),
        signal: status.terminating_signal(),
        max_rss_kib: system::children_max_rss_kib(),
        created_mountpoints: Vec::new(),
    };
    send(&sender, &report, &[])
}

/// Goes where the sandbox is, and makes what the command needs there.
fn enter(spec: &SandboxSpec, sandbox: &OwnedFd) -> Result<(User, Option<terminal::Terminal>), Failure> {
    // The host's network belongs to the host, which nobody here could enter, and where everybody is already.
    let network = if spec.network == Network::Isolated { libc::CLONE_NEWNET } else { 0 };
    system::enter_namespaces(sandbox.as_fd(), NAMESPACES | network).during("enter", "the sandbox")?;
    let user = User::find(spec.user.as_deref())?;
    let terminal = spec.terminal.map(|terminal| terminal::open(terminal.size, user.uid)).transpose()?;
    Ok((user, terminal))
}

/// Waits for the command's end; hands on signals meanwhile. Fails when the engine is gone.
fn watch(command: Pid, signals: &OwnedFd, receiver: &mut Receiver) -> Result<WaitStatus, SandboxError> {
    loop {
        if let Ok(Some((_, status))) = waitpid(Some(command), WaitOptions::NOHANG) {
            return Ok(status);
        }
        let mut events = [PollFd::new(signals, PollFlags::IN), PollFd::new(receiver, PollFlags::IN)];
        match poll(&mut events, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let (told, child) = (!events[1].revents().is_empty(), !events[0].revents().is_empty());
        if child {
            while system::next_signal(signals).is_some() {}
        }
        if told {
            let Some((HandOn { signal }, _)) = receive(receiver)? else { return Err(SandboxError::Lost) };
            forward(command, signal);
        }
    }
}
