//! What can go wrong with the store.

use std::path::{Path, PathBuf};

use lamina_events::Cancelled;
use rusqlite::ErrorCode;
use serde::{Deserialize, Serialize};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store directory can be reached by others.
    #[error("the store `{path}` has mode `{mode:04o}`: its files would be open to other users; run `chmod 700 {path}`")]
    Mode {
        /// The store directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The store directory belongs to somebody else.
    #[error("the store `{path}` belongs to user `{owner}`, not to you: set `MODAL_STORE` to a directory of your own")]
    Owner {
        /// The store directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
    },
    /// The directory holds something else.
    #[error("`{path}` is no store, it holds `{holds}`: set `MODAL_STORE` to a directory of its own")]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// One of the files in it.
        holds: String,
    },
    /// The store cannot be where it is.
    #[error(
        "the store `{0}` is on an overlay, as everything in a container is that is no volume, and the kernel makes no overlays \
         of those: set `MODAL_STORE` to a directory of a volume or of a disk"
    )]
    Overlay(PathBuf),
    /// The store was written by a newer program.
    #[error(
        "`{path}` has store format `{found}`, this program knows up to `{known}`: update the package, or set \
         `MODAL_STORE` to another directory"
    )]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format this program knows.
        known: u32,
    },
    /// The store is of an earlier format, and a program of that time works with it.
    #[error(
        "the store `{path}` is of an earlier format and another `modal`, of an earlier version, uses it: wait until that has \
         ended, or set `MODAL_STORE` to another directory"
    )]
    FormerInUse {
        /// The store directory.
        path: PathBuf,
    },
    /// A file of the store makes no sense.
    #[error("`{path}` is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A name cannot be used as a file name in the store.
    #[error("`{0}` is no usable name: letters, digits, `.`, `_` and `-` are allowed")]
    Name(String),
    /// Several images match an abbreviated id.
    #[error("`{prefix}` is ambiguous: it matches {matches}; type more of the id")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The matching ids.
        matches: String,
    },
    /// A local path does not exist.
    #[error("local path `{0}` does not exist")]
    NotFound(PathBuf),
    /// A local path has to be a directory.
    #[error("local path `{0}` is not a directory: use `add_local_file` for a single file")]
    NotADirectory(PathBuf),
    /// A local path has to be a file.
    #[error("local path `{0}` is not a regular file: use `add_local_dir` for a directory")]
    NotAFile(PathBuf),
    /// A local file did not hold still.
    #[error("local file `{0}` changed while it was being read: try again when nothing writes to it")]
    Changed(PathBuf),
    /// A file set is declared in a way that cannot work.
    #[error("{0}")]
    InvalidFileSet(String),
    /// The worker answered with an error.
    #[error("{0}")]
    Worker(#[from] JobError),
    /// The worker is gone.
    #[error("the store worker ended unexpectedly: {0}")]
    WorkerGone(String),
    /// The index failed.
    #[error("the index `{path}` failed: {reason}")]
    Index {
        /// The database file.
        path: PathBuf,
        /// What the database says.
        reason: rusqlite::Error,
    },
    /// The index makes no sense.
    #[error("the index `{path}` is damaged: {reason}")]
    DamagedIndex {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled(#[from] Cancelled),
    /// A file operation failed.
    #[error("{what} `{path}` failed: {source}")]
    File {
        /// What was being done, for example `opening`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file operation failed; the message names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl StoreError {
    /// What the user can do about it, where the message does not say so. What cannot be read of his own files is not the
    /// store's fault.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::File { what: "opening the local file" | "opening the directory" | "listing", .. } => {
                Some("make it readable, or leave it out with `ignore`")
            }
            Self::DamagedIndex { .. } => Some(
                "delete that file: images are then built again when they are asked for; or remove all of the store with \
                 `modal store remove`",
            ),
            other => disk_hint(&other.to_string()),
        }
    }

    /// An error of the database in the file `path`.
    pub(crate) fn index(path: &Path, reason: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match reason.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Self::DamagedIndex { path, reason: reason.to_string() }
            }
            _ => Self::Index { path, reason },
        }
    }

    /// An adapter for `map_err` that adds what was done to which file.
    pub(crate) fn file<E: Into<std::io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::File { what, path: path.to_owned(), source: source.into() }
    }
}

/// What to do about an error of the disk, recognised by the words of the operating system: errors of the worker arrive
/// as text.
#[must_use]
pub fn disk_hint(message: &str) -> Option<&'static str> {
    const FULL: [&str; 4] = ["No space left on device", "Disk quota exceeded", "disk is full", "File too large"];
    const UNWRITABLE: [&str; 4] =
        ["Read-only file system", "Permission denied", "readonly database", "Not a directory"];
    let contains = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if contains(&FULL) {
        return Some(
            "the disk of the store is full, or has no room for more files (`df -h` and `df -i` tell): free some space, or \
             set MODAL_STORE to a directory on a larger disk",
        );
    }
    contains(&UNWRITABLE).then_some("set MODAL_STORE to a directory that you can write to")
}

/// An error of a job in the store worker: data, so that it can cross the socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct JobError {
    /// A word that callers can branch on, chosen by the job; `store` for errors of the store itself.
    pub kind: String,
    /// A sentence for people.
    pub message: String,
}

impl JobError {
    /// Kind of errors of the store itself.
    pub const STORE: &'static str = "store";

    /// An error of the given kind.
    #[must_use]
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into() }
    }

    /// An adapter for `map_err` in the worker that adds what was done to which file.
    pub fn file<E: Into<std::io::Error>>(what: &str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| {
            let source: std::io::Error = source.into();
            Self::new(Self::STORE, format!("{what} `{}` failed: {source}", path.display()))
        }
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Worker(error) => error,
            other => Self::new(Self::STORE, other.to_string()),
        }
    }
}

impl From<std::io::Error> for JobError {
    fn from(error: std::io::Error) -> Self {
        Self::new(Self::STORE, error.to_string())
    }
}
