//! Carrying bytes between two terminals.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use lamina_engine::TerminalSize;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};
use signal_hook::consts::SIGWINCH;

use super::size;

/// What a terminal takes for the end of input, at the beginning of a line. It is typed whenever there is room: input that
/// has ended has ended for whoever reads it, and as often as they do.
const END_OF_INPUT: [u8; 64] = [4; 64];
/// How long the last words of a container take at most to come through the kernel, if somebody inside keeps its terminal
/// open.
const QUIET: Duration = Duration::from_millis(50);
/// How long somebody inside who never stops writing is listened to after the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Carries input and output between the user's terminal and the `inner` one, and the size of the outer to the inner.
/// See [`super::UserTerminal::share`].
pub(super) fn relay(
    inner: &OwnedFd,
    finished: Option<&OwnedFd>,
    show: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    // Who writes to a program that does not read must go on reading what that writes.
    fcntl_setfl(inner, fcntl_getfl(inner)? | OFlags::NONBLOCK)?;
    let (resized, signal) = UnixStream::pair()?;
    resized.set_nonblocking(true)?;
    let registration = signal_hook::low_level::pipe::register(SIGWINCH, signal)?;
    let relay = Relay {
        inner,
        finished,
        resized: Some(resized),
        typed: Vec::new(),
        input_is_open: true,
        is_within_line: false,
        finishing: None,
    };
    let outcome = resize(inner).and_then(|()| relay.run(show));
    signal_hook::low_level::unregister(registration);
    outcome
}

/// Shows what was written to the `inner` terminal before, for somebody who has ended without ever being connected.
pub(super) fn show_rest(inner: &OwnedFd, show: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    fcntl_setfl(inner, fcntl_getfl(inner)? | OFlags::NONBLOCK)?;
    let finishing = Some(Instant::now());
    Relay {
        inner,
        finished: None,
        resized: None,
        typed: Vec::new(),
        input_is_open: false,
        is_within_line: false,
        finishing,
    }
    .run(show)
}

struct Relay<'a> {
    inner: &'a OwnedFd,
    finished: Option<&'a OwnedFd>,
    /// Readable when the user's terminal has another size.
    resized: Option<UnixStream>,
    /// What the user has typed and the program has not taken yet.
    typed: Vec<u8>,
    input_is_open: bool,
    /// Whether what was typed last is no whole line: at the end of input it counts as one, as in a pipe.
    is_within_line: bool,
    /// Since when only last words are waited for.
    finishing: Option<Instant>,
}

/// What can be done without waiting.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each tells of another descriptor")]
struct Ready {
    read: bool,
    write: bool,
    resized: bool,
    finished: bool,
    user: bool,
}

impl Relay<'_> {
    fn run(mut self, show: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = vec![0; 16 << 10];
        while let Some(ready) = self.wait()? {
            if ready.resized {
                // However many changes there were, the size now is the one that counts.
                let _ = self.resized.as_ref().map(|mut resized| resized.read(&mut buffer));
                resize(self.inner)?;
            }
            if ready.finished {
                self.finishing = Some(Instant::now());
            }
            if ready.write {
                self.hand_over()?;
            }
            if ready.read {
                match rustix::io::read(self.inner, &mut buffer) {
                    // EIO is the end of a terminal whose other side is closed.
                    Ok(0) | Err(Errno::IO) => return Ok(()),
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Ok(length) => show(&buffer[..length])?,
                    Err(error) => return Err(error.into()),
                }
            }
            if ready.user {
                self.take_typed(&mut buffer);
            }
        }
        Ok(())
    }

    /// Waits until there is something to do; nothing when all was said after the end.
    fn wait(&self) -> io::Result<Option<Ready>> {
        let stdin = io::stdin();
        let mut interest = PollFlags::IN;
        let has_input = !self.typed.is_empty() || !self.input_is_open;
        interest.set(PollFlags::OUT, has_input && self.finishing.is_none());
        let mut polled = vec![PollFd::new(self.inner, interest)];
        let mut timeout = None;
        if let Some(since) = self.finishing {
            let left = PATIENCE.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            timeout = Timespec::try_from(left.min(QUIET)).ok();
        } else {
            polled.extend(self.resized.as_ref().map(|resized| PollFd::new(resized, PollFlags::IN)));
            polled.extend(self.finished.map(|finished| PollFd::new(finished, PollFlags::IN)));
        }
        let user_at = polled.len();
        if self.finishing.is_none() && self.input_is_open && self.typed.is_empty() {
            polled.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match poll(&mut polled, timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(Some(Ready::default())),
            Ok(0) => return Ok(None),
            outcome => outcome?,
        };
        let ready = |index: usize| polled.get(index).is_some_and(|entry| !entry.revents().is_empty());
        let inner = polled[0].revents();
        Ok(Some(Ready {
            read: !(inner - PollFlags::OUT).is_empty(),
            write: inner.contains(PollFlags::OUT),
            resized: ready(1),
            finished: user_at > 2 && ready(2),
            user: ready(user_at),
        }))
    }

    /// Takes what the user has typed.
    fn take_typed(&mut self, buffer: &mut [u8]) {
        match rustix::io::read(io::stdin(), &mut *buffer) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A terminal that was hung up has nothing more to say.
            Ok(0) | Err(_) => {
                self.input_is_open = false;
                if self.is_within_line {
                    self.typed.push(b'\n');
                }
            }
            Ok(length) => {
                self.typed.extend_from_slice(&buffer[..length]);
                self.is_within_line = self.typed.last() != Some(&b'\n');
            }
        }
    }

    /// Gives the program as much of what was typed as it takes now, and then the end of input, if that was reached.
    fn hand_over(&mut self) -> io::Result<()> {
        let data = if self.typed.is_empty() { &END_OF_INPUT[..] } else { &self.typed };
        match rustix::io::write(self.inner, data) {
            Ok(written) => drop(self.typed.drain(..written.min(self.typed.len()))),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The program is gone; the end of its output will say so.
            Err(Errno::IO) => self.typed.clear(),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn resize(inner: &OwnedFd) -> io::Result<()> {
    let TerminalSize { rows, columns } = size();
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(inner, size)?)
}
