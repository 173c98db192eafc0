//! The screen while a container has the user's terminal: what it writes passes through as it is, and what others write
//! must not run down the screen like stairs.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;

/// The screen, for whoever connects the user's terminal with a container.
pub(crate) struct RawScreen {
    shared: Arc<Shared>,
}

impl RawScreen {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    /// Lends it to a container, until the answer is dropped.
    pub(crate) fn lend(&self) -> Lent<'_> {
        self.shared.raw.store(true, Ordering::Relaxed);
        Lent(&self.shared)
    }
}

impl fmt::Debug for RawScreen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RawScreen")
    }
}

/// The screen while a container has it.
pub(crate) struct Lent<'a>(&'a Shared);

impl Lent<'_> {
    /// Shows what the container wrote to its terminal.
    pub(crate) fn write(&self, data: &[u8]) -> io::Result<()> {
        let state = self.0.lock();
        let mut stdout = io::stdout().lock();
        let outcome = stdout.write_all(data).and_then(|()| stdout.flush());
        drop(stdout);
        self.0.note(state, &outcome);
        outcome
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.0.raw.store(false, Ordering::Relaxed);
    }
}

/// Lines as a raw terminal wants them.
pub(super) fn lines(data: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(data.len() + 16);
    for byte in data {
        if *byte == b'\n' && lines.last() != Some(&b'\r') {
            lines.push(b'\r');
        }
        lines.push(*byte);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_the_left_margin() {
        assert_eq!(lines(b"one\ntwo\r\n\nthree"), b"one\r\ntwo\r\n\r\nthree");
    }
}
