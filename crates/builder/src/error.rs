//! Errors of building.

use std::borrow::Cow;
use std::sync::Arc;

use lamina_events::Cancelled;
use lamina_ground::{Hint, causes};
use lamina_image::redact;
use lamina_store::StoreError;

/// A step that failed, with everything that helps to find out why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{title}` failed: {message}")]
pub struct StepFailure {
    /// The method call as the user wrote it.
    pub title: String,
    /// What went wrong.
    pub message: String,
    /// The last lines of the step's output.
    pub tail: Vec<String>,
    /// Where the full log is.
    pub log: Option<String>,
    /// The image id of the state before the step, which a shell can be opened in.
    pub parent: Option<String>,
    /// What the user can do, when it is known.
    pub hint: Option<String>,
}

/// Why an image could not be built.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BuildError {
    /// A step's command failed.
    #[error("{0}")]
    Step(Box<StepFailure>),
    /// A step cannot be done as declared, found before anything ran.
    #[error("{message}")]
    Invalid {
        /// The sentence.
        message: String,
        /// What the user can do, when it is known.
        hint: Option<String>,
    },
    /// A local file or directory that a step reads does not exist.
    #[error("{0}")]
    FileNotFound(String),
    /// A step needs a directory and was given a file.
    #[error("{0}")]
    NotADirectory(String),
    /// The store, the sandbox or the network failed.
    #[error("{}", redact(&causes(&**_0)))]
    Failed(Arc<dyn Hint + Send + Sync>),
    /// A layer that was found turned out to be damaged. The next attempt does not find it, and makes it again.
    #[error("a layer is damaged: build the image again")]
    Damaged,
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
}

impl BuildError {
    /// A failure of the machinery.
    pub(crate) fn failed(error: impl Hint + Send + Sync + 'static) -> Self {
        Self::Failed(Arc::new(error))
    }

    /// The error without credentials of addresses.
    pub(crate) fn redacted(self) -> Self {
        let clean = |text: String| redact(&text).into_owned();
        match self {
            Self::Invalid { message, hint } => Self::Invalid { message: clean(message), hint: hint.map(clean) },
            // The step's log has taken them off, and failures of the machinery show none.
            other => other,
        }
    }
}

impl Hint for BuildError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Step(failure) => failure.hint.as_deref().map(Cow::Borrowed),
            Self::Invalid { hint, .. } => hint.as_deref().map(Cow::Borrowed),
            Self::Failed(error) => error.hint(),
            Self::FileNotFound(_) | Self::NotADirectory(_) | Self::Damaged | Self::Cancelled => None,
        }
    }
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cancelled(_) => Self::Cancelled,
            StoreError::NotFound(_) => Self::FileNotFound(error.to_string()),
            StoreError::NotADirectory(_) => Self::NotADirectory(error.to_string()),
            StoreError::NotAFile(_) | StoreError::InvalidFileSet(_) => {
                Self::Invalid { message: error.to_string(), hint: None }
            }
            error => Self::failed(error),
        }
    }
}

impl From<Cancelled> for BuildError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}
