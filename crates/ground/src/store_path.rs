//! Paths of the store.

use std::fmt::{self, Display};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A path relative to the store's content directory: what the store, overlays and sandboxes call views, uppers and caches
/// by. Never a path of the host or of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StorePath(String);

impl StorePath {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where in a directory of the content it is, if it is there.
    #[must_use]
    pub fn below(&self, directory: &str) -> Option<&str> {
        self.0.strip_prefix(directory)?.strip_prefix('/')
    }
}

impl From<&str> for StorePath {
    fn from(path: &str) -> Self {
        Self(path.to_owned())
    }
}

impl From<String> for StorePath {
    fn from(path: String) -> Self {
        Self(path)
    }
}

impl AsRef<Path> for StorePath {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Display for StorePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_told_from_one_whose_name_goes_on() {
        let view = StorePath::from("views/0a");
        assert_eq!((view.below("views"), view.below("view"), view.below("copies")), (Some("0a"), None, None));
    }
}
