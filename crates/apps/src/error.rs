//! What can go wrong with detached apps.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use lamina_events::Cancelled;
use lamina_ground::{ErrorClass, FileError, Hint, Refusal, Subject};
use lamina_store::StoreError;

use crate::DeploymentName;

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
    /// What is known of a deployed app makes no sense.
    #[error("the record of the app {name}, `{path}`, is damaged: {reason}")]
    DamagedRecord {
        /// The app.
        name: DeploymentName,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What is kept of a version of a deployed app makes no sense.
    #[error("version {number} of the app {name}, `{path}`, is damaged: {reason}")]
    DamagedVersion {
        /// The app.
        name: DeploymentName,
        /// The version.
        number: u32,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No app of this name is deployed.
    #[error("there is no deployed app {name}{}: `modal app list` shows what there is", alike(.nearest, .elsewhere.as_deref()))]
    NotDeployed {
        /// What was asked for.
        name: DeploymentName,
        /// Names that are like it.
        nearest: Vec<String>,
        /// An environment that has an app of this name.
        elsewhere: Option<String>,
    },
    /// The app has no such version.
    #[error(
        "the app {name} has no version `{number}`: `modal app history` shows which it has, `{first}` to `{current}`"
    )]
    UnknownVersion {
        /// The app.
        name: DeploymentName,
        /// What was asked for.
        number: u32,
        /// The oldest one that is kept.
        first: u32,
        /// The current one.
        current: u32,
    },
    /// No deployed app keeps this call.
    #[error(
        "there is no call `{0}`: results of calls that were spawned on deployed apps are kept for seven days, and at most \
         a gibibyte for an app"
    )]
    UnknownCall(String),
    /// No app can be called so.
    #[error("`{0}` is no usable name of an app: up to 64 letters, digits, `.`, `_` and `-`, and not an app's id")]
    DeploymentName(String),
    /// No environment can be called so.
    #[error("`{0}` is no usable name of an environment: up to 64 letters, digits, `.`, `_` and `-`")]
    EnvironmentName(String),
    /// The process of a deployed app ended before anybody could speak with it.
    #[error("the process of the app {name} ended as soon as it was started{}", said(.output))]
    HostEnded {
        /// The app.
        name: DeploymentName,
        /// What it printed last.
        output: String,
    },
    /// The process of a deployed app is there and takes no connections.
    #[error("the process of the app {name} has taken no connection for {seconds} seconds")]
    HostSilent {
        /// The app.
        name: DeploymentName,
        /// How long it was waited for.
        seconds: u64,
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

/// Names that somebody may have meant, as part of a sentence.
fn alike(nearest: &[String], elsewhere: Option<&str>) -> String {
    let names: Vec<_> = nearest.iter().map(|name| format!("`{name}`")).collect();
    match (&names[..], elsewhere) {
        (_, Some(environment)) => format!(", but one in the environment `{environment}`"),
        ([], None) => String::new(),
        (names, None) => format!(" (did you mean {}?)", names.join(" or ")),
    }
}

/// The last words of a process, as part of a sentence.
fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; it said: {output}") }
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
            Self::HostEnded { name, .. } => {
                Some(format!("`modal app logs{} {}` shows all that it said", option(name), name.name()).into())
            }
            Self::HostSilent { name, .. } => {
                Some(format!("`modal app logs{} {}` may say what it is doing", option(name), name.name()).into())
            }
            Self::DamagedVersion { name, .. } => Some(format!(
                "deploy the app anew: `modal deploy`, or go back to another version: `modal app rollback{} {}`",
                option(name), name.name()
            ).into()),
            Self::NotADirectory(_) => Some("move it away".into()),
            Self::DamagedRecord { .. } => {
                Some("put a copy of the file back, or move it away and deploy the app anew: `modal deploy`".into())
            }
            Self::Store(error) => error.hint(),
            Self::File(error) => error.refusal(Subject::Store)?.hint().map(Cow::Borrowed),
            Self::Io(error) => Refusal::of(Subject::Store, error)?.hint().map(Cow::Borrowed),
            _ => None,
        }
    }
}

/// The option that names an environment, where that is not the usual one.
fn option(name: &DeploymentName) -> String {
    if name.environment() == "main" { String::new() } else { format!(" --env {}", name.environment()) }
}

impl AppsError {
    /// What it is in Python.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotDeployed { .. }
            | Self::UnknownVersion { .. }
            | Self::UnknownCall(_)
            | Self::Unknown(_)
            | Self::HasEnded(_)
            | Self::NotRunning(_)
            | Self::NotListening(_)
            | Self::NoId(_)
            | Self::AmbiguousId { .. }
            | Self::AmbiguousName { .. } => ErrorClass::NotFoundError,
            Self::DeploymentName(_) | Self::EnvironmentName(_) | Self::Name(_) => ErrorClass::InvalidError,
            _ => ErrorClass::ExecutionError,
        }
    }

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
