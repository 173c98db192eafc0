//! Errors on their way out of a helper process: what failed, with which path, and the kernel's answer.

use std::io;

use lamina_ground::{Refusal, Subject};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::SandboxError;

/// Which kind of failure it is, for callers that tell them apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Setup,
    UserNamespace,
    /// What was to be mounted is not there any more.
    Gone,
    /// What was being done is the resource's name.
    Resource,
    CommandNotFound,
    NotExecutable,
    WorkingDirectory,
    /// An image has more layers than an overlay takes.
    Layers {
        count: usize,
        most: usize,
    },
    /// What is missing is a user or a group.
    User {
        name: String,
    },
}

/// A failure inside a helper process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What was being done, as the start of a sentence.
    pub(crate) what: String,
    /// The path or name it was done to.
    pub(crate) path: String,
    pub(crate) refusal: Refusal,
}

impl Failure {
    /// A failure of the set-up.
    pub(crate) fn setup(what: &str, path: &str, errno: Errno) -> Self {
        Self { kind: Kind::Setup, what: what.into(), path: path.into(), refusal: Refusal::new(Subject::Machine, errno) }
    }

    /// The same failure as one of another kind.
    pub(crate) fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// The same failure as one of an operation on `subject`.
    pub(crate) fn on(mut self, subject: Subject) -> Self {
        self.refusal.subject = subject;
        self
    }
}

impl From<Failure> for SandboxError {
    fn from(failure: Failure) -> Self {
        let source = io::Error::from_raw_os_error(failure.refusal.errno);
        match failure.kind {
            Kind::Setup => {
                Self::Setup { what: failure.what, path: failure.path, subject: failure.refusal.subject, source }
            }
            Kind::UserNamespace => Self::UserNamespace { source },
            Kind::Gone => Self::Gone { path: failure.path },
            Kind::Resource => Self::Resource { name: failure.what, path: failure.path, source },
            Kind::CommandNotFound => Self::CommandNotFound { command: failure.what, path: failure.path },
            // The file is there: what the kernel did not find is what its first line names.
            Kind::NotExecutable if source.kind() == io::ErrorKind::NotFound => Self::NotExecutable {
                command: failure.path,
                source: io::Error::new(source.kind(), "the interpreter or loader that it names is missing"),
            },
            Kind::NotExecutable => Self::NotExecutable { command: failure.path, source },
            Kind::Layers { count, most } => Self::Layers { count, most },
            Kind::WorkingDirectory => Self::WorkingDirectory { path: failure.path, source },
            Kind::User { name } => Self::UnknownUser { name, what: failure.what, path: failure.path },
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
        self.map_err(|error| {
            let setup = Failure::setup(what, path, Errno::IO);
            Failure { refusal: Refusal::of(Subject::Machine, &error).unwrap_or(setup.refusal), ..setup }
        })
    }
}

#[cfg(test)]
mod tests {
    use lamina_ground::{EnvVars, Hint};

    use super::*;

    /// What the engine makes of a failure that came over the socket.
    fn received(failure: &Failure) -> SandboxError {
        serde_json::from_str::<Failure>(&serde_json::to_string(failure).unwrap()).unwrap().into()
    }

    #[test]
    fn what_an_image_holds_is_not_the_stores_fault() {
        for errno in [Errno::NOTDIR, Errno::ACCESS, Errno::PERM, Errno::ROFS, Errno::NOENT] {
            for kind in [Kind::WorkingDirectory, Kind::NotExecutable] {
                let error = received(&Failure::setup("enter", "/etc/passwd", errno).of_kind(kind.clone()));
                assert_eq!(error.hint(), None, "{error}");
            }
            let error = received(&Failure::setup("find", "/etc/passwd/x", errno).on(Subject::Image));
            assert_eq!(error.hint(), None, "{error}");
        }
    }

    #[test]
    fn what_the_machine_lacks_is_said_wherever_it_is_missed() {
        for subject in [Subject::Store, Subject::Image, Subject::Machine] {
            for (errno, word) in [(Errno::NOMEM, "memory"), (Errno::MFILE, "ulimit -n"), (Errno::NFILE, "ulimit -n")] {
                let error = received(&Failure::setup("open", "x", errno).on(subject));
                assert!(error.hint().is_some_and(|hint| hint.contains(word)), "{error}");
            }
        }
        for subject in [Subject::Store, Subject::Image] {
            let error = received(&Failure::setup("make", "x", Errno::NOSPC).on(subject));
            assert!(error.hint().is_some_and(|hint| hint.contains("full")), "{error}");
        }
        let error = received(&Failure::setup("mount the overlay", "work", Errno::ROFS).on(Subject::Store));
        assert!(error.hint().is_some_and(|hint| hint.contains(EnvVars::MODAL_STORE)), "{error}");
        let error = received(&Failure::setup("fork", "pid 1", Errno::AGAIN));
        assert!(error.hint().is_some_and(|hint| hint.contains("ulimit -u")), "{error}");
    }
}
