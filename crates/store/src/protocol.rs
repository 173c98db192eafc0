//! Requests to the worker and its answers.

use lamina_image::Digest;
use serde::{Deserialize, Serialize};

use crate::JobError;

/// How an upper is turned into a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRules {
    /// Leave out what package managers leave behind: logs, lists, archives, backups, lock files.
    pub package_step: bool,
    /// Absolute paths in the image that the sandbox made as mount points: left out while empty.
    pub drop_empty: Vec<String>,
}

/// What a commit made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Digest of the layer's diff tree; names its view.
    pub digest: Digest,
    /// Regular files in the layer.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes that the store did not have before.
    pub bytes_new: u64,
}

/// Which files of a step's cache upper go into the shared cache. Patterns have the semantics of
/// [`lamina_image::patterns`] and see paths relative to the cache directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheFilter {
    /// What to take; empty takes everything.
    pub include: Vec<String>,
    /// What to leave out of that.
    pub exclude: Vec<String>,
}

/// What a harvest moved into the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harvest {
    /// Files moved.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Envelope of a request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    /// Number that the answer carries.
    pub(crate) id: u64,
    /// What is asked for, or the answer.
    pub(crate) body: T,
}

/// What the engine asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Runs a registered job.
    Job { name: String, job: serde_json::Value },
}

/// What the worker answers.
pub(crate) type Answer = Result<serde_json::Value, JobError>;
