//! The user's terminal while something inside an image uses it: raw, of the same size, and as before in the end.

mod relay;
mod shared;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lamina_engine::TerminalSize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

pub(crate) use shared::SharedTerminal;

/// The terminal on standard input, if it is one, and how it was.
#[derive(Debug, Clone)]
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

    /// Connects it with the `inner` terminal until that is closed by its last user, or, if `finished` becomes readable,
    /// until what was written before is shown. `show` takes what is to be seen.
    pub(crate) fn connect(
        &self,
        inner: &OwnedFd,
        finished: Option<&OwnedFd>,
        show: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let _restored = Restored(self);
        if let Some(original) = &self.original {
            let mut raw = (**original).clone();
            raw.make_raw();
            // What was typed ahead is meant for whoever asks.
            tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        }
        relay::relay(inner, finished, show)
    }
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
