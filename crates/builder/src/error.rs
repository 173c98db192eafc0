//! Errors of building.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use lamina_events::Cancelled;
use lamina_ground::{ErrorClass, Hint, Refusal, Subject, causes};
use lamina_image::{DefinitionError, DockerfilePlace, redact};
use lamina_store::{ImageName, StoreError};

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
    #[error("{}", redact(&causes(&**_0)))]
    Invalid(Arc<dyn Hint + Send + Sync>),
    /// A local file or directory that a step reads does not exist.
    #[error("{0}")]
    FileNotFound(String),
    /// A step needs a directory and was given a file.
    #[error("{0}")]
    NotADirectory(String),
    /// An image that was built before is not there.
    #[error("{}", no_image(id.as_deref(), name.as_ref(), place.as_deref()))]
    NoImage {
        /// Its id, where that is known.
        id: Option<String>,
        /// The name that is asked for.
        name: Option<ImageName>,
        /// The line of a Dockerfile that asks for it.
        place: Option<Box<DockerfilePlace>>,
    },
    /// What steps need is not there: something that a local project declares, or GPUs.
    #[error("{message}")]
    Refused {
        /// The class that Modal's users expect.
        class: ErrorClass,
        /// What is missing, and where.
        message: String,
        /// What the user can do, when it is known.
        hint: Option<String>,
    },
    /// The store, the sandbox or the network failed.
    #[error("{}", redact(&causes(&**_0)))]
    Failed(Arc<dyn Hint + Send + Sync>),
    /// A layer that was found turned out to be damaged. The next attempt does not find it, and makes it again.
    #[error("a layer is damaged")]
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

    /// The same of a line of a Dockerfile, which it names.
    pub(crate) fn on_line(self, place: &DockerfilePlace) -> Self {
        let on_line = |error| Arc::new(OnLine { place: place.clone(), error });
        match self {
            Self::FileNotFound(message) => Self::FileNotFound(place.message(&message)),
            Self::NotADirectory(message) => Self::NotADirectory(place.message(&message)),
            Self::Invalid(error) => Self::Invalid(on_line(error)),
            Self::Failed(error) => Self::Failed(on_line(error)),
            other => other,
        }
    }

    /// A step that cannot be done as declared.
    pub(crate) fn invalid(error: impl Hint + Send + Sync + 'static) -> Self {
        Self::Invalid(Arc::new(error))
    }
}

impl Hint for BuildError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Step(failure) => failure.hint.as_deref().map(Cow::Borrowed),
            Self::Invalid(error) | Self::Failed(error) => {
                error.hint().map(|hint| Cow::Owned(redact(&hint).into_owned()))
            }
            Self::NoImage { name: Some(_), .. } => Some(Cow::Borrowed(
                "`modal image names list` shows the names that there are; build the image and `publish` it to give it one",
            )),
            Self::NoImage { .. } => Some(Cow::Borrowed("`modal image list` shows the images that there are")),
            Self::Refused { hint, .. } => hint.as_deref().map(Cow::Borrowed),
            Self::Damaged => Some(Cow::Borrowed("build the image again")),
            Self::FileNotFound(_) | Self::NotADirectory(_) | Self::Cancelled => None,
        }
    }
}

fn no_image(id: Option<&str>, name: Option<&ImageName>, place: Option<&DockerfilePlace>) -> String {
    let message = match (id, name) {
        (Some(id), Some(name)) => format!("the image `{id}`, which has the name `{name}`, is not there any more"),
        (None, Some(name)) => {
            format!("there is no image of the name `{name}` in the environment `{}`", name.environment)
        }
        (id, None) => format!("there is no image `{}`", id.unwrap_or_default()),
    };
    match place {
        Some(place) => place.message(&message),
        None => message,
    }
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cancelled(_) => Self::Cancelled,
            StoreError::NotFound(_) => Self::FileNotFound(error.to_string()),
            StoreError::NotADirectory(_) => Self::NotADirectory(error.to_string()),
            error @ (StoreError::NotAFile(_) | StoreError::InvalidFileSet(_)) => Self::invalid(error),
            error => Self::failed(error),
        }
    }
}

impl From<Cancelled> for BuildError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// An error of a line of a Dockerfile.
#[derive(Debug, thiserror::Error)]
#[error("{}", place.message(&causes(&**error)))]
struct OnLine {
    place: DockerfilePlace,
    error: Arc<dyn Hint + Send + Sync>,
}

impl Hint for OnLine {
    fn hint(&self) -> Option<Cow<'_, str>> {
        self.error.hint()
    }
}

/// What is wrong with a declaration, where no other crate says it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Mistake {
    /// The images do not hold together.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A line of a Dockerfile that cannot be followed.
    #[error("{}", place.message(message))]
    Dockerfile {
        /// The line.
        place: DockerfilePlace,
        /// What is wrong with it.
        message: String,
    },
    /// An image that is not declared is asked for.
    #[error("the definition has no image `{0}`")]
    UnknownImage(String),
    /// Requirements files in a circle.
    #[error("requirements file `{}` includes itself", .0.display())]
    IncludesItself(PathBuf),
    /// A requirements file cannot be read; the message names it.
    #[error(transparent)]
    Requirements(std::io::Error),
    /// A setting has a value that it cannot have.
    #[error("`MODAL_TOOLCHAIN` is `{0}`: set it to `auto`, `always` or `never`, or unset it")]
    Toolchain(String),
    /// Several local files cannot be used.
    #[error("{message}")]
    Several {
        /// All of them.
        message: String,
        /// What the user can do about the first of which that is known.
        hint: Option<String>,
    },
}

impl Hint for Mistake {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Requirements(error) => Refusal::of(Subject::Local, error)?.hint().map(Cow::Borrowed),
            Self::Several { hint, .. } => hint.as_deref().map(Cow::Borrowed),
            Self::Dockerfile { .. }
            | Self::Definition(_)
            | Self::UnknownImage(_)
            | Self::IncludesItself(_)
            | Self::Toolchain(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use lamina_bases::{BaseError, SignatureProblem};

    use super::*;

    #[test]
    fn advice_comes_from_where_the_error_does() {
        let url = "https://me:hunter2@mirror.invalid/debian".to_owned();
        let (suite, origin) = ("bookworm".to_owned(), "MODAL_DEBIAN_MIRROR".to_owned());
        let error = BuildError::invalid(BaseError::UnknownSuite { suite, url: url.clone(), origin });
        insta::assert_snapshot!(error, @"`https://***@mirror.invalid/debian` has no suite `bookworm` (the mirror comes from MODAL_DEBIAN_MIRROR)");
        assert!(error.hint().is_some_and(|hint| hint.contains("to a mirror that carries it")));
        let reason = SignatureProblem::UnknownKey { signers: "A".to_owned(), keyring: "B".to_owned() };
        let error = BuildError::invalid(BaseError::Signature { url, reason });
        assert!(error.hint().is_some_and(|hint| hint.contains("MODAL_DEBIAN_KEYRING")));
    }

    #[test]
    fn a_requirements_file_is_no_file_of_the_store() {
        let denied = std::io::Error::from_raw_os_error(13);
        let error = BuildError::invalid(Mistake::Requirements(denied));
        assert!(error.hint().is_some_and(|hint| !hint.contains("MODAL_STORE")), "{:?}", error.hint());
    }
}
