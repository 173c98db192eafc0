//! What can go wrong with the store.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use lamina_events::Cancelled;
use lamina_ground::{FileError, Hint, Refusal, Subject, causes};
use rusqlite::ErrorCode;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something else stands where the store is to be.
    #[error("the store `{0}` is no directory: set `MODAL_STORE` to a directory, or move away what is there")]
    NoStore(PathBuf),
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
    #[error("`{path}` is damaged: {file}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        file: DamagedFile,
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
    /// A local file of the user could not be read.
    #[error(transparent)]
    Local(FileError),
    /// An operation on a file of the store failed.
    #[error(transparent)]
    File(FileError),
    /// An operation on a file of the store failed; the message names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl StoreError {
    /// The operating system's answer behind it.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Local(error) => error.refusal(Subject::Local),
            Self::File(error) => error.refusal(Subject::Store),
            Self::Io(error) => Refusal::of(Subject::Store, error),
            Self::Worker(error) => error.refusal,
            Self::Index { reason, .. } => refusal_of_index(reason),
            _ => None,
        }
    }

    /// An error of the database in the file `path`.
    pub(crate) fn index(path: &Path, reason: rusqlite::Error) -> Self {
        let path = path.to_owned();
        let is_damaged = match reason.sqlite_error() {
            // A file that ends too early is no fault of the disk.
            Some(error) if error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ => true,
            Some(error) => matches!(error.code, ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt),
            None => false,
        };
        if is_damaged { Self::DamagedIndex { path, reason: reason.to_string() } } else { Self::Index { path, reason } }
    }

    /// An adapter for `map_err` that adds what was done to which local file.
    pub(crate) fn local<E: Into<std::io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Local(FileError::at(what, path)(source))
    }

    /// An adapter for `map_err` that adds what was done to which file.
    pub(crate) fn file<E: Into<std::io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::File(FileError::at(what, path)(source))
    }
}

impl Hint for StoreError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::DamagedIndex { .. } => Some(Cow::Borrowed(
                "delete that file: images are then built again when they are asked for; or remove all of the store with \
                 `modal store remove`",
            )),
            Self::Damaged { file, .. } => Some(Cow::Borrowed(file.advice())),
            _ => self.refusal()?.hint().map(Cow::Borrowed),
        }
    }
}

/// A file of the store that makes no sense, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum DamagedFile {
    /// The format of the store cannot be read.
    #[error("it does not say which format the store has: {0}")]
    Format(serde_json::Error),
    /// The lease of a process that runs cannot be read.
    #[error("nobody can tell what the running `modal` that it belongs to uses")]
    Lease,
    /// The tree of a layer is missing or not what it was.
    #[error("a layer's tree is missing or not what it was")]
    Tree,
    /// A version of a deployed app cannot be read.
    #[error("nobody can tell which layers the deployed app needs: {0}")]
    Deployment(serde_json::Error),
}

impl DamagedFile {
    fn advice(&self) -> &'static str {
        match self {
            Self::Format(_) => "set `MODAL_STORE` to another directory",
            Self::Lease => "end that first",
            Self::Tree => "build the image again",
            Self::Deployment(_) => "stop the app with `modal app stop`, or remove the file",
        }
    }
}

/// The answer of the operating system that made the database give up; it says no more than this.
fn refusal_of_index(error: &rusqlite::Error) -> Option<Refusal> {
    let errno = match error.sqlite_error_code()? {
        ErrorCode::DiskFull => Errno::NOSPC,
        ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => Errno::ACCESS,
        ErrorCode::OutOfMemory => Errno::NOMEM,
        ErrorCode::SystemIoFailure => Errno::IO,
        _ => return None,
    };
    Some(Refusal::new(Subject::Store, errno))
}

/// An error of a job in the store worker: data, so that it can cross the socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct JobError {
    /// What callers choose by.
    pub kind: JobErrorKind,
    /// A sentence for people.
    pub message: String,
    /// The operating system's answer, where it is the reason.
    pub refusal: Option<Refusal>,
}

/// The kind of an error of a job: a constant of the crate that has the job, which the store knows only by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobErrorKind(Cow<'static, str>);

impl JobErrorKind {
    /// The kind of this name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }
}

impl JobError {
    /// Kind of errors of the store itself.
    pub const STORE: JobErrorKind = JobErrorKind::new("store");

