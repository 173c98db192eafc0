//! The user's terminal as functions get it: one at a time, on the screen where everything else is shown too.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lamina_engine::{Terminal, TerminalSize};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::{UserTerminal, relay, size};
use crate::output::{Screen, TerminalOutput};

/// The terminal that containers of an app take turns with.
#[derive(Debug)]
pub(crate) struct SharedTerminal {
    terminal: UserTerminal,
    output: TerminalOutput,
    turn: Turn,
}

impl SharedTerminal {
    /// Shares `terminal`; what containers write to it is shown on `screen`.
    pub(crate) fn open(terminal: UserTerminal, screen: &Screen) -> io::Result<Arc<dyn Terminal>> {
        Ok(Arc::new(Self { terminal, output: screen.terminal_output(), turn: Turn::new()? }))
    }
}

impl Terminal for SharedTerminal {
    fn size(&self) -> TerminalSize {
        size()
    }

    fn has_user(&self) -> bool {
        self.terminal.is_terminal()
    }

    fn connect(&self, inner: &OwnedFd, finished: &OwnedFd) -> io::Result<()> {
        let mut show = |data: &[u8]| self.output.write(data);
        match self.turn.take(finished)? {
            Some(_turn) => self.terminal.share(inner, finished, &mut show),
            // It has ended meanwhile.
            None => relay::show_rest(inner, &mut show),
        }
    }
}

/// Whose turn it is: a count, of one at most, that whoever takes it takes away.
#[derive(Debug)]
struct Turn(OwnedFd);

/// Gives the turn on when dropped.
struct Taken<'a>(&'a Turn);

impl Turn {
    fn new() -> io::Result<Self> {
        Ok(Self(eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE)?))
    }

    /// Waits for the turn; none if `finished` can be read first.
    fn take(&self, finished: &OwnedFd) -> io::Result<Option<Taken<'_>>> {
        loop {
            let mut polled = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(finished, PollFlags::IN)];
            match poll(&mut polled, None) {
                Err(Errno::INTR) => continue,
                outcome => outcome?,
            };
            let is_over = !polled[1].revents().is_empty();
            match rustix::io::read(&self.0, &mut [0; 8]) {
                Ok(_) => return Ok(Some(Taken(self))),
                Err(Errno::INTR | Errno::AGAIN) if is_over => return Ok(None),
                // Somebody else was faster.
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // A count of one always has room.
        let _ = rustix::io::write(&self.0.0, &1_u64.to_ne_bytes());
    }
}
