//! Errors on their way out of a helper process: what failed, with which path, and the kernel's answer.

use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::SandboxError;

/// Which kind of failure it is, for callers that tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Setup,
    UserNamespace,
    /// What was being done is the resource's name.
    Resource,
    CommandNotFound,
    NotExecutable,
    WorkingDirectory,
}

/// A failure inside a helper process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What was being done, as the start of a sentence.
    pub(crate) what: String,
    /// The path or name it was done to.
    pub(crate) path: String,
    pub(crate) errno: i32,
}

impl Failure {
    /// A failure of the set-up.
    pub(crate) fn setup(what: &str, path: &str, errno: Errno) -> Self {
        Self { kind: Kind::Setup, what: what.into(), path: path.into(), errno: errno.raw_os_error() }
    }

    /// The same failure as one of another kind.
    pub(crate) fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }
}

impl From<Failure> for SandboxError {
    fn from(failure: Failure) -> Self {
        let source = io::Error::from_raw_os_error(failure.errno);
        match failure.kind {
            Kind::Setup => Self::Setup { what: failure.what, path: failure.path, source },
            Kind::UserNamespace => Self::UserNamespace { source },
            Kind::Resource => Self::Resource { name: failure.what, path: failure.path, source },
            Kind::CommandNotFound => Self::CommandNotFound { command: failure.what, path: failure.path },
            // The file is there: what the kernel did not find is what its first line names.
            Kind::NotExecutable if source.kind() == io::ErrorKind::NotFound => Self::NotExecutable {
                command: failure.path,
                source: io::Error::new(source.kind(), "the interpreter or loader that it names is missing"),
            },
            Kind::NotExecutable => Self::NotExecutable { command: failure.path, source },
            Kind::WorkingDirectory => Self::WorkingDirectory { path: failure.path, source },
        }
    }
}

/// Says what was being done when a system call failed.
pub(crate) trait During<T> {
    /// Turns the error into a [`Failure`].
    fn during(self, what: &str, path: &str) -> Result<T, Failure>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, what: &str, path: &str) -> Result<T, Failure> {
        self.map_err(|errno| Failure::setup(what, path, errno))
    }
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: &str, path: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::setup(what, path, Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    }
}
