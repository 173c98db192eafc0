//! How a command fails: one `error:` line, perhaps a `hint:` line, an exit code.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write as _};

use lamina_ground::{Hint, causes};

use crate::diagnostics;
use crate::output::style::{Palette, Tone};

/// Why a command could not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure with nothing to advise.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// A failure from an error and its causes, with its advice.
    pub(crate) fn from_error(error: &(impl Hint + 'static)) -> Self {
        Self { message: causes(error), hint: error.hint().map(Cow::into_owned) }
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Writes the failure to standard error, and to the record of the run.
    pub(crate) fn print(&self) {
        diagnostics::note_failure(&self.message);
        let text = self.render(Palette::detect(io::stderr()));
        // Without a standard error there is nobody to tell.
        let _ = io::stderr().write_all(text.as_bytes());
    }

    fn render(&self, palette: Palette) -> String {
        let mut text = format!("{} {}\n", palette.paint(Tone::Red, "error:"), self.message);
        if let Some(hint) = &self.hint {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{} {hint}", palette.paint(Tone::Cyan, "hint:"));
        }
        text
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::from_error(&error)
    }
}

impl From<lamina_engine::EngineError> for Failure {
    fn from(error: lamina_engine::EngineError) -> Self {
        Self::from_error(&error)
    }
}

impl From<lamina_engine::ContainersError> for Failure {
    fn from(error: lamina_engine::ContainersError) -> Self {
        Self::from_error(&error)
    }
}

impl From<lamina_engine::StoreError> for Failure {
    fn from(error: lamina_engine::StoreError) -> Self {
        Self::from_error(&error)
    }
}

impl From<lamina_collections::CollectionsError> for Failure {
    fn from(error: lamina_collections::CollectionsError) -> Self {
        Self::from_error(&error)
    }
}

impl From<lamina_secrets::SecretsError> for Failure {
    fn from(error: lamina_secrets::SecretsError) -> Self {
        Self::from_error(&error)
    }
}

impl From<lamina_engine::VolumeError> for Failure {
    fn from(error: lamina_engine::VolumeError) -> Self {
        Self::from_error(&error)
    }
}

impl From<lamina_apps::AppsError> for Failure {
    fn from(error: lamina_apps::AppsError) -> Self {
        Self::from_error(&error)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("cannot open `index.db`")
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    impl Hint for Outer {
        fn hint(&self) -> Option<Cow<'_, str>> {
            Some(Cow::Borrowed("call somebody"))
        }
    }

    #[test]
    fn causes_and_hints_are_shown() {
        let failure = Failure::from_error(&Outer(io::Error::other("disk on fire")));
        insta::assert_snapshot!(failure.render(Palette::PLAIN), @r"
        error: cannot open `index.db`: disk on fire
        hint: call somebody
        ");
    }
}
