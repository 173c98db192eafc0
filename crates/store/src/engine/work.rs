//! Directories that a step writes to.

use std::sync::Arc;

use lamina_ground::StorePath;

use super::Shared;
use crate::StoreError;
use crate::protocol::Request;

/// A step's directories for writing. Whatever was not committed is removed when this is dropped.
#[derive(Debug)]
pub struct Work {
    id: String,
    store: Arc<Shared>,
    is_discarded: bool,
}

impl Work {
    pub(super) fn new(store: &Arc<Shared>) -> Result<Self, StoreError> {
        let work = Self { id: store.next_work_id(), store: Arc::clone(store), is_discarded: false };
        store.client.call::<()>(Request::NewWork { id: work.id.clone() })?;
        Ok(work)
    }

    /// The work's name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The upper directory.
    #[must_use]
    pub fn upper(&self) -> StorePath {
        format!("work/{}/upper", self.id).into()
    }

    /// The overlay's work directory.
    #[must_use]
    pub fn work_directory(&self) -> StorePath {
        format!("work/{}/work", self.id).into()
    }

    pub(super) fn discard(mut self) -> Result<(), StoreError> {
        self.is_discarded = true;
        self.store.client.call(Request::Discard { id: self.id.clone() })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.is_discarded {
            // Nobody waits for it; if the worker is gone, the next process that opens the store sweeps.
            let _ = self.store.client.begin(Request::Discard { id: self.id.clone() }, &[], &[]);
        }
    }
}
