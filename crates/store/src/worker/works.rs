//! Who writes into the works of steps, so that a work is removed when nobody does any more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::content::check_abandoned;
use super::disk::Result;

/// The works that somebody writes into, or that are being removed; by id.
#[derive(Debug, Default)]
pub(super) struct Works {
    in_use: Mutex<HashMap<String, State>>,
    left: Condvar,
    /// Whether nobody wants any work any more.
    are_abandoned: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// How many write into it.
    users: usize,
    is_abandoned: Arc<AtomicBool>,
}

/// A use of a work: until it is dropped, the work is not removed.
#[derive(Debug)]
pub(super) struct WorkUse {
    works: Arc<Works>,
    id: String,
    is_abandoned: Arc<AtomicBool>,
}

impl Works {
    /// Begins a use of a work.
    pub(super) fn enter(self: &Arc<Self>, id: &str) -> Result<WorkUse> {
        let mut works = self.lock();
        check_abandoned(&self.are_abandoned)?;
        let state = works.entry(id.to_owned()).or_default();
        check_abandoned(&state.is_abandoned)?;
        state.users += 1;
        let is_abandoned = Arc::clone(&state.is_abandoned);
        Ok(WorkUse { works: Arc::clone(self), id: id.to_owned(), is_abandoned })
    }

    /// Lets nobody begin a use any more, tells those that go on, and waits until they have ended.
    pub(super) fn abandon(&self, id: &str) {
        let mut works = self.lock();
        works.entry(id.to_owned()).or_default().is_abandoned.store(true, Ordering::Relaxed);
        let is_used = |works: &mut HashMap<String, State>| works.get(id).is_some_and(|state| state.users > 0);
        drop(self.left.wait_while(works, is_used).unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets nobody begin a use of any work any more, and tells those that go on.
    pub(super) fn abandon_all(&self) {
        let works = self.lock();
        self.are_abandoned.store(true, Ordering::Relaxed);
        for state in works.values() {
            state.is_abandoned.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets a work that is gone.
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Fails when nobody wants the work any more.
    pub(super) fn ensure_wanted(&self, id: &str) -> Result<()> {
        match self.lock().get(id) {
            Some(state) => check_abandoned(&state.is_abandoned),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkUse {
    /// Whether nobody wants the work any more.
    pub(super) fn is_abandoned(&self) -> &AtomicBool {
        &self.is_abandoned
    }
}

impl Drop for WorkUse {
    fn drop(&mut self) {
        let mut works = self.works.lock();
        let Some(state) = works.get_mut(&self.id) else { return };
        state.users -= 1;
        if state.users == 0 && !self.is_abandoned.load(Ordering::Relaxed) {
            works.remove(&self.id);
        }
        self.works.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_is_abandoned_when_its_last_user_has_left() {
        let works = Arc::new(Works::default());
        let (first, second) = (works.enter("a").unwrap(), works.enter("a").unwrap());
        drop(first);
        let leaving = std::thread::spawn({
            let works = Arc::clone(&works);
            move || {
                while !second.is_abandoned().load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                assert!(works.enter("a").is_err());
            }
        });
        works.abandon("a");
        assert_eq!(works.lock()["a"].users, 0);
        leaving.join().unwrap();
        works.forget("a");
        drop(works.enter("a").unwrap());
        assert!(works.lock().is_empty());
    }

    #[test]
    fn all_works_are_abandoned_at_once() {
        let works = Arc::new(Works::default());
        let used = works.enter("a").unwrap();
        works.abandon_all();
        assert!(used.is_abandoned().load(Ordering::Relaxed) && works.ensure_wanted("a").is_err());
        assert!(works.enter("b").is_err());
    }
}
