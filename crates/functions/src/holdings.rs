//! What the inputs that containers have made take up in the engine.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lamina_wire::Payload;
use rustix::process::{Resource, getrlimit};

/// What an input counts at least, in bytes.
const LEAST: u64 = 1 << 10;

/// What the inputs that the containers of an app have made, and that have not ended, take up: memory and descriptors. The
/// memory of a large input is counted for its container only while that lives, and what was spawned outlives it: without a
/// limit, containers with little memory could have the engine hold all of the machine's.
#[derive(Debug)]
pub(crate) struct Holdings {
    memory: Holding,
    descriptors: Holding,
}

#[derive(Debug)]
struct Holding {
    held: AtomicU64,
    most: u64,
}

/// What one input takes up, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    holdings: Arc<Holdings>,
    memory: u64,
    descriptors: u64,
}

impl Default for Holdings {
    /// Half of the machine's memory and of the process's descriptors.
    fn default() -> Self {
        let machine = rustix::system::sysinfo();
        let memory = machine.totalram as u64 * u64::from(machine.mem_unit);
        Self::new(memory / 2, getrlimit(Resource::Nofile).current.map_or(u64::MAX, |most| most / 2))
    }
}

impl Holdings {
    fn new(memory: u64, descriptors: u64) -> Self {
        let holding = |most| Holding { held: AtomicU64::new(0), most };
        Self { memory: holding(memory), descriptors: holding(descriptors) }
    }

    /// Notes an input, unless all inputs together would take up too much.
    pub(crate) fn take(self: &Arc<Self>, payload: &Payload) -> Option<Held> {
        let descriptors = u64::from(matches!(payload, Payload::Memory(..)));
        let held = Held { holdings: Arc::clone(self), memory: payload.len().max(LEAST), descriptors };
        let fits = [self.memory.add(held.memory), self.descriptors.add(held.descriptors)];
        // What does not fit is given back with `held`.
        fits.into_iter().all(|fits| fits).then_some(held)
    }
}

impl fmt::Display for Holdings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [memory, descriptors] =
            [&self.memory, &self.descriptors].map(|holding| holding.held.load(Ordering::Relaxed));
        write!(formatter, "`{}` MiB and `{descriptors}` descriptors", memory >> 20)
    }
}

impl Holding {
    /// Adds to it, in any case; says whether it is not too much.
    fn add(&self, amount: u64) -> bool {
        self.held.fetch_add(amount, Ordering::Relaxed).saturating_add(amount) <= self.most
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.holdings.memory.held.fetch_sub(self.memory, Ordering::Relaxed);
        self.holdings.descriptors.held.fetch_sub(self.descriptors, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use lamina_wire::write_memory;

    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let holdings = Arc::new(Holdings::new(5 << 20, 2));
        let large = || Payload::Memory(write_memory(&vec![0; 2 << 20]).unwrap(), 2 << 20);
        let first = holdings.take(&large()).unwrap();
        let _second = holdings.take(&large()).unwrap();
        assert!(holdings.take(&large()).is_none(), "too much of both");
        assert_eq!(holdings.to_string(), "`4` MiB and `2` descriptors", "what was refused is not held");
        let small: Vec<_> = (0..1024).map(|_| holdings.take(&Payload::default()).unwrap()).collect();
        assert!(holdings.take(&Payload::default()).is_none(), "many small ones are as much");
        drop(small);
        drop(first);
        assert!(holdings.take(&large()).is_some());
    }
}
