//! The user's terminal while a shell inside an image uses it: raw, of the same size, and as before in the end.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use lamina_engine::TerminalSize;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use signal_hook::consts::SIGWINCH;

/// What a terminal takes for the end of input.
const END_OF_INPUT: [u8; 1] = [4];

/// The terminal on standard input, if it is one, and how it was.
#[derive(Clone)]
pub(crate) struct UserTerminal {
    original: Option<Arc<Termios>>,
}

impl UserTerminal {
    /// Remembers how the terminal is now.
    pub(crate) fn new() -> Self {
        let stdin = io::stdin();
        let original = if isatty(&stdin) { tcgetattr(&stdin).ok() } else { None };
        Self { original: original.map(Arc::new) }
    }

    /// Makes it what it was.
    pub(crate) fn restore(&self) {
        if let Some(original) = &self.original {
            // A terminal that is gone needs no order.
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, original);
        }
    }

    /// Connects it with the `inner` terminal until that is closed by its last user.
    pub(crate) fn connect(&self, inner: &OwnedFd) -> io::Result<()> {
        let _restored = Restored(self);
        if let Some(original) = &self.original {
            let mut raw = (**original).clone();
            raw.make_raw();
            tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        }
        let (resized, signal) = UnixStream::pair()?;
        resized.set_nonblocking(true)?;
        let registration = signal_hook::low_level::pipe::register(SIGWINCH, signal)?;
        let outcome = relay(inner, resized);
        signal_hook::low_level::unregister(registration);
        outcome
    }
}

/// The size of the terminal, or a usual one.
pub(crate) fn size() -> TerminalSize {
    match tcgetwinsize(io::stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize { rows: size.ws_row, columns: size.ws_col },
        _ => TerminalSize { rows: 24, columns: 80 },
    }
}

/// Carries input and output between the two terminals, and the size of the outer to the inner.
fn relay(inner: &OwnedFd, mut resized: UnixStream) -> io::Result<()> {
    let stdin = io::stdin();
    let mut input_is_open = true;
    let mut buffer = [0; 16 << 10];
    loop {
        let (from_inner, from_signal, from_user) = {
            let mut polled = vec![PollFd::new(inner, PollFlags::IN), PollFd::new(&resized, PollFlags::IN)];
            if input_is_open {
                polled.push(PollFd::new(&stdin, PollFlags::IN));
            }
            match poll(&mut polled, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let ready = |index: usize| polled.get(index).is_some_and(|entry| !entry.revents().is_empty());
            (ready(0), ready(1), ready(2))
        };
        if from_signal {
            // However many changes there were, the size now is the one that counts.
            let _ = resized.read(&mut buffer);
            resize(inner)?;
        }
        if from_inner {
            match rustix::io::read(inner, &mut buffer) {
                // EIO is the end of a terminal whose other side is closed.
                Ok(0) | Err(Errno::IO) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Ok(length) => show(&buffer[..length])?,
                Err(error) => return Err(error.into()),
            }
        }
        if from_user {
            let length = match rustix::io::read(&stdin, &mut buffer) {
                Err(Errno::INTR | Errno::AGAIN) => continue,
                // A terminal that was hung up has nothing more to say.
                outcome => outcome.unwrap_or(0),
            };
            input_is_open = length > 0;
            type_into(inner, if input_is_open { &buffer[..length] } else { &END_OF_INPUT })?;
        }
    }
}

fn resize(inner: &OwnedFd) -> io::Result<()> {
    let TerminalSize { rows, columns } = size();
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(inner, size)?)
}

/// Restores the terminal when dropped.
struct Restored<'a>(&'a UserTerminal);

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        self.0.restore();
    }
}

fn show(data: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(data)?;
    stdout.flush()
}

fn type_into(inner: impl AsFd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match rustix::io::write(&inner, data) {
            Ok(written) => data = &data[written..],
            Err(Errno::INTR) => {}
            // The command is gone; the end of its output will say so.
            Err(Errno::IO) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
