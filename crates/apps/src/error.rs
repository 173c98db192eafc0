//! What can go wrong with detached apps.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use lamina_events::Cancelled;
use lamina_ground::{FileError, Hint, Refusal, Subject};
use lamina_store::StoreError;

/// An error of detached apps.
#[derive(Debug, thiserror::Error)]
pub enum AppsError {
    /// No detached app has this id or name.
    #[error("there is no detached app `{0}`: `modal app list` shows what there is")]
    Unknown(String),
    /// No app of this name runs any longer.
    #[error("no running app is called `{0}`, they have ended: `modal app list` shows their ids")]
    HasEnded(String),
    /// The app with this id has ended.
    #[error("the app `{0}` has ended: `modal app list` shows which run")]
    NotRunning(String),
    /// The app runs, but nobody can connect with it.
    #[error("the app `{0}` takes no connections: it has only just started, or is about to end")]
    NotListening(String),
    /// This cannot be an app's id.
    #[error("`{0}` is no app id: give `ap-` and at least four characters of what `modal app list` shows")]
    NoId(String),
    /// Several apps match an abbreviated id.
    #[error("`{prefix}` is ambiguous: it matches {matches}; type more of the id")]
    AmbiguousId {
        /// What was asked for.
        prefix: String,
        /// The matching ids.
        matches: String,
    },
    /// Several running apps have this name.
    #[error("several running apps are called `{name}`: {matches}; give the id of one of them")]
    AmbiguousName {
        /// What was asked for.
        name: String,
        /// Their ids.
        matches: String,
    },
    /// The process of an app has another number here, or none.
    #[error("the app `{id}` runs, but its process `{pid}` cannot be seen from here")]
    Unseen {
        /// The app's id.
        id: String,
        /// The number that it has for itself.
        pid: i32,
    },
    /// An app's process did not say which it is.
    #[error("the record of the app `{0}` does not say which process it is")]
    NoProcess(String),
    /// A process that was killed is still there.
    #[error("the app `{id}` was killed, but its process `{pid}` has not ended")]
    NotEnded {
        /// The app's id.
        id: String,
        /// The number of its process.
        pid: i32,
    },
    /// A name cannot be the id of an app.
    #[error("`{0}` is no usable id of an app: letters, digits, `.`, `_` and `-` are allowed")]
    Name(String),
    /// Something else stands where the records are kept.
    #[error("`{0}` is no directory, and records of detached apps are kept in one of this name")]
    NotADirectory(PathBuf),
    /// A file of a record makes no sense.
    #[error("`{path}` is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled(#[from] Cancelled),
    /// A file operation failed.
    #[error(transparent)]
    File(FileError),
    /// A file operation failed; the message names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl Hint for AppsError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Unseen { .. } => Some("stop it where it was started, perhaps in a container".into()),
            Self::NoProcess(id) => Some(format!(
                "if the app was started just now, try again; if not, the record is damaged: `pgrep -f {id}` finds the \
                 process, `kill -INT` ends it"
            ).into()),
            Self::NotEnded { .. } => {
                Some("it waits for the kernel, perhaps for a disk that does not answer".into())
            }
            Self::NotADirectory(_) => Some("move it away".into()),
            Self::Store(error) => error.hint(),
            Self::File(error) => error.refusal(Subject::Store)?.hint().map(Cow::Borrowed),
            Self::Io(error) => Refusal::of(Subject::Store, error)?.hint().map(Cow::Borrowed),
            _ => None,
        }
    }
}

impl AppsError {
    /// An adapter for `map_err` that adds what was done to which file.
    pub(crate) fn file<E: Into<std::io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::File(FileError::at(what, path)(source))
    }
}

impl From<StoreError> for AppsError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Store(other),
        }
    }
}
