//! Pid 1 of a sandbox: sets it up, starts the command, reaps, forwards signals, reports, and ends everything.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use lamina_system::{self as system, Disposition};
use lamina_wire::{Frame, Payload as WirePayload, Receiver, Sender};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process_group, set_parent_process_death_signal, wait,
};
use rustix::thread::UnshareFlags;

use crate::failure::{During, Failure};
use crate::filter::Filters;
use crate::further::FurtherCommands;
use crate::mounts::{self, Mounted};
use crate::payload::{self, Payload};
use crate::protocol::{Begin, Go, Report, receive, send};
use crate::rlimits::Files;
use crate::user::User;
use crate::{Network, SandboxError, SandboxSpec, Stdio, capabilities, terminal};

/// What pid 1 starts with.
pub(crate) struct Init<'launcher> {
    /// The connection with the engine.
    pub(crate) control: UnixStream,
    /// Pidfd of the launcher.
    pub(crate) launcher: OwnedFd,
    pub(crate) filters: &'launcher Filters,
    pub(crate) files: Files,
}

/// Runs as pid 1.
pub(crate) fn run(init: Init<'_>) -> ! {
    // The engine sees the connection close in any case; the status is for nobody.
    system::exit_now(i32::from(supervise(init).is_err()))
}

fn supervise(init: Init<'_>) -> Result<(), SandboxError> {
    let Init { control, launcher, filters, files } = init;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if is_readable(launcher.as_fd())? {
        // The launcher died before the line above took effect.
        return Err(SandboxError::Lost);
    }
    drop(launcher);
    let watched: Vec<i32> =
        crate::Signal::ALL.iter().map(|signal| signal.kernel().as_raw()).chain([libc::SIGCHLD]).collect();
    system::block_signals(&watched);
    system::set_disposition(libc::SIGCHLD, Disposition::Default);
    let signals = system::signal_descriptor(&watched)?;
    let sender = Sender::new(control.try_clone()?);
    let mut receiver = Receiver::new(control);

    // A pid 1 that was made ahead of time waits here, and may never be needed.
    let Some(frame) = receiver.receive()? else {
        return Err(SandboxError::Lost);
    };
    let (spec, stdio) = read_begin(frame)?;
    let prepared = prepare(&spec);
    let Some((go, _)) = receive::<Go>(&mut receiver)? else {
        return Err(SandboxError::Lost);
    };
    let started = prepared.and_then(|prepared| {
        let Prepared { mounted, user, terminal } = prepared;
        payload::bound(&spec, filters)?;
        let payload = Payload { spec: &spec, user, fallback: go.fallback, files, stdio, terminal, is_first: true };
        let (command, master) = payload::start(payload)?;
        Ok((mounted, command, master))
    });
    let (mounted, command, master) = match started {
        Ok(started) => started,
        Err(failure) => return send(&sender, &Report::Failed(failure), &[]),
    };
    let terminal: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
    if let Err(error) = send(&sender, &Report::Started, &terminal) {
        // Without its terminal the command is of no use; it ends with this process.
        return send(&sender, &Report::Failed(Failure::setup("hand over", "the terminal", error.errno())), &[]);
    }
    drop(master);
    drop(spec);
    capabilities::limit_init().map_err(SandboxError::from)?;

    let status = watch(command, &signals, &mut receiver, files)?;
    end_all();
    let report = Report::Exited {
        code: status.exit_status(),
        signal: status.terminating_signal(),
        max_rss_kib: system::children_max_rss_kib(),
        created_mountpoints: mounted.created,
    };
    send(&sender, &report, &[])
}

/// What to become, and the descriptors of the command.
fn read_begin(frame: Frame) -> Result<(SandboxSpec, Stdio), SandboxError> {
    read_spec(serde_json::from_slice(&frame.control)?, frame.payload, frame.fds)
}

/// The same, of the parts of a message.
pub(crate) fn read_spec(
    begin: Begin,
    payload: WirePayload,
    fds: Vec<OwnedFd>,
) -> Result<(SandboxSpec, Stdio), SandboxError> {
    let payload = payload.into_bytes()?;
    let invalid = || SandboxError::Invalid("the request is incomplete".into());
    let spec = begin.unpack(&payload).ok_or_else(invalid)?;
    let mut fds = fds.into_iter();
    let mut next = || -> Result<OwnedFd, SandboxError> { fds.next().ok_or_else(invalid) };
    let stdio = Stdio { stdin: next()?, stdout: next()?, stderr: next()?, socket: fds.next() };
    Ok((spec, stdio))
}

/// A sandbox that is ready for its command.
struct Prepared {
    mounted: Mounted,
    user: User,
    terminal: Option<terminal::Terminal>,
}

/// Makes everything around the command.
fn prepare(spec: &SandboxSpec) -> Result<Prepared, Failure> {
    rustix::system::sethostname(spec.hostname.as_bytes()).during("set the host name", &spec.hostname)?;
    if spec.network == Network::Isolated {
        system::unshare(UnshareFlags::NEWNET).during("make", "a network namespace")?;
        system::raise_loopback().during("raise the interface", "lo")?;
    }
    let mounted = mounts::build(spec)?;
    let user = User::find(spec.user.as_deref())?;
    let terminal = spec.terminal.map(|terminal| terminal::open_console(terminal.size, user.uid)).transpose()?;
    Ok(Prepared { mounted, user, terminal })
}

/// Waits for the command's end; forwards signals, reaps orphans and starts further commands meanwhile.
fn watch(command: Pid, signals: &OwnedFd, engine: &mut Receiver, files: Files) -> Result<WaitStatus, SandboxError> {
    let mut further = FurtherCommands::default();
    loop {
        let mut events = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(engine, PollFlags::IN)];
        events.extend(further.watched());
        match poll(&mut events, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_told = !events[1].revents().is_empty();
        drop(events);
        if is_told {
            further.start(engine.receive()?.ok_or(SandboxError::Lost)?, files)?;
        }
        further.listen();
        while let Some(number) = system::next_signal(signals) {
            if number != libc::SIGCHLD {
                forward(command, number);
            }
        }
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == command {
                return Ok(status);
            }
            further.ended(pid, status);
        }
    }
}

/// Sends a signal to the command's process group, which may be gone already.
pub(crate) fn forward(command: Pid, number: i32) {
    if let Some(signal) = Signal::from_named_raw(number) {
        let _ = kill_process_group(command, signal);
    }
}

/// Kills every process of the sandbox but this one, and reaps them all.
fn end_all() {
    // As pid 1, "all processes" are those of the sandbox. There may be none.
    let _ = system::kill_all();
    while wait(WaitOptions::empty()).is_ok() {}
}

/// Whether something can be read at once.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut events = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    Ok(poll(&mut events, Some(&Timespec::default()))? > 0)
}
