//! The process that runs containers: it takes the connections of those who ask about them.

use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use lamina_apps::{AppListener, ContainerSockets};
use lamina_events::Stream;
use lamina_functions::{Roster, RunningContainer};
use lamina_ground::{Hint, causes};
use lamina_sandbox::{Entered, Entry, ExitStatus, Signal, Stdio};
use lamina_store::Layout;
use lamina_wire::{Receiver, Sender, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Answer, ContainerRecord, Request, encode, size, tell};

/// How often somebody who waits for a container is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Takes connections from the first container on, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reception {
    open: Arc<Mutex<Option<Open>>>,
}

#[derive(Debug)]
struct Open {
    /// What ends it when it is dropped.
    closing: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Reception {
    /// Has the containers of `roster` be reached.
    pub(crate) fn of(roster: &Arc<Roster>, layout: &Layout) -> Self {
        let open: Arc<Mutex<Option<Open>>> = Arc::default();
        let (sockets, containers, opened) = (ContainerSockets::new(layout), Arc::downgrade(roster), Arc::clone(&open));
        roster.when_used(move || {
            let mut open = opened.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(roster) = containers.upgrade().filter(|_| open.is_none()) else { return };
            // Containers run all the same where nobody can ask about them.
            match sockets.listen() {
                Ok(listener) => *open = serve(listener, sockets.clone(), roster),
                Err(error) => tracing::warn!(error = causes(&error), "containers cannot be reached by other commands"),
            }
        });
        Self { open }
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Open { closing, thread }) = open {
            drop(closing);
            // One that panicked has printed why.
            let _ = thread.join();
        }
    }
}

fn serve(listener: AppListener, sockets: ContainerSockets, roster: Arc<Roster>) -> Option<Open> {
    let (closing, closed) = mpsc::channel();
    let work = move || {
        let answer = |socket| Connection::new(socket, &roster).map(Connection::serve);
        listener.serve_during(
            |socket| drop(answer(socket)),
            || {
                // What killed processes have left goes.
                drop(sockets.connect());
                let _ = closed.recv();
            },
        );
    };
    let thread = std::thread::Builder::new().name("containers".to_owned()).spawn(work).ok()?;
    Some(Open { closing, thread })
}

/// One who asks.
struct Connection<'a> {
    roster: &'a Roster,
    socket: UnixStream,
    sender: Sender,
    receiver: Receiver,
}

impl<'a> Connection<'a> {
    fn new(socket: UnixStream, roster: &'a Roster) -> std::io::Result<Self> {
        let (sender, receiver) = (Sender::new(socket.try_clone()?), Receiver::new(socket.try_clone()?));
        Ok(Self { roster, socket, sender, receiver })
    }

