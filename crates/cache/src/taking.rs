//! Whether a cache takes what is brought, asked while layers are made: whoever has made them is told, and not the next command.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::CacheError;
use crate::place::Place;
use crate::pulse::BUDGET;

/// The question, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Taking(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    NotAsked,
    /// Since when.
    Asked(Instant, mpsc::Receiver<Result<(), CacheError>>),
    /// It takes something, or nobody can tell.
    Open,
    /// It takes nothing; why, until that is told.
    Closed(Option<CacheError>),
}

impl Taking {
    /// Asks, unless that was done.
    pub(crate) fn ask(&self, place: &Arc<dyn Place>) {
        let mut state = self.state();
        if !matches!(*state, State::NotAsked) {
            return;
        }
        let (sender, answer) = mpsc::channel();
        let place = Arc::clone(place);
        let asking = std::thread::Builder::new().name("cache".to_owned()).spawn(move || {
            // Nobody may be waiting for it any longer.
            let _ = sender.send(place.check_taking());
        });
        *state = if asking.is_ok() { State::Asked(Instant::now(), answer) } else { State::Open };
    }

    /// Whether it is known to take something.
    pub(crate) fn is_open(&self) -> bool {
        matches!(*self.state().wait(Duration::ZERO), State::Open)
    }

    /// Whether it is known to take nothing.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.state().wait(Duration::ZERO), State::Closed(_))
    }

    /// Waits for the answer, until two seconds after the question; the refusal is answered once. What may pass is no refusal: the upload
    /// is tried then, and says what becomes of it.
    pub(crate) fn refusal(&self) -> Option<CacheError> {
        match self.state().wait(BUDGET) {
            State::Closed(refusal) => refusal.take(),
            _ => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Waits for the answer, until so long after the question; it may come later only where nobody waits.
    fn wait(&mut self, patience: Duration) -> &mut Self {
        let Self::Asked(since, answer) = &*self else { return self };
        match answer.recv_timeout(patience.saturating_sub(since.elapsed())) {
            Err(mpsc::RecvTimeoutError::Timeout) if patience.is_zero() => {}
            Ok(Err(error)) if !error.is_passing() => *self = Self::Closed(Some(error)),
            _ => *self = Self::Open,
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::directory::Directory;

    #[test]
    fn who_takes_nothing_says_so_once() {
        let parent = tempfile::tempdir().unwrap();
        let open: Arc<dyn Place> = Arc::new(Directory::new(parent.path(), false));
        let taking = Taking::default();
        assert!(taking.refusal().is_none(), "nobody was asked");
        taking.ask(&open);
        assert!(taking.refusal().is_none() && !taking.is_closed() && taking.is_open());
        // A place where nobody can write, the superuser neither.
        let closed: Arc<dyn Place> = Arc::new(Directory::new("/proc/self".as_ref(), false));
        fs_err::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let taking = Taking::default();
        taking.ask(&closed);
        let refusal = taking.refusal().unwrap();
        assert!(matches!(&refusal, CacheError::Denied(reason) if reason.contains("`/proc/self`")), "{refusal:?}");
        assert!(taking.is_closed() && taking.refusal().is_none());
        taking.ask(&closed);
        assert!(taking.refusal().is_none(), "asked once");
    }
}
