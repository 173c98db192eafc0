//! Errors of collections.

use std::borrow::Cow;
use std::path::PathBuf;

use lamina_ground::{ErrorClass, Hint, Refusal, Subject};

use crate::Kind;

/// What can go wrong with dictionaries and queues. No message holds a key or a value.
#[derive(Debug, thiserror::Error)]
pub enum CollectionsError {
    /// This cannot be a name.
    #[error("`{name}` cannot be the name of {what}: take 1 to 64 letters, digits, `-`, `_` and `.`")]
    Name {
        /// Of what, with its article.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// There is none of that name.
    #[error("there is no {kind} `{name}`{}", in_environment(.environment))]
    NotFound {
        /// Of which kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// The environment that it was looked for in.
        environment: String,
    },
    /// There is none with that id any more.
    #[error("the {kind} `{id}` does not exist any more")]
    Gone {
        /// Of which kind.
        kind: Kind,
        /// Its id.
        id: String,
    },
    /// There is one of that name already.
    #[error("there is a {kind} `{name}` already{}", in_environment(.environment))]
    Exists {
        /// Of which kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// Its environment.
        environment: String,
    },
    /// More than there may be.
    #[error("{what} is too large: it has {size} {unit}, and at most {most} are possible")]
    TooLarge {
        /// What.
        what: &'static str,
        /// What is counted.
        unit: &'static str,
        /// How many there are.
        size: usize,
        /// How many there may be.
        most: usize,
    },
    /// The database was written by a later version.
    #[error(
        "`{path}` has version {found} of its format, and this version of Lamina knows {known}: install a newer one"
    )]
    NewerFormat {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// The database cannot be read or written.
    #[error("the database of dictionaries and queues `{path}` cannot be used")]
    Database {
        /// The database.
        path: PathBuf,
        /// What its library says.
        source: rusqlite::Error,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl CollectionsError {
    /// What it is in Python.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Name { .. } => ErrorClass::InvalidError,
            Self::NotFound { .. } | Self::Gone { .. } => ErrorClass::NotFoundError,
            Self::Exists { .. } => ErrorClass::AlreadyExistsError,
            Self::TooLarge { .. } => ErrorClass::RequestSizeError,
            Self::NewerFormat { .. } => ErrorClass::VersionError,
            Self::Database { .. } | Self::Io(_) => ErrorClass::ExecutionError,
        }
    }
}

impl Hint for CollectionsError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::NotFound { kind, name, environment } => {
                let option = if environment == "main" { String::new() } else { format!(" --env {environment}") };
                Some(
                    format!("make it with `modal {kind} create{option} {name}`, or with `create_if_missing=True`")
                        .into(),
                )
            }
            Self::Exists { .. } => Some("take another name, or say that one which is there is fine".into()),
            Self::Io(error) => Refusal::of(Subject::Store, error)?.hint().map(Cow::Borrowed),
            Self::Database { source: rusqlite::Error::SqliteFailure(failure, _), .. } => match failure.code {
                rusqlite::ErrorCode::DiskFull => {
                    Some("the disk is full: make room, for example with `modal image prune`".into())
                }
                rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase => {
                    Some("move the file away to begin anew; what the dictionaries and queues held is lost then".into())
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// The usual environment is not worth a word.
fn in_environment(environment: &str) -> String {
    if environment == "main" { String::new() } else { format!(" in the environment `{environment}`") }
}