    /// Answers until nothing more is asked, or who asks is gone.
    fn serve(mut self) {
        while let Ok(Some(frame)) = self.receiver.receive() {
            let answered = match serde_json::from_slice(&frame.control) {
                Ok(request) => self.answer(request, frame.fds),
                Err(error) => {
                    let message = format!("the process of the container does not understand what was asked: {error}");
                    let hint =
                        Some("both have to be of the same version of `modal`: end what was started before".into());
                    tell(&self.sender, &Answer::Failed { message, hint })
                }
            };
            if answered.is_err() {
                return;
            }
        }
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<(), WireError> {
        let gone = || Answer::failed("the container has ended");
        match request {
            Request::List => {
                let containers = self.roster.all().iter().map(|container| record(container)).collect();
                tell(&self.sender, &Answer::Containers { containers })
            }
            Request::Exec { container, argv, terminal, kind } => match self.roster.get(&container) {
                Some(container) => {
                    let variables = kind.map(|kind| ("TERM".to_owned(), kind)).into_iter().collect();
                    let entry = Entry { argv, terminal: terminal.map(size), variables };
                    self.exec(&container, &entry, fds)
                }
                None => tell(&self.sender, &gone()),
            },
            Request::Logs { container, follow } => match self.roster.get(&container) {
                Some(container) => self.logs(&container, follow),
                None => tell(&self.sender, &gone()),
            },
            Request::Stop { container, graceful } => {
                if let Some(container) = self.roster.get(&container) {
                    container.stop(graceful);
                    while !container.output().wait_for_end(LOOK) && !self.is_closed() {}
                }
                tell(&self.sender, &Answer::Done)
            }
            Request::Signal { .. } => tell(&self.sender, &Answer::failed("no command runs over this connection")),
        }
    }

    /// Runs a further command, as long as who wants it is there.
    fn exec(&mut self, container: &RunningContainer, entry: &Entry, fds: Vec<OwnedFd>) -> Result<(), WireError> {
        let mut fds = fds.into_iter();
        let (Some(stdin), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) else {
            return tell(&self.sender, &Answer::failed("the standard streams of the command are missing"));
        };
        let stdio = Stdio { stdin, stdout, stderr, socket: None };
        let mut entered = match container.enter(entry, &stdio) {
            Ok(entered) => entered,
            Err(error) => {
                let hint = error.hint().map(Cow::into_owned);
                return tell(&self.sender, &Answer::Failed { message: causes(&error), hint });
            }
        };
        // The end of its output is seen when only the command has it open.
        drop(stdio);
        let terminal: Vec<_> = entered.terminal().into_iter().collect();
        self.sender.send(&encode(&Answer::Started), &[], &terminal)?;
        entered.close_terminal();
        while !self.has_ended(&entered)? {
            match self.receiver.receive()? {
                Some(frame) => {
                    if let Ok(Request::Signal { number }) = serde_json::from_slice(&frame.control)
                        && let Ok(signal) = Signal::try_from(number)
                    {
                        entered.signal(signal);
                    }
                }
                None => return Err(WireError::Truncated),
            }
        }
        let (code, signal) = match entered.wait() {
            Ok(ExitStatus::Exited(code)) => (Some(code), None),
            Ok(ExitStatus::Signaled(signal)) => (None, Some(signal)),
            Err(error) => return tell(&self.sender, &Answer::failed(causes(&error))),
        };
        tell(&self.sender, &Answer::Exited { code, signal })
    }

    /// Waits until the command has ended, or something is said about it; whether it has ended.
    fn has_ended(&self, entered: &Entered) -> Result<bool, WireError> {
        if self.receiver.has_buffered() {
            return Ok(false);
        }
        loop {
            let end = entered.end();
            let mut polled = [PollFd::from_borrowed_fd(end, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut polled, None) {
                Ok(_) => return Ok(!polled[0].revents().is_empty()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells what a container has printed.
    fn logs(&self, container: &RunningContainer, follow: bool) -> Result<(), WireError> {
        let mut next = 0;
        loop {
            let printed = container.output().read(next, if follow { LOOK } else { Duration::ZERO });
            for piece in &printed.pieces {
                let output = Answer::Output {
                    is_error: piece.stream == Stream::Stderr,
                    time: piece.time,
                    printer: piece.printer.clone(),
                };
                self.sender.send(&encode(&output), &piece.data, &[])?;
            }
            next = printed.next;
            if !follow || printed.has_ended && printed.pieces.is_empty() {
                return tell(&self.sender, &Answer::Done);
            }
            if printed.pieces.is_empty() && self.is_closed() {
                return Err(WireError::Truncated);
            }
        }
    }

    /// Whether who asks is gone.
    fn is_closed(&self) -> bool {
        let mut polled = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::RDHUP)];
        poll(&mut polled, Some(&Timespec::default())).is_ok() && !polled[0].revents().is_empty()
    }
}

fn record(container: &RunningContainer) -> ContainerRecord {
    ContainerRecord {
        container_id: container.id.clone(),
        app_id: container.app.id.clone(),
        app_name: container.app.name.clone(),
        function: container.service.clone(),
        started: container.started,
    }
}
