//! Uploading what is in the outbox.

use std::collections::HashMap;

use lamina_events::CancelToken;
use lamina_image::LayerKey;
use lamina_store::Store;

use crate::CacheError;
use crate::address::Address;
use crate::outbox::{Item, Outbox};
use crate::place::{self, Place};
use crate::upload::Upload;

/// The name of the lock of whoever uploads.
const LOCK: &str = "cache-upload";

/// What was uploaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Steps whose layers a cache has now.
    pub steps: u64,
    /// Bytes that were sent for that.
    pub bytes: u64,
    /// What could not be: a sentence for each cache.
    pub failures: Vec<String>,
}

/// Uploads everything that was noted, after whoever is at it; `waiting` is called if it has to wait for that.
///
/// # Errors
/// When cancelled, or the store cannot be read. What goes wrong with a cache is part of the answer, and noted for the next command.
pub fn upload(store: &Store, cancel: &CancelToken, waiting: impl FnOnce()) -> Result<Uploaded, CacheError> {
    let _lock = store.lock(LOCK, cancel, waiting)?;
    let mut draining = Draining {
        store,
        cancel,
        outbox: Outbox::of(store),
        places: HashMap::new(),
        failures: HashMap::new(),
        uploaded: Uploaded::default(),
    };
    // Others put further ones in meanwhile.
    while draining.round()? {}
    Ok(Uploaded { failures: draining.failures.into_values().collect(), ..draining.uploaded })
}

struct Draining<'a> {
    store: &'a Store,
    cancel: &'a CancelToken,
    outbox: Outbox,
    places: HashMap<String, Box<dyn Place>>,
    /// Why a cache is left aside.
    failures: HashMap<String, String>,
    uploaded: Uploaded,
}

impl Draining<'_> {
    /// Uploads what is there; whether there may be more.
    fn round(&mut self) -> Result<bool, CacheError> {
        let items = self.outbox.items()?;
        let mut has_come_further = false;
        for (key, item) in items {
            let mut left = Vec::new();
            for cache in &item.caches {
                self.cancel.check()?;
                if !self.is_done(&key, &item, cache)? {
                    left.push(cache.clone());
                }
            }
            has_come_further |= left != item.caches;
            self.outbox.settle(&key, &item, left)?;
        }
        Ok(has_come_further)
    }

    /// Uploads the layers of a key to a cache; whether there is nothing to do for it any more.
    fn is_done(&mut self, key: &LayerKey, item: &Item, cache: &str) -> Result<bool, CacheError> {
        if self.failures.contains_key(cache) {
            return Ok(false);
        }
        let Some(step) = self.store.layer_record(key)? else { return Ok(true) };
        if !self.places.contains_key(cache) {
            // It was one when it was put in.
            let Ok(address) = cache.parse::<Address>() else { return Ok(true) };
            self.places.insert(cache.to_owned(), place::open(&address, self.cancel));
        }
        let Some(place) = self.places.get(cache) else { return Ok(true) };
        let upload = Upload { store: self.store, place: &**place, replaces: item.replaces, stop: self.cancel };
        match upload.run(&step) {
            Ok(bytes) => {
                tracing::info!(cache, %key, bytes, title = step.title, "uploaded");
                self.outbox.note_known(cache, key)?;
                self.uploaded.steps += 1;
                self.uploaded.bytes += bytes;
                Ok(true)
            }
            Err(error) => {
                self.cancel.check()?;
                let (is_passing, reason) = (error.is_passing(), error.to_string());
                let message = format!("layers were not uploaded to the cache `{cache}`: {reason}");
                tracing::warn!(cache, %key, "{message}");
                if matches!(error, CacheError::Damaged(_)) {
                    return Ok(true);
                }
                self.outbox.leave_word(cache, &message)?;
                self.failures.insert(cache.to_owned(), message);
                Ok(!is_passing)
            }
        }
    }
}
