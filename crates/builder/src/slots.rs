//! How many steps execute at a time.

use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use lamina_events::{CancelToken, Cancelled};

/// Most steps at a time, however large the machine: apt, pip and compilers use several processors each.
const MAXIMUM: usize = 16;
/// Steps for each processor: many wait for the network.
const FOR_EACH_PROCESSOR: usize = 2;
/// Memory that each step should have, in bytes: enough for a large compiler.
const MEMORY: u64 = 2 << 30;

/// Places for steps that execute, shared by all builds of a process.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    state: Mutex<State>,
    freed: Condvar,
    /// Looked at when the first step executes: a cached build has no need of it.
    machine: OnceLock<Machine>,
}

#[derive(Debug, Default)]
struct State {
    /// Places that are taken.
    taken: usize,
    /// Images of all builds that go on.
    images: usize,
}

/// What there is to share out.
#[derive(Debug)]
struct Machine {
    /// Most steps at a time.
    count: usize,
    /// Memory of all of them, in bytes.
    memory: u64,
}

/// What a build of several images has of the places, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    slots: Arc<Slots>,
    images: usize,
}

/// A place that is taken until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    memory: u64,
}

impl Machine {
    fn of_host() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = rustix::system::sysinfo();
        Self::new(processors, memory.totalram as u64 * u64::from(memory.mem_unit))
    }

    fn new(processors: usize, memory: u64) -> Self {
        // What leaves the host alive when the steps take all they can get.
        let memory = memory / 10 * 9;
        let for_memory = usize::try_from(memory / MEMORY).unwrap_or(MAXIMUM);
        Self { count: (processors * FOR_EACH_PROCESSOR).min(for_memory).clamp(1, MAXIMUM), memory }
    }
}

impl Slots {
    /// Those of this process.
    pub(crate) fn of_process() -> Arc<Self> {
        static SLOTS: LazyLock<Arc<Slots>> = LazyLock::new(Arc::default);
        Arc::clone(&SLOTS)
    }

    /// Those of a machine like this.
    #[cfg(test)]
    pub(crate) fn of(processors: usize, memory: u64) -> Arc<Self> {
        Arc::new(Self { machine: Machine::new(processors, memory).into(), ..Self::default() })
    }

    /// A share for a build of `images` images.
    pub(crate) fn share(self: &Arc<Self>, images: usize) -> Share {
        self.lock().images += images;
        Share { slots: Arc::clone(self), images }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Waits for a place.
    pub(crate) fn take(&self, cancel: &CancelToken) -> Result<Slot, Cancelled> {
        let slots = &self.slots;
        let machine = slots.machine.get_or_init(Machine::of_host);
        let waiting = Arc::clone(slots);
        // With the lock, so that nobody is between looking and waiting.
        let _guard = cancel.on_cancel(move || {
            let _state = waiting.lock();
            waiting.freed.notify_all();
        });
        let is_full = |state: &mut State| state.taken >= machine.count && !cancel.is_cancelled();
        let mut state = slots.freed.wait_while(slots.lock(), is_full).unwrap_or_else(PoisonError::into_inner);
        cancel.check()?;
        state.taken += 1;
        let at_once = state.images.clamp(1, machine.count) as u64;
        drop(state);
        Ok(Slot { slots: Arc::clone(slots), memory: machine.memory / at_once })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.slots.lock().images -= self.images;
    }
}

impl Slot {
    /// The memory of the step, in bytes. Those of builds that go on at the same time leave the host alive together.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().taken -= 1;
        // Everybody: whoever is woken alone may just have been cancelled, and the place would stay empty.
        self.slots.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_machine_is_shared_out() {
        for (images, processors, memory, count, at_once) in [
            (1, 8, 32 * GIB, 14, 1),
            (50, 2, 32 * GIB, 4, 4),
            (50, 64, 512 * GIB, 16, 16),
            (50, 8, 8 * GIB, 3, 3),
            (50, 8, GIB, 1, 1),
            (0, 1, 0, 1, 1),
        ] {
            let slots = Slots::of(processors, memory);
            let slot = slots.share(images).take(&CancelToken::new()).unwrap();
            assert_eq!(slots.machine.get().unwrap().count, count, "{processors} processors, {memory} bytes");
            assert_eq!(slot.memory(), memory / 10 * 9 / at_once, "{images} images");
        }
    }

    #[test]
    fn builds_share_the_places_and_the_memory() {
        let (slots, cancel) = (Slots::of(1, 100 * GIB), CancelToken::new());
        let first = slots.share(1);
        let alone = first.take(&cancel).unwrap();
        assert_eq!(alone.memory(), 90 * GIB);
        let second = slots.share(5);
        let beside = second.take(&cancel).unwrap();
        assert_eq!(beside.memory(), 45 * GIB);
        std::thread::scope(|scope| {
            let third = scope.spawn(|| second.take(&cancel).map(drop));
            // Of another build, and a place all the same.
            drop(alone);
            assert_eq!(third.join().unwrap(), Ok(()));
        });
        drop((beside, second));
        assert_eq!(first.take(&cancel).unwrap().memory(), 90 * GIB);
    }

    #[test]
    fn a_process_has_one_set_of_places() {
        assert!(Arc::ptr_eq(&Slots::of_process(), &Slots::of_process()));
    }

    #[test]
    fn a_place_is_waited_for_until_cancelled() {
        let (share, cancel) = (Slots::of(1, 0).share(1), CancelToken::new());
        let first = share.take(&cancel).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| share.take(&cancel).map(drop));
            drop(first);
            assert_eq!(second.join().unwrap(), Ok(()));
            let _third = share.take(&cancel).unwrap();
            let fourth = scope.spawn(|| share.take(&cancel).map(drop));
            cancel.cancel();
            assert_eq!(fourth.join().unwrap(), Err(Cancelled));
        });
    }
}
