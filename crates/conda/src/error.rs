//! What can go wrong.

use std::borrow::Cow;

use lamina_events::Cancelled;
use lamina_fetch::FetchError;
use lamina_ground::Hint;
use lamina_store::StoreError;

/// Why packages could not be solved or installed.
#[derive(Debug, thiserror::Error)]
pub enum CondaError {
    /// A text is no specification of a package.
    #[error("`{spec}` does not say which package is wanted: {reason}")]
    Spec {
        /// The text.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A text names no channel.
    #[error("`{channel}` is no conda channel: {reason}")]
    Channel {
        /// The text.
        channel: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Settings of this machine cannot be used.
    #[error("the conda settings of {origin} cannot be used: {reason}")]
    Settings {
        /// The file or the variable.
        origin: String,
        /// What is wrong with them.
        reason: String,
    },
    /// A file of specifications cannot be understood.
    #[error("the file `{name}` cannot be used: {reason}")]
    SpecFile {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A channel has no index.
    #[error("the channel `{channel}` has no packages for {subdir}: there is no `repodata.json` below `{url}`")]
    NoRepodata {
        /// The channel.
        channel: String,
        /// The platform.
        subdir: String,
        /// Where it was looked for.
        url: String,
    },
    /// An index cannot be understood.
    #[error("the package index `{url}` cannot be read: {reason}")]
    Repodata {
        /// Its address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There are no conda packages for this processor.
    #[error("conda has no packages for the processor `{0}`")]
    Processor(String),
    /// No set of packages fulfils all wishes.
    #[error("no set of packages fulfils what is asked for:\n{explanation}")]
    Unsolvable {
        /// The solver's own explanation.
        explanation: String,
    },
    /// No set of packages fulfils all wishes, and one would if the environment held nothing.
    #[error("no set of packages fulfils what is asked for while the environment holds {held}:\n{explanation}")]
    Held {
        /// What it holds.
        held: String,
        /// The solver's own explanation.
        explanation: String,
    },
    /// The solver was not done in time.
    #[error("the solver did not find a set of packages within {0} minutes")]
    TooLong(u64),
    /// A package is not what it should be.
    #[error("the conda package `{package}` is not installable: {reason}")]
    Package {
        /// Its file name.
        package: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What an image has written down about a package of its environment.
    #[error("the image's `{path}` is no record of a conda package: {reason}")]
    Record {
        /// Its path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Packages do not fit into the image.
    #[error("the packages cannot be put into the image: {0}")]
    NotLinkable(String),
    /// Python modules without a Python.
    #[error("`{0}` holds Python modules, and the environment has no `python`")]
    NoPython(String),
    /// A local channel cannot be read.
    #[error("a file of a local channel cannot be read")]
    Local(#[source] std::io::Error),
    /// A download failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The store worker could not do its part.
    #[error(transparent)]
    Job(#[from] lamina_store::JobError),
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A file of the engine's own could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Hint for CondaError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        let hint = match self {
            Self::Spec { .. } => "write a name, or a name with versions: `numpy`, `numpy=2.1`, `numpy>=2,<3`",
            Self::Channel { .. } => "name a channel such as `conda-forge`, or give its `https://` or `file://` address",
            Self::NoRepodata { .. } => {
                "look at the names in `channels`; `MODAL_CONDA_CHANNEL_ALIAS` says where names lead"
            }
            Self::Unsolvable { .. } => "ask for other versions, or add the channel that has them to `channels`",
            Self::Held { .. } => {
                "its Python keeps its series unless a step asks for another, as `python=3.12`; what else is held is in \
                 `/opt/conda/conda-meta/pinned`"
            }
            Self::TooLong(_) => "name versions of the packages that matter, so that there is less to try",
            Self::Record { .. } => "a step before this one has changed it: let it leave `/opt/conda/conda-meta` alone",
            Self::NoPython(_) => "start from `modal.Image.micromamba()`, or ask for `python` as well",
            Self::Io(error) => return error.hint(),
            Self::Fetch(FetchError::Network { .. }) => {
                "`MODAL_CONDA_CHANNEL_ALIAS` names a mirror of the public channels"
            }
            Self::Fetch(error) => return error.hint(),
            Self::Job(error) => return error.hint(),
            _ => return None,
        };
        Some(Cow::Borrowed(hint))
    }
}

impl From<StoreError> for CondaError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Job(other.into()),
        }
    }
}