    /// An error of the given kind.
    #[must_use]
    pub fn new(kind: JobErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), refusal: None }
    }

    /// An error because an operation on `subject` was refused.
    #[must_use]
    pub fn refused(subject: Subject, message: impl Into<String>, error: &std::io::Error) -> Self {
        Self { refusal: Refusal::of(subject, error), ..Self::new(Self::STORE, message) }
    }

    /// An adapter for `map_err` in the worker that adds what was done to which file.
    pub fn file<E: Into<std::io::Error>>(what: &str, path: &Path) -> impl FnOnce(E) -> Self {
        Self::failed(Subject::Store, what, path)
    }

    /// The same for a file of an image: what the image holds may be the reason.
    pub fn image_file<E: Into<std::io::Error>>(what: &str, path: &Path) -> impl FnOnce(E) -> Self {
        Self::failed(Subject::Image, what, path)
    }

    fn failed<E: Into<std::io::Error>>(subject: Subject, what: &str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| {
            let source: std::io::Error = source.into();
            Self::refused(subject, format!("{what} `{}` failed: {}", path.display(), causes(&source)), &source)
        }
    }
}

impl Hint for JobError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        self.refusal?.hint().map(Cow::Borrowed)
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Worker(error) => error,
            other => Self { refusal: other.refusal(), ..Self::new(Self::STORE, causes(&other)) },
        }
    }
}

impl From<std::io::Error> for JobError {
    fn from(error: std::io::Error) -> Self {
        Self::refused(Subject::Store, causes(&error), &error)
    }
}

#[cfg(test)]
mod tests {
    use lamina_ground::EnvVars;

    use super::*;

    /// Every reason why work on the store's files may stop, with a word of the advice.
    const REASONS: [(Errno, &str); 9] = [
        (Errno::NOSPC, "full"),
        (Errno::DQUOT, "full"),
        (Errno::FBIG, "full"),
        (Errno::ROFS, "can write to"),
        (Errno::ACCESS, "can write to"),
        (Errno::NOTDIR, "can write to"),
        (Errno::NOMEM, "memory"),
        (Errno::MFILE, "ulimit -n"),
        (Errno::IO, "dmesg"),
    ];

    #[test]
    fn advice_crosses_the_workers_socket() {
        for (errno, word) in REASONS {
            let error = JobError::file("writing", Path::new("/store/objects/00"))(errno);
            let sent = serde_json::to_string(&error).unwrap();
            let received = StoreError::from(serde_json::from_str::<JobError>(&sent).unwrap());
            assert!(received.hint().is_some_and(|hint| hint.contains(word)), "{errno:?}: {received}");
            let again = JobError::from(received);
            assert_eq!(again, error);
        }
    }

    #[test]
    fn words_of_a_text_give_no_advice() {
        let text = "`No space left on device`: Permission denied, Not a directory, Read-only file system";
        assert_eq!(JobError::new(JobErrorKind::new("wheels.lost"), text).hint(), None);
        assert_eq!(StoreError::WorkerGone(text.to_owned()).hint(), None);
        assert_eq!(StoreError::InvalidFileSet(text.to_owned()).hint(), None);
    }

    #[test]
    fn local_files_are_not_the_stores() {
        let error = StoreError::local("opening the local file", Path::new("/home/me/x"))(Errno::ACCESS);
        assert!(error.hint().is_some_and(|hint| hint.contains("`ignore`") && !hint.contains(EnvVars::MODAL_STORE)));
        let error = StoreError::file("writing", Path::new("/store/index.db"))(Errno::ACCESS);
        assert!(error.hint().is_some_and(|hint| hint.contains(EnvVars::MODAL_STORE)));
    }

    #[test]
    fn the_databases_answers_are_the_systems() {
        let error = |code| {
            let reason = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            StoreError::index(Path::new("/store/index.db"), reason)
        };
        for (code, word) in [
            (rusqlite::ffi::SQLITE_FULL, "full"),
            (rusqlite::ffi::SQLITE_READONLY, "can write to"),
            (rusqlite::ffi::SQLITE_CANTOPEN, "can write to"),
            (rusqlite::ffi::SQLITE_CORRUPT, "delete that file"),
            (rusqlite::ffi::SQLITE_IOERR_SHORT_READ, "delete that file"),
            (rusqlite::ffi::SQLITE_IOERR_WRITE, "disk does not work"),
        ] {
            assert!(error(code).hint().is_some_and(|hint| hint.contains(word)), "{code}");
        }
        assert_eq!(error(rusqlite::ffi::SQLITE_BUSY).hint(), None);
    }
}
