//! What can go wrong.

use std::borrow::Cow;

use lamina_events::Cancelled;
use lamina_ground::Hint;
use lamina_sandbox::SandboxError;
use lamina_store::StoreError;

/// Why packages could not be resolved or installed.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// Ready-made wheels do not do: the real installer has to run inside the sandbox.
    #[error("{reason}")]
    NeedsSandbox {
        /// Why, for the log.
        reason: String,
        /// Whether a package has to be built from its source.
        builds: bool,
    },
    /// Packages let pip take pre-releases of others: it has to be resolved anew with those allowed.
    #[error("packages let pip take pre-releases of {allowed:?}")]
    PreReleases {
        /// Their names.
        allowed: Vec<String>,
    },
    /// The resolver could not find a set of packages.
    #[error("{message}")]
    Resolution {
        /// The resolver's own explanation.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The resolver could not be started.
    #[error("could not run the package resolver `{path}`: {error}")]
    Resolver {
        /// The program.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The resolver took more than it may.
    #[error("the package resolver `{path}` was ended because it wanted {what}")]
    Bounds {
        /// The program.
        path: String,
        /// What it wanted.
        what: String,
    },
    /// What the resolver wrote is not understood.
    #[error("could not read the resolver's answer: {detail}")]
    Lock {
        /// Which part.
        detail: String,
    },
    /// A wheel is not what it should be.
    #[error("the wheel `{wheel}` is not installable: {detail}")]
    Wheel {
        /// The wheel's file name.
        wheel: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The image's interpreter could not be started to compile.
    #[error("`{interpreter}` of the image could not be started: {source}")]
    Compiler {
        /// The interpreter.
        interpreter: String,
        /// Why.
        source: SandboxError,
    },
    /// A download failed.
    #[error(transparent)]
    Fetch(#[from] lamina_fetch::FetchError),
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

impl WheelError {
    /// The real installer has to run, for another reason than that something is to be built.
    pub fn needs_sandbox(reason: impl Into<String>) -> Self {
        Self::NeedsSandbox { reason: reason.into(), builds: false }
    }

    /// The real installer has to run, because something is to be built.
    pub(crate) fn needs_building(reason: impl Into<String>) -> Self {
        Self::NeedsSandbox { reason: reason.into(), builds: true }
    }
}

impl Hint for WheelError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Resolution { hint, .. } => hint.as_deref().map(Cow::Borrowed),
            Self::Resolver { error, .. } => {
                Some(error.hint().unwrap_or(Cow::Borrowed("install it with `pip install uv`")))
            }
            Self::Bounds { .. } => Some(Cow::Borrowed("look at what the package index answers")),
            Self::Lock { .. } => Some(Cow::Borrowed("install a newer uv with `pip install -U uv`")),
            Self::Io(error) => error.hint(),
            Self::Compiler { source, .. } => source.hint(),
            Self::Fetch(error) => error.hint(),
            Self::Job(error) => error.hint(),
            _ => None,
        }
    }
}

impl From<StoreError> for WheelError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Job(other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_installed_only_where_it_is_missing() {
        let hint = |errno| {
            let error = std::io::Error::from_raw_os_error(errno);
            WheelError::Resolver { path: "/bin/uv".to_owned(), error }.hint().unwrap().into_owned()
        };
        assert!(hint(2).contains("pip install uv"));
        assert!(hint(24).contains("ulimit -n"));
    }

    #[test]
    fn a_cancelled_wait_for_the_store_is_no_failure_of_it() {
        assert!(matches!(StoreError::Cancelled(Cancelled).into(), WheelError::Cancelled(_)));
        let failure = WheelError::from(StoreError::WorkerGone("it closed the connection".to_owned()));
        assert!(matches!(failure, WheelError::Job(error) if error.message.contains("it closed the connection")));
    }
}
