//! Uploading what is in the outbox.

use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use lamina_events::CancelToken;
use lamina_image::LayerKey;
use lamina_store::Store;

use crate::CacheError;
use crate::address::Address;
use crate::made::MadePacks;
use crate::outbox::{Item, Outbox};
use crate::place::{self, Place};
use crate::pulse::Pulse;
use crate::upload::Upload;

/// The name of the lock of whoever uploads.
const LOCK: &str = "cache-upload";

/// How long a cache may take to answer.
const LONGEST_SILENCE: Duration = Duration::from_secs(15);

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
        made: MadePacks::read(Outbox::of(store).directory()),
        places: HashMap::new(),
        failures: HashMap::new(),
        uploaded: Uploaded::default(),
    };
    // Others put further ones in meanwhile.
    while draining.round()? {}
    Ok(Uploaded { failures: draining.failures.into_values().collect(), ..draining.uploaded })
}

/// Makes sure that a cache is not silent: whoever waits for an upload is not to wait for all attempts that files are worth.
fn answers(place: &Arc<dyn Place>, key: &LayerKey) -> Result<(), CacheError> {
    let (sender, answer) = mpsc::channel();
    let (place, key) = (Arc::clone(place), *key);
    std::thread::Builder::new().name("cache".to_owned()).spawn(move || {
        let answered = match place.entry(&key, &Pulse::default()) {
            Err(CacheError::Damaged(_)) => Ok(()),
            entry => entry.map(drop),
        };
        // Nobody may be waiting for it any longer.
        let _ = sender.send(answered);
    })?;
    let silent = |_| Err(CacheError::Away("it does not answer".to_owned()));
    answer.recv_timeout(LONGEST_SILENCE).unwrap_or_else(silent)
}

struct Draining<'a> {
    store: &'a Store,
    cancel: &'a CancelToken,
    outbox: Outbox,
    made: MadePacks,
    places: HashMap<String, Arc<dyn Place>>,
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
            self.places.insert(cache.to_owned(), place::open(&address, self.cancel).into());
        }
        let Some(place) = self.places.get(cache) else { return Ok(true) };
        let (store, place, made, stop) = (self.store, place, &self.made, self.cancel);
        let upload = Upload { store, place: &**place, made, replaces: item.replaces, stop };
        match answers(place, key).and_then(|()| upload.run(&step)) {
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
