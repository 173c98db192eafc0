//! The worker's side: file work on layer content, inside the store's user namespace.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use lamina_image::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{JobError, ObjectMeta};

/// Work on layer content that other crates register; it runs inside the store's user namespace.
pub trait Job: Serialize + DeserializeOwned {
    /// Name of the job, unique among the registered ones.
    const NAME: &'static str;
    /// What it answers.
    type Output: Serialize + DeserializeOwned;

    /// Does the work.
    ///
    /// # Errors
    /// Whatever went wrong, as data.
    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<Self::Output, JobError>;
}

/// The registered jobs.
#[derive(Default)]
pub struct JobTable;

impl JobTable {
    /// A table without jobs.
    #[must_use]
    pub fn new() -> Self { Self }
    /// Adds a job.
    #[must_use]
    pub fn register<J: Job>(self) -> Self { self }
}

/// What jobs work with.
#[derive(Debug)]
pub struct WorkerContext;

impl WorkerContext {
    /// The content directory.
    #[must_use]
    pub fn content(&self) -> &Path { todo!() }
    /// The upper directory of a step.
    #[must_use]
    pub fn upper(&self, work_id: &str) -> PathBuf { todo!() }
    /// A package cache; made if missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn cache(&self, name: &str) -> Result<PathBuf, JobError> { todo!() }
    /// A new file or directory name for unfinished things, on the same filesystem; removed with the process.
    #[must_use]
    pub fn temporary_path(&self) -> PathBuf { todo!() }
    /// Stores bytes as an object.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_bytes(&self, bytes: &[u8], meta: &ObjectMeta) -> Result<Digest, JobError> { todo!() }
    /// Stores what a reader gives as an object; answers its digest and length.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn put_reader(&self, reader: &mut dyn std::io::Read, meta: &ObjectMeta) -> Result<(Digest, u64), JobError> { todo!() }
    /// Whether the object is in the store.
    #[must_use]
    pub fn has_object(&self, digest: &Digest, meta: &ObjectMeta) -> bool { todo!() }
    /// Opens an object for reading.
    ///
    /// # Errors
    /// When it is not in the store.
    pub fn open_object(&self, digest: &Digest, meta: &ObjectMeta) -> Result<std::fs::File, JobError> { todo!() }
    /// Puts an object into a step's upper at `path` (absolute in the image; missing parents are made with mode 0755)
    /// and remembers its digest, so that the commit need not hash it again. An existing file is replaced.
    ///
    /// # Errors
    /// When the object is not in the store or a parent is no directory.
    pub fn link_object(&self, digest: &Digest, meta: &ObjectMeta, work_id: &str, path: &Path) -> Result<(), JobError> { todo!() }
    /// Makes everything stored so far durable. Call it before publishing something that refers to objects.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<(), JobError> { todo!() }
}

/// Serves requests until the engine closes its end.
pub fn worker_main(socket: UnixStream, content: &Path, jobs: JobTable) { todo!() }
