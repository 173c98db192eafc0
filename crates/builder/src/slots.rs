//! How many steps execute at a time.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use lamina_events::{CancelToken, Cancelled};

/// Most steps at a time, however large the machine: apt, pip and compilers use several processors each.
const MAXIMUM: usize = 16;
/// Steps for each processor: many wait for the network.
const FOR_EACH_PROCESSOR: usize = 2;
/// Memory that each step should have, in bytes: enough for a large compiler.
const MEMORY: u64 = 2 << 30;

/// Places for steps that execute.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    shared: Arc<(Mutex<usize>, Condvar)>,
    count: usize,
    memory: u64,
}

/// A place that is taken until it is dropped.
pub(crate) struct Slot(Arc<(Mutex<usize>, Condvar)>);

impl Slots {
    /// The places of a build of `images` images on this machine.
    pub(crate) fn of_machine(images: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = rustix::system::sysinfo();
        let total = memory.totalram as u64 * u64::from(memory.mem_unit);
        Self::new(images, processors, total)
    }

    fn new(images: usize, processors: usize, memory: u64) -> Self {
        // What leaves the host alive when the steps take all they can get.
        let usable = memory / 10 * 9;
        let for_memory = usize::try_from(usable / MEMORY).unwrap_or(MAXIMUM);
        let count = images.min(processors * FOR_EACH_PROCESSOR).min(for_memory).clamp(1, MAXIMUM);
        Self { shared: Arc::default(), count, memory: usable / count as u64 }
    }

    /// The memory of each step, in bytes; together they leave the host alive.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Waits for a place.
    pub(crate) fn take(&self, cancel: &CancelToken) -> Result<Slot, Cancelled> {
        let shared = Arc::clone(&self.shared);
        // With the lock, so that nobody is between looking and waiting.
        let _guard = cancel.on_cancel(move || {
            let _taken = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            shared.1.notify_all();
        });
        let mut taken = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken >= self.count && !cancel.is_cancelled() {
            taken = self.shared.1.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        cancel.check()?;
        *taken += 1;
        drop(taken);
        Ok(Slot(Arc::clone(&self.shared)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let (taken, freed) = &*self.0;
        *taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_machine_is_shared_out() {
        for (images, processors, memory, count) in [
            (1, 8, 32 * GIB, 1),
            (50, 2, 32 * GIB, 4),
            (50, 64, 512 * GIB, 16),
            (50, 8, 8 * GIB, 3),
            (50, 8, GIB, 1),
            (0, 1, 0, 1),
        ] {
            let slots = Slots::new(images, processors, memory);
            assert_eq!(slots.count, count, "{images} images, {processors} processors, {memory} bytes");
            assert!(slots.memory() * count as u64 <= memory / 10 * 9);
        }
    }

    #[test]
    fn a_place_is_waited_for_until_cancelled() {
        let (slots, cancel) = (Slots::new(1, 1, 0), CancelToken::new());
        let first = slots.take(&cancel).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| slots.take(&cancel).map(drop));
            drop(first);
            assert_eq!(second.join().unwrap(), Ok(()));
            let _third = slots.take(&cancel).unwrap();
            let fourth = scope.spawn(|| slots.take(&cancel).map(drop));
            cancel.cancel();
            assert_eq!(fourth.join().unwrap(), Err(Cancelled));
        });
    }
}
