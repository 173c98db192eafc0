//! Errors in the form that Python raises them in.

use std::borrow::Cow;

use lamina_builder::BuildError;
use lamina_functions::{CallError, CallStatus};
use lamina_ground::{ErrorClass, Hint, RunRecord, causes};
use lamina_store::StoreError;

use crate::EngineError;
use crate::protocol::Failure;

impl Failure {
    /// A failure without advice.
    pub(crate) fn new(error: ErrorClass, message: impl Into<String>) -> Self {
        Self { error, message: message.into(), hint: None, image_id: None, log: None, shown: false }
    }

    /// The failure; one that is not the program's own names the record of the run, which says more.
    pub(crate) fn with_record(&self) -> Cow<'_, Self> {
        if self.error != ErrorClass::ExecutionError {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self { message: naming_record(&self.message), ..self.clone() })
    }

    /// A failure of the build. Where the user does not see the build, the message holds what he would have seen.
    pub(crate) fn of_build(error: BuildError, output: bool) -> Self {
        let hint = error.hint().map(Cow::into_owned);
        let mut message = error.to_string();
        let shown = output && matches!(error, BuildError::Step(_));
        let mut log = None;
        let (class, image_id) = match error {
            BuildError::Step(failure) => {
                log.clone_from(&failure.log);
                if !output {
                    append(&mut message, &failure.tail, failure.log.as_deref());
                }
                (ErrorClass::ImageBuildError, failure.parent)
            }
            BuildError::Invalid(_) => (ErrorClass::InvalidError, None),
            BuildError::FileNotFound(_) => (ErrorClass::FileNotFoundError, None),
            BuildError::NoImage { .. } => (ErrorClass::NotFoundError, None),
            BuildError::NotADirectory(_) => (ErrorClass::NotADirectoryError, None),
            BuildError::Refused { class, .. } => (class, None),
            BuildError::Failed(_) | BuildError::Damaged => (ErrorClass::ExecutionError, None),
            BuildError::Cancelled => (ErrorClass::KeyboardInterrupt, None),
        };
        Self { error: class, message, hint, image_id, log, shown }
    }

    /// A failure to take in local files.
    pub(crate) fn of_store(error: &StoreError) -> Self {
        let class = match error {
            StoreError::NotFound(_) => ErrorClass::FileNotFoundError,
            StoreError::NotADirectory(_) => ErrorClass::NotADirectoryError,
            StoreError::NotAFile(_) | StoreError::InvalidFileSet(_) => ErrorClass::InvalidError,
            StoreError::Cancelled(_) => ErrorClass::KeyboardInterrupt,
            _ => ErrorClass::ExecutionError,
        };
        Self { hint: error.hint().map(Cow::into_owned), ..Self::new(class, causes(error)) }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let class = match &error {
            EngineError::UnknownImage(_) | EngineError::NoImageId(_) => ErrorClass::NotFoundError,
            _ => ErrorClass::ExecutionError,
        };
        Self { hint: error.hint().map(Cow::into_owned), ..Self::new(class, causes(&error)) }
    }
}

/// How a call ended for Python; what is neither the function's doing nor anybody's wish names the record of the run.
pub(crate) fn of_call(error: &CallError) -> CallStatus {
    match CallStatus::from(error) {
        CallStatus::Error { error: class, message, hint } if error.is_internal() => {
            CallStatus::Error { error: class, message: naming_record(&message), hint }
        }
        other => other,
    }
}

/// Records a failure. The message, and where the record of the run is if there is one.
pub(crate) fn naming_record(message: &str) -> String {
    tracing::error!(message, "a request failed");
    match RunRecord::current().and_then(RunRecord::keep) {
        Some(path) => format!("{message}\nthe record of this run is `{}`", path.display()),
        None => message.to_owned(),
    }
}

/// Adds the end of a step's output, and where all of it is.
fn append(message: &mut String, tail: &[String], log: Option<&str>) {
    for line in tail {
        message.push_str("\n  ");
        message.push_str(line);
    }
    if let Some(log) = log {
        message.push_str("\nthe full log is in ");
        message.push_str(log);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lamina_builder::StepFailure;

    use super::*;

    #[test]
    fn a_failed_step_tells_everything_to_those_who_did_not_watch() {
        let error = BuildError::Step(Box::new(StepFailure {
            title: "run_commands(\"false\")".into(),
            message: "exit code 1".into(),
            tail: vec!["one".into(), "two".into()],
            log: Some("/logs/1.log".into()),
            parent: Some("im-1".into()),
            hint: Some("do something".into()),
        }));
        let seen = Failure::of_build(error.clone(), true);
        assert_eq!(seen.message, "`run_commands(\"false\")` failed: exit code 1");
        assert_eq!((seen.error, seen.image_id.as_deref()), (ErrorClass::ImageBuildError, Some("im-1")));
        assert_eq!(seen.hint.as_deref(), Some("do something"));
        let unseen = Failure::of_build(error, false);
        assert!(seen.shown && !unseen.shown);
        assert!(unseen.message.ends_with("exit code 1\n  one\n  two\nthe full log is in /logs/1.log"));
    }

    #[test]
    fn errors_become_the_classes_of_the_reference() {
        let cases = [
            (BuildError::FileNotFound("x".into()), ErrorClass::FileNotFoundError),
            (BuildError::NotADirectory("x".into()), ErrorClass::NotADirectoryError),
            (BuildError::Invalid(Arc::new(std::io::Error::other("x"))), ErrorClass::InvalidError),
            (BuildError::Failed(Arc::new(std::io::Error::other("x"))), ErrorClass::ExecutionError),
            (BuildError::Cancelled, ErrorClass::KeyboardInterrupt),
        ];
        for (error, class) in cases {
            assert_eq!(Failure::of_build(error, true).error, class);
        }
        assert_eq!(Failure::of_store(&StoreError::NotFound("/x".into())).error, ErrorClass::FileNotFoundError);
        assert_eq!(Failure::of_store(&StoreError::NotADirectory("/x".into())).error, ErrorClass::NotADirectoryError);
    }
}
