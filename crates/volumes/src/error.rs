//! Errors of volumes.

use std::borrow::Cow;

use lamina_ground::{ErrorClass, Hint};
use lamina_store::{JobError, JobErrorKind};

/// There is no such volume.
pub(crate) const NO_VOLUME: JobErrorKind = JobErrorKind::new("volumes.none");
/// There is a volume of that name.
pub(crate) const TAKEN: JobErrorKind = JobErrorKind::new("volumes.taken");
/// There is no such file in a volume.
pub(crate) const NO_FILE: JobErrorKind = JobErrorKind::new("volumes.no_file");
/// There is such a file.
pub(crate) const FILE_EXISTS: JobErrorKind = JobErrorKind::new("volumes.file_exists");
/// What was named is a directory, and nobody said that all of it is meant.
pub(crate) const DIRECTORY: JobErrorKind = JobErrorKind::new("volumes.directory");
/// What was asked for makes no sense.
pub(crate) const INVALID: JobErrorKind = JobErrorKind::new("volumes.invalid");

/// What can go wrong with volumes.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// There is no such volume.
    #[error("there is no volume `{name}`{}", if .environment == "main" { String::new() } else { format!(" in the environment `{environment}`") })]
    NotFound {
        /// Its name.
        name: String,
        /// The environment that it was looked for in.
        environment: String,
    },
    /// The worker could not do it.
    #[error("{}", .0.message)]
    Job(JobError),
}

impl VolumeError {
    /// What it is in Python.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFoundError,
            Self::Job(error) if error.kind == NO_VOLUME => ErrorClass::NotFoundError,
            Self::Job(error) if error.kind == TAKEN => ErrorClass::AlreadyExistsError,
            Self::Job(error) if error.kind == NO_FILE => ErrorClass::FileNotFoundError,
            Self::Job(error) if error.kind == FILE_EXISTS => ErrorClass::FileExistsError,
            Self::Job(error) if error.kind == INVALID || error.kind == DIRECTORY => ErrorClass::InvalidError,
            Self::Job(_) => ErrorClass::ExecutionError,
        }
    }

    /// Whether a directory was named where only files were meant.
    #[must_use]
    pub fn wants_recursive(&self) -> bool {
        matches!(self, Self::Job(error) if error.kind == DIRECTORY)
    }
}

impl From<JobError> for VolumeError {
    fn from(error: JobError) -> Self {
        Self::Job(error)
    }
}

impl Hint for VolumeError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::NotFound { name, environment } => {
                let option = if environment == "main" { String::new() } else { format!(" --env {environment}") };
                let hint = format!(
                    "make it with `modal volume create{option} {name}`, or with \
                     `modal.Volume.from_name(\"{name}\", create_if_missing=True)`"
                );
                Some(hint.into())
            }
            Self::Job(error) => error.hint(),
        }
    }
}
