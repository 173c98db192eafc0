//! How a command fails: one `error:` line, perhaps a `hint:` line, an exit code.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use lamina_ground::Hint as _;

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

    /// A failure from an error and its causes.
    pub(crate) fn from_error(error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors already name their cause.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self::new(message)
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Writes the failure to standard error.
    pub(crate) fn print(&self) {
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
        let failure = Self::from_error(&error);
        let hint = match &error {
            lamina_engine::EngineError::Store(error) => error.remedy(),
            _ => lamina_engine::disk_hint(&failure.message),
        };
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<lamina_engine::StoreError> for Failure {
    fn from(error: lamina_engine::StoreError) -> Self {
        lamina_engine::EngineError::from(error).into()
    }
}

impl From<lamina_apps::AppsError> for Failure {
    fn from(error: lamina_apps::AppsError) -> Self {
        let failure = Self::from_error(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint.into_owned()),
            None => failure,
        }
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

    #[test]
    fn causes_and_hints_are_shown() {
        let failure = Failure::from_error(&Outer(io::Error::other("disk on fire"))).hint("call somebody");
        insta::assert_snapshot!(failure.render(Palette::PLAIN), @r"
        error: cannot open `index.db`: disk on fire
        hint: call somebody
        ");
    }
}
