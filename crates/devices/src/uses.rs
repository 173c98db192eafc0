//! How many containers have each GPU.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lamina_image::GpuRequest;

use crate::{DevicesError, Inventory};

/// Counts the containers of each GPU of an inventory.
#[derive(Debug, Default, Clone)]
pub(crate) struct Uses {
    counts: Arc<Mutex<Vec<usize>>>,
}

/// The GPUs of one container, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    uses: Uses,
    pub(crate) places: Vec<usize>,
}

impl Uses {
    /// Chooses GPUs for a container.
    pub(crate) fn share(&self, inventory: &Inventory, requests: &[GpuRequest]) -> Result<Share, DevicesError> {
        let mut counts = self.counts();
        counts.resize(inventory.gpus().len(), 0);
        let places = inventory.choose(requests, &counts)?;
        for place in &places {
            counts[*place] += 1;
        }
        drop(counts);
        Ok(Share { uses: self.clone(), places })
    }

    fn counts(&self) -> MutexGuard<'_, Vec<usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.uses.counts();
        for place in &self.places {
            counts[*place] -= 1;
        }
    }
}
