//! Inputs that run together.

use std::time::{Duration, Instant};

use super::{Dispatch, SlotId, State};

/// How many inputs run together, and how long the first of them waits for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Most inputs.
    pub size: usize,
    /// How long the first one waits.
    pub wait: Duration,
}

impl State {
    /// Gives the container a batch, if it has nothing to do and a batch is full or has waited long enough.
    pub(super) fn next_batch(&mut self, id: SlotId, batching: Batching) -> Vec<Dispatch> {
        let is_free = self.slots.get(&id).is_some_and(|slot| slot.is_serving() && slot.load() == 0);
        let is_due = self.batch_due(batching).is_some_and(|due| due <= Instant::now());
        if !is_free || !(is_due || self.waiting.len() >= batching.size) {
            return Vec::new();
        }
        let mut batch: Vec<Dispatch> = Vec::new();
        while batch.len() < batching.size
            && let Some(input) = self.waiting.pop_front()
        {
            batch.extend(self.give(id, input));
        }
        let count = batch.len();
        if let Some(first) = batch.first_mut() {
            first.batch = Some(count);
        }
        batch
    }

    /// Gives batches that are due to containers that have nothing to do.
    pub(super) fn place_batches(&mut self, batching: Batching) -> Vec<Dispatch> {
        let slots: Vec<SlotId> = self.slots.keys().copied().collect();
        slots.into_iter().flat_map(|id| self.next_batch(id, batching)).collect()
    }

    /// When the inputs that wait have waited long enough.
    fn batch_due(&self, batching: Batching) -> Option<Instant> {
        self.waiting.front().map(|input| input.queued + batching.wait)
    }

    /// When a batch is to be given to a container that has nothing to do.
    pub(super) fn next_batch_due(&self) -> Option<Instant> {
        let due = self.batch_due(self.batching?)?;
        self.slots.values().any(|slot| slot.is_serving() && slot.load() == 0).then_some(due)
    }
}
