//! How many containers a pool keeps.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Slot, SlotId, State};

/// How many containers a pool keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaling {
    /// Least containers, also without any input.
    pub minimum: usize,
    /// Most containers at a time.
    pub maximum: usize,
    /// Containers more than the inputs need, as long as there are inputs.
    pub buffer: usize,
    /// How long a container waits for its next input before it goes.
    pub idle: Duration,
}

/// What a pool does at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Inputs that no container has.
    pub backlog: usize,
    /// Containers, those included that start.
    pub num_total_runners: usize,
    /// Inputs that containers run.
    pub num_running_inputs: usize,
    /// Inputs that the containers could take at once.
    pub input_headroom: usize,
}

impl State {
    /// How many containers the pool keeps.
    pub(crate) fn scaling(&self) -> Scaling {
        self.scaling
    }

    /// Has the pool keep other numbers of containers.
    pub(crate) fn scale(&mut self, scaling: Scaling) {
        self.scaling = scaling;
    }

    /// What the pool does at the moment.
    pub(crate) fn stats(&self) -> Stats {
        let running = |slot: &Slot| slot.running.len();
        Stats {
            backlog: self.waiting.len() + self.delayed.len(),
            num_total_runners: self.slots.len(),
            num_running_inputs: self.slots.values().map(running).sum(),
            input_headroom: self.alive().map(|slot| self.capacity.saturating_sub(slot.load())).sum(),
        }
    }

    /// Whether a container is wanted although no input waits that none would take.
    pub(crate) fn wants_spare(&self) -> bool {
        (self.capacity > 1 || self.scaling.buffer > 0) && self.lacks_containers()
    }

    /// Whether there are fewer containers than the inputs, the least number and the spare ones make.
    pub(super) fn lacks_containers(&self) -> bool {
        // After a start that failed, only inputs are a reason to try again.
        !self.starts_fail && self.alive().count() < self.wanted().min(self.scaling.maximum)
    }

    /// Whether a container that has nothing to do may go.
    pub(super) fn may_shrink(&self) -> bool {
        self.alive().count() > self.wanted()
    }

    fn wanted(&self) -> usize {
        let inputs = self.waiting.len() + self.alive().map(Slot::load).sum::<usize>();
        let buffer = if inputs > 0 { self.scaling.buffer } else { 0 };
        (inputs.div_ceil(self.target) + buffer).max(self.scaling.minimum)
    }

    fn alive(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().filter(|slot| !slot.is_last && (slot.is_serving() || slot.is_starting()))
    }

    /// The container for an input: the one that had one last (its caches are the warmest) of those that have fewer than
    /// they aim at; if there are none, the one that has the fewest.
    pub(super) fn best_slot(&self) -> Option<SlotId> {
        let with_room = self.slots.iter().filter(|(_, slot)| slot.has_room(self.capacity) && slot.link.is_some());
        let rank = |slot: &Slot| {
            let is_below = slot.load() < self.target;
            (is_below, if is_below { 0 } else { self.capacity - slot.load() }, slot.since)
        };
        with_room.max_by_key(|(_, slot)| rank(slot)).map(|(id, _)| *id)
    }
}
