//! Looks at views. Each view that a process uses is looked at once; the process goes on meanwhile, and asks for the answers
//! before anything runs on these views.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lamina_image::Digest;

use super::Store;
use super::client::Pending;
use crate::StoreError;
use crate::protocol::Request;

/// The views that a process has looked at.
#[derive(Debug, Default)]
pub(super) struct Looks {
    state: Mutex<State>,
    /// Held by whoever waits for answers: others wait for the same ones.
    confirming: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Begun before anybody wanted the view. What becomes of them matters only for views that are used.
    ahead: HashMap<Digest, Pending>,
    /// Whose answers are on the way.
    begun: HashMap<Digest, Pending>,
    right: HashSet<Digest>,
    /// Damaged beyond what the store itself can mend: looked at anew each time, because somebody may make them again.
    damaged: HashSet<Digest>,
    /// How many views were found damaged.
    found_damaged: usize,
}

impl Store {
    /// Whether a layer can be used, after its view was made again if need be. The first use in a process begins a look at the
    /// view, whose outcome [`Store::confirm`] tells.
    pub(super) fn is_usable(&self, layer: &Digest) -> Result<bool, StoreError> {
        if !self.has_view(layer) {
            return self.restore_view(layer);
        }
        let mut looks = self.looks();
        if looks.right.contains(layer) || looks.begun.contains_key(layer) {
            return Ok(true);
        }
        if !looks.damaged.contains(layer) {
            let look = match looks.ahead.remove(layer) {
                Some(look) => look,
                None => self.begin_look(layer)?,
            };
            looks.begun.insert(*layer, look);
            return Ok(true);
        }
        drop(looks);
        let is_right = self.look(layer)?;
        self.settle(*layer, is_right);
        Ok(is_right)
    }

    /// Begins to look at the views of the image that was used last, which most likely is used again: while the user's
    /// program is read there is nothing else to do.
    ///
    /// # Errors
    /// When the index cannot be read or the store worker is gone.
    pub fn look_ahead(&self) -> Result<(), StoreError> {
        let layers = self.shared.index.newest_image()?.map(|image| image.layers).unwrap_or_default();
        for layer in layers.bottom_up().iter().filter(|layer| self.has_view(layer)) {
            let look = self.begin_look(layer)?;
            self.looks().ahead.insert(*layer, look);
        }
        Ok(())
    }

    /// Waits for the looks at the views that this process has found so far, and makes damaged ones again. False when one of
    /// them cannot be made again from what the store has: it is not usable then, and is not found any more.
    ///
    /// # Errors
    /// When the store worker fails.
    pub fn confirm(&self) -> Result<bool, StoreError> {
        let _alone = self.shared.looks.confirming.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all_right = true;
        loop {
            let begun = std::mem::take(&mut self.looks().begun);
            if begun.is_empty() {
                return Ok(all_right);
            }
            for (layer, look) in begun {
                let is_right = look.wait()? || self.mend(&layer)?;
                self.settle(layer, is_right);
                all_right &= is_right;
            }
        }
    }

    /// As [`Store::confirm`], but mends nothing: false when one of the views is damaged, for what has begun to use them
    /// already and has to begin again.
    ///
    /// # Errors
    /// As [`Store::confirm`].
    pub fn is_intact(&self) -> Result<bool, StoreError> {
        let _alone = self.shared.looks.confirming.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = std::mem::take(&mut self.looks().begun);
        let mut all_right = true;
        for (layer, look) in begun {
            if look.wait()? {
                self.settle(layer, true);
            } else {
                // Whoever confirms next is to hear of it.
                let again = self.begin_look(&layer)?;
                self.looks().begun.insert(layer, again);
                all_right = false;
            }
        }
        Ok(all_right)
    }

    /// How many views this process has found that were damaged and could not be made again: where the number has risen,
    /// what was found meanwhile has to be found anew.
    #[must_use]
    pub fn found_damaged(&self) -> usize {
        self.looks().found_damaged
    }

    /// Whether one of these layers is known to be damaged.
    pub(super) fn any_damaged(&self, layers: &[Digest]) -> bool {
        let looks = self.looks();
        layers.iter().any(|layer| looks.damaged.contains(layer))
    }

    fn begin_look(&self, layer: &Digest) -> Result<Pending, StoreError> {
        self.shared.client.begin(Request::Look { digest: *layer }, &[], &[])
    }

    fn look(&self, layer: &Digest) -> Result<bool, StoreError> {
        self.shared.client.call(Request::Look { digest: *layer })
    }

    /// Makes a damaged view again. Only one process does: another one may use the new view at once.
    fn mend(&self, layer: &Digest) -> Result<bool, StoreError> {
        let _alone = self.lock(&format!("view-{layer}"), &self.cancel, || ())?;
        Ok(self.look(layer)? || self.restore_view(layer)?)
    }

    fn settle(&self, layer: Digest, is_right: bool) {
        let mut looks = self.looks();
        if is_right {
            looks.damaged.remove(&layer);
            looks.right.insert(layer);
        } else if looks.damaged.insert(layer) {
            looks.found_damaged += 1;
        }
    }

    fn looks(&self) -> MutexGuard<'_, State> {
        self.shared.looks.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
