//! Cancelling work.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// The work was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("cancelled")
    }
}

impl std::error::Error for Cancelled {}

type Action = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    cancelled: bool,
    next: u64,
    actions: HashMap<u64, Action>,
}

/// Says whether work should stop. Clones share one state; once cancelled it stays so.
#[derive(Clone, Default)]
pub struct CancelToken {
    state: Arc<Mutex<State>>,
}

impl CancelToken {
    /// A token that is not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels, and runs the actions that wait for it, in this thread.
    pub fn cancel(&self) {
        let actions = {
            let mut state = self.lock();
            state.cancelled = true;
            std::mem::take(&mut state.actions)
        };
        for action in actions.into_values() {
            action();
        }
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// An error once cancelled, for use with `?`.
    ///
    /// # Errors
    /// [`Cancelled`] once cancelled.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// A reader that fails at the next read once cancelled.
    pub fn watch<R: Read>(&self, reader: R) -> Watched<R> {
        Watched { reader, token: self.clone() }
    }

    /// Runs `action` when cancelled (at once if it already is), unless the guard was dropped before.
    #[must_use = "dropping the guard takes the action back"]
    pub fn on_cancel(&self, action: impl FnOnce() + Send + 'static) -> CancelGuard {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        if state.cancelled {
            drop(state);
            action();
        } else {
            state.actions.insert(id, Box::new(action));
        }
        CancelGuard { token: self.clone(), id }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

/// See [`CancelToken::watch`].
#[derive(Debug)]
pub struct Watched<R> {
    reader: R,
    token: CancelToken,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Not `Interrupted`, which readers take for a reason to try again.
        self.token.check().map_err(io::Error::other)?;
        self.reader.read(buffer)
    }
}

/// Keeps an action of [`CancelToken::on_cancel`] registered.
#[derive(Debug)]
pub struct CancelGuard {
    token: CancelToken,
    id: u64,
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.token.lock().actions.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn reading_ends_when_cancelled() {
        let token = CancelToken::new();
        let mut reader = token.watch(io::repeat(1));
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 8);
        token.cancel();
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn actions_run_once_and_only_while_registered() {
        let token = CancelToken::new();
        let count = Arc::new(AtomicUsize::new(0));
        let add = |count: &Arc<AtomicUsize>| {
            let count = Arc::clone(count);
            move || {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        let kept = token.on_cancel(add(&count));
        drop(token.on_cancel(add(&count)));
        assert_eq!(token.check(), Ok(()));
        token.cancel();
        token.cancel();
        let late = token.on_cancel(add(&count));
        assert_eq!(count.load(Ordering::SeqCst), 2);
        assert_eq!(token.check(), Err(Cancelled));
        drop((kept, late));
    }
}
