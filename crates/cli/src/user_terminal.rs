//! The user's terminal while something inside an image uses it: raw, of the same size, and as before in the end.

mod relay;
mod shared;

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

    /// Connects it with the `inner` terminal until that is closed by its last user, or, if `finished` becomes readable,
    /// until what was written before is shown. `show` takes what is to be seen.
    pub(crate) fn connect(
        &self,
        inner: &OwnedFd,
        finished: Option<&OwnedFd>,
        show: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let _restored = Restored(self);
        let mut modes = self.make_raw()?;
        relay::relay(inner, finished, &mut |data| {
            if let Some(modes) = &mut modes {
                modes.follow(inner)?;
            }
            show(data)
        })
    }

    /// Makes it raw, if it is a terminal. What was typed ahead stays: it is meant for whoever asks.
    fn make_raw(&self) -> io::Result<Option<Modes>> {
        let Some(original) = &self.original else { return Ok(None) };
        let mut raw = (**original).clone();
        raw.make_raw();
        raw.output_modes = original.output_modes;
        self.is_raw.store(true, Ordering::SeqCst);
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Modes { original: original.output_modes, current: raw }))
    }
}

/// How the raw terminal treats output. Programs that draw the whole screen take every byte as it is; as long as none does,
/// lines of whoever else writes to the screen shall begin at the left margin.
struct Modes {
    original: OutputModes,
    current: Termios,
}

impl Modes {
    /// Treats output as the terminal inside does now.
    fn follow(&mut self, inner: &OwnedFd) -> io::Result<()> {
        let is_plain = !tcgetattr(inner)?.output_modes.contains(OutputModes::OPOST);
        let wanted = if is_plain { self.original - OutputModes::OPOST } else { self.original };
        if self.current.output_modes != wanted {
            self.current.output_modes = wanted;
            tcsetattr(io::stdin(), OptionalActions::Now, &self.current)?;
        }
        Ok(())
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
