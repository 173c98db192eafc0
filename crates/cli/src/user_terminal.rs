//! The user's terminal while something inside an image uses it: raw, of the same size, and as before in the end.

mod relay;
mod shared;

use std::borrow::Cow;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lamina_engine::TerminalSize;
use rustix::termios::{
    OptionalActions, OutputModes, QueueSelector, Termios, isatty, tcflush, tcgetattr, tcgetwinsize, tcsetattr,
};

pub(crate) use shared::SharedTerminal;

/// The terminal on standard input, if it is one, and how it was.
#[derive(Debug, Clone)]
pub(crate) struct UserTerminal {
    original: Option<Arc<Termios>>,
    /// Whether it is raw now.
    is_raw: Arc<AtomicBool>,
}

impl UserTerminal {
    /// Remembers how the terminal is now.
    pub(crate) fn new() -> Self {
        let stdin = io::stdin();
        let original = if isatty(&stdin) { tcgetattr(&stdin).ok() } else { None };
        Self { original: original.map(Arc::new), is_raw: Arc::default() }
    }

    /// Whether it is one, at which somebody may sit.
    pub(crate) fn is_terminal(&self) -> bool {
        self.original.is_some()
    }

    /// Makes it what it was.
    pub(crate) fn restore(&self) {
        if let Some(original) = self.original.as_ref().filter(|_| self.is_raw.swap(false, Ordering::SeqCst)) {
            // At once: a terminal that takes no more output must not keep the command from ending. What was typed for
            // the program inside is not for the shell outside. A terminal that is gone needs no order.
            let _ = tcflush(io::stdin(), QueueSelector::IFlush);
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, original);
        }
    }

    /// Connects it with the `inner` terminal until that is closed by its last user, or `finished` can be read and what was
    /// written before is shown. `show` takes what is to be seen.
    pub(crate) fn connect(
        &self,
        inner: &OwnedFd,
        finished: Option<&OwnedFd>,
        show: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let _restored = Restored(self);
        self.make_raw()?;
        relay::relay(inner, finished, show)
    }

    /// As [`UserTerminal::connect`], on a screen to which others write, too.
    pub(crate) fn share(
        &self,
        inner: &OwnedFd,
        finished: &OwnedFd,
        show: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let _restored = Restored(self);
        let mut shared = self.make_raw()?.map(|(original, raw)| SharedScreen { original, raw });
        relay::relay(inner, Some(finished), &mut |data| match &mut shared {
            Some(shared) => show(&shared.translate(inner, data)?),
            None => show(data),
        })
    }

    /// Makes it raw, if it is a terminal; answers how it was and how it is. What was typed ahead stays: it is meant for
    /// whoever asks.
    fn make_raw(&self) -> io::Result<Option<(Arc<Termios>, Termios)>> {
        let Some(original) = &self.original else { return Ok(None) };
        let mut raw = (**original).clone();
        raw.make_raw();
        self.is_raw.store(true, Ordering::SeqCst);
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some((Arc::clone(original), raw)))
    }
}

/// The screen of a raw terminal to which others write. Programs that draw the whole screen need every byte as it is; as
/// long as none does, lines of all who write shall begin at the left margin.
struct SharedScreen {
    original: Arc<Termios>,
    /// How the terminal is now.
    raw: Termios,
}

impl SharedScreen {
    /// Has the terminal treat output as the one inside does, and gives what is then to be written for `data`.
    fn translate<'a>(&mut self, inner: &OwnedFd, data: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
        let has_lines = tcgetattr(inner)?.output_modes.contains(OutputModes::OPOST | OutputModes::ONLCR);
        let original = self.original.output_modes;
        let wanted = if has_lines { original } else { original - OutputModes::OPOST };
        if self.raw.output_modes != wanted {
            self.raw.output_modes = wanted;
            tcsetattr(io::stdin(), OptionalActions::Now, &self.raw)?;
        }
        Ok(if has_lines { Cow::Owned(without_returns(data)) } else { Cow::Borrowed(data) })
    }
}

/// Leaves out the carriage returns before line feeds: the terminal adds its own.
fn without_returns(data: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(data.len());
    for byte in data {
        if *byte == b'\n' && lines.last() == Some(&b'\r') {
            lines.pop();
        }
        lines.push(*byte);
    }
    lines
}

/// The size of the terminal, or a usual one.
pub(crate) fn size() -> TerminalSize {
    match tcgetwinsize(io::stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize { rows: size.ws_row, columns: size.ws_col },
        _ => TerminalSize { rows: 24, columns: 80 },
    }
}

/// Restores the terminal when dropped.
struct Restored<'a>(&'a UserTerminal);

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        self.0.restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_returns_before_line_feeds_are_left_out() {
        assert_eq!(without_returns(b"one\r\ntwo\rthree\n\r\n\r"), b"one\ntwo\rthree\n\n\r");
    }
}
