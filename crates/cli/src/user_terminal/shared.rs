//! The user's terminal as functions get it: one at a time, on the screen where everything else is shown too.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use lamina_engine::{Terminal, TerminalSize};

use super::{UserTerminal, size};
use crate::output::{RawScreen, Screen};

/// The terminal that containers of an app take turns with.
#[derive(Debug)]
pub(crate) struct SharedTerminal {
    terminal: UserTerminal,
    screen: RawScreen,
    turn: Mutex<()>,
}

impl SharedTerminal {
    /// Shares `terminal`; what containers write to it is shown on `screen`.
    pub(crate) fn open(terminal: UserTerminal, screen: &Screen) -> Arc<dyn Terminal> {
        Arc::new(Self { terminal, screen: screen.raw(), turn: Mutex::default() })
    }
}

impl Terminal for SharedTerminal {
    fn size(&self) -> TerminalSize {
        size()
    }

    fn connect(&self, inner: &OwnedFd, finished: &OwnedFd) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let lent = self.screen.lend();
        self.terminal.connect(inner, Some(finished), &mut |data| lent.write(data))
    }
}
