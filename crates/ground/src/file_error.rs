//! Operations on files that failed.

use std::error::Error;
use std::fmt::{self, Display};
use std::io;
use std::path::{Path, PathBuf};

use crate::{Refusal, Subject};

/// An operation on a file that failed.
#[derive(Debug)]
pub struct FileError {
    /// What was being done, for example `opening`.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl FileError {
    /// An adapter for `map_err` that adds what was done to which file.
    pub fn at<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self { what, path: path.to_owned(), source: source.into() }
    }

    /// The operating system's answer behind it, for a file of `subject`.
    #[must_use]
    pub fn refusal(&self, subject: Subject) -> Option<Refusal> {
        Refusal::of(subject, &self.source)
    }
}

impl Display for FileError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} `{}` failed: {}", self.what, self.path.display(), self.source)
    }
}

impl Error for FileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_failed_is_named_and_stays_what_it_was() {
        let error = FileError::at("opening", Path::new("/store/index.db"))(Errno::NOSPC);
        assert!(error.to_string().starts_with("opening `/store/index.db` failed: "), "{error}");
        assert_eq!(error.refusal(Subject::Store), Some(Refusal::new(Subject::Store, Errno::NOSPC)));
    }
}
