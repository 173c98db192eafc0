//! What a container writes to the user's terminal: it passes through as it is, between what others write.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use super::{Shared, patient};

/// The screen, for whoever connects the user's terminal with a container.
pub(crate) struct TerminalOutput {
    shared: Arc<Shared>,
}

impl TerminalOutput {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    /// Shows what a container wrote to its terminal.
    pub(crate) fn write(&self, data: &[u8]) -> io::Result<()> {
        let state = self.shared.lock();
        let mut stdout = patient::stdout();
        let outcome = stdout.write_all(data).and_then(|()| stdout.flush());
        self.shared.note(state, &outcome);
        outcome
    }
}

impl fmt::Debug for TerminalOutput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TerminalOutput")
    }
}
