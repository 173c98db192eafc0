//! The engine's side: index, locks, local files, and requests to the worker.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use lamina_events::CancelToken;
use lamina_image::{Digest, FileSet, LayerKey, RuntimeConfig};
use serde::{Deserialize, Serialize};

use crate::{CacheFilter, CommitRules, Committed, Harvest, Job, JobError, Layout, StoreError};

/// An opened store. Clones share the connection to the worker and the index.
#[derive(Debug, Clone)]
pub struct Store {
    layout: Layout,
}

/// A layer in the index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of everything that can influence the step's result.
    pub key: LayerKey,
    /// Digest of the layer's diff tree.
    pub digest: Digest,
    /// The method call as the user wrote it.
    pub title: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// How long making it took.
    pub seconds: f64,
    /// Regular files in the layer.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes that the store did not have before.
    pub bytes_new: u64,
    /// What went into the key, by name.
    pub material: serde_json::Value,
    /// The full log, relative to the store's `logs` directory.
    pub log: Option<String>,
    /// What later steps want to know, for example the Python version of a base.
    pub facts: serde_json::Value,
}

/// An image in the index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The image id, `im-…`.
    pub id: String,
    /// Its layers, bottom first.
    pub layers: Vec<Digest>,
    /// Keys of the steps that made them.
    pub keys: Vec<LayerKey>,
    /// How things are run in it.
    pub config: RuntimeConfig,
    /// The last step's title.
    pub title: String,
    /// When it was first built, in seconds since 1970.
    pub created: u64,
    /// When it was last asked for, in seconds since 1970.
    pub last_used: u64,
    /// Bytes of all its layers.
    pub bytes: u64,
    /// Full logs of its steps: title and path.
    pub logs: Vec<(String, String)>,
}

/// Local files, taken into the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSetView {
    /// Digest of the whole set; `None` when the set is empty.
    pub digest: Option<Digest>,
    /// Views that together show the set, top-most first: one, or a delta over an older one.
    pub views: Vec<Digest>,
    /// Files in the set.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files whose contents had to be read.
    pub read: u64,
    /// What was left out, in sentences.
    pub warnings: Vec<String>,
}

/// A lock between processes; released when dropped.
#[derive(Debug)]
pub struct Lock;

/// A step's directories for writing. Whatever was not committed is removed when this is dropped.
#[derive(Debug)]
pub struct Work {
    id: String,
}

impl Work {
    /// The work's name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The upper directory, relative to the content directory.
    #[must_use]
    pub fn upper(&self) -> String {
        format!("work/{}/upper", self.id)
    }

    /// The overlay's work directory, relative to the content directory.
    #[must_use]
    pub fn work_directory(&self) -> String {
        format!("work/{}/work", self.id)
    }
}

impl Store {
    /// Opens a store: checks the index and sweeps what dead processes left.
    ///
    /// # Errors
    /// When the index is of a newer format or cannot be opened, or the worker does not answer.
    pub fn open(layout: Layout, worker: UnixStream) -> Result<Self, StoreError> { todo!() }
    /// Where the store is.
    #[must_use]
    pub fn layout(&self) -> &Layout { &self.layout }
    /// The layer with this key, if its view is still there.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn find_layer(&self, key: &LayerKey) -> Result<Option<LayerRecord>, StoreError> { todo!() }
    /// The newest layer with this title: what a rebuilt step is compared with.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn latest_layer(&self, title: &str) -> Result<Option<LayerRecord>, StoreError> { todo!() }
    /// Records a layer, replacing an older record with the same key.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn record_layer(&self, record: &LayerRecord) -> Result<(), StoreError> { todo!() }
    /// Records an image, replacing an older record with the same id but keeping its creation time.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn record_image(&self, record: &ImageRecord) -> Result<(), StoreError> { todo!() }
    /// All images, last used first.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn list_images(&self) -> Result<Vec<ImageRecord>, StoreError> { todo!() }
    /// The image whose id starts with `prefix`.
    ///
    /// # Errors
    /// When several match or the index cannot be read.
    pub fn find_image(&self, prefix: &str) -> Result<Option<ImageRecord>, StoreError> { todo!() }
    /// Takes the lock `name`, waiting for other processes and threads; `waiting` is called once if it has to.
    ///
    /// # Errors
    /// When cancelled, or the lock file cannot be made.
    pub fn lock(&self, name: &str, cancel: &CancelToken, waiting: impl FnOnce()) -> Result<Lock, StoreError> { todo!() }
    /// Makes directories for a step to write into.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new_work(&self) -> Result<Work, StoreError> { todo!() }
    /// Removes what a step wrote.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn discard(&self, work: Work) -> Result<(), StoreError> { todo!() }
    /// Turns a step's upper into a layer. The upper is gone afterwards; no process may have it mounted.
    ///
    /// # Errors
    /// When a file cannot be read or the disk is full; nothing is published then.
    pub fn commit(&self, work: &Work, rules: CommitRules) -> Result<Committed, StoreError> { todo!() }
    /// The view of a layer, relative to the content directory.
    #[must_use]
    pub fn view_path(&self, digest: &Digest) -> String { format!("views/{digest}") }
    /// Whether the view of a layer exists.
    #[must_use]
    pub fn has_view(&self, digest: &Digest) -> bool { self.layout.content().join(self.view_path(digest)).is_dir() }
    /// Collects local files and makes them mountable. Fast when little changed: the result may be a delta over an
    /// older view.
    ///
    /// # Errors
    /// When a source is missing, is no directory or file as declared, cannot be read or does not hold still.
    pub fn file_set(&self, set: &FileSet) -> Result<FileSetView, StoreError> { todo!() }
    /// As [`Store::file_set`], always as one layer with a diff tree of its own.
    ///
    /// # Errors
    /// As [`Store::file_set`].
    pub fn file_set_layer(&self, set: &FileSet) -> Result<Committed, StoreError> { todo!() }
    /// The package cache `name`, relative to the content directory; made if missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn cache_directory(&self, name: &str) -> Result<String, StoreError> { todo!() }
    /// Makes an upper and a work directory over a cache for one step, both relative to the content directory.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new_cache_upper(&self, work: &Work, name: &str) -> Result<(String, String), StoreError> { todo!() }
    /// Moves new files of a step's cache upper into the shared cache. Call it when the step's sandbox is gone.
    ///
    /// # Errors
    /// When a file cannot be moved.
    pub fn harvest_cache(&self, work: &Work, name: &str, filter: &CacheFilter) -> Result<Harvest, StoreError> { todo!() }
    /// Runs a job in the worker.
    ///
    /// # Errors
    /// What the job answers, or kind `store` when the worker is gone.
    pub fn job<J: Job>(&self, job: &J, fds: &[BorrowedFd<'_>]) -> Result<J::Output, JobError> { todo!() }
    /// Checks a layer's files against its tree; answers one sentence per problem.
    ///
    /// # Errors
    /// When the worker is gone.
    pub fn verify(&self, digest: &Digest) -> Result<Vec<String>, StoreError> { todo!() }
    /// Deletes the whole store.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(self) -> Result<(), StoreError> { todo!() }
}

/// A name that no other process or thread uses.
pub(crate) fn unique_id() -> String { todo!() }
