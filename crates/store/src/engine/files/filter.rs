//! What is taken of a directory.

use std::collections::HashSet;

use lamina_image::patterns::PatternMatcher;
use lamina_image::{FileEntry, Ignore, Name};

use crate::StoreError;

/// Which files of a directory are taken.
pub(super) enum Filter {
    All,
    Patterns { matcher: PatternMatcher, inverted: bool },
    Only(HashSet<Vec<u8>>),
}

impl Filter {
    pub(super) fn new(entry: &FileEntry) -> Result<Self, StoreError> {
        Ok(match &entry.ignore {
            None => Self::All,
            Some(Ignore::Patterns { patterns, invert: false }) if patterns.is_empty() => Self::All,
            Some(Ignore::Patterns { patterns, invert }) => Self::Patterns {
                matcher: PatternMatcher::new(patterns)
                    .map_err(|error| StoreError::InvalidFileSet(error.to_string()))?,
                inverted: *invert,
            },
            Some(Ignore::Only { only }) => {
                let clean = |name: &Name| name.as_bytes().strip_prefix(b"./").unwrap_or(name.as_bytes()).to_vec();
                Self::Only(only.iter().map(clean).collect())
            }
        })
    }

    pub(super) fn takes_file(&self, path: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Patterns { matcher, inverted } => matcher.matches(path) == *inverted,
            Self::Only(paths) => paths.contains(path),
        }
    }

    /// Whether a link to a directory is taken, below which there is a file of this path.
    pub(super) fn takes_link(&self, link: &[u8], file: &[u8]) -> bool {
        match self {
            Self::Only(paths) => paths.contains(link),
            _ => self.takes_file(&super::beneath(link, file)),
        }
    }

    /// Whether something below a directory may be taken.
    pub(super) fn enters(&self, path: &[u8]) -> bool {
        match self {
            Self::Patterns { matcher, inverted: false } => !matcher.prunes() || !matcher.matches(path),
            _ => true,
        }
    }
}
