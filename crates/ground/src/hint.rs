//! Errors with advice.

use std::borrow::Cow;
use std::error::Error;

use crate::{Refusal, Subject};

/// An error that may know what to do about it.
pub trait Hint: Error {
    /// What the user can do, where the message does not say so already.
    fn hint(&self) -> Option<Cow<'_, str>>;
}

/// An error of the system alone, which tells of no file of the store.
impl Hint for std::io::Error {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Refusal::of(Subject::Machine, self)?.hint().map(Cow::Borrowed)
    }
}

/// An error and its causes as one sentence, without repeating what a message already contains.
#[must_use]
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let missing = fs_err::read("/nonexistent/file").unwrap_err();
        let text = causes(&missing);
        assert!(text.starts_with("failed to open file `/nonexistent/file`"), "{text}");
        assert_eq!(text.matches("No such file").count(), 1, "{text}");
    }
}
