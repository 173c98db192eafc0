//! Several requests at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use lamina_events::CancelToken;

use crate::CacheError;

/// Does something with each number below `count`, `at_once` of them at a time; answers what comes of it, in their order. The first
/// failure ends it.
pub(crate) fn each<T: Send>(
    at_once: usize,
    stop: &CancelToken,
    count: usize,
    action: impl Fn(usize) -> Result<T, CacheError> + Sync,
) -> Result<Vec<T>, CacheError> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<T>>> = Mutex::new((0..count).map(|_| None).collect());
    let failure: Mutex<Option<CacheError>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(count) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    match stop.check().map_err(CacheError::from).and_then(|()| action(index)) {
                        Ok(result) => results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result),
                        Err(error) => {
                            next.store(count, Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            return;
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()),
    }
}
