//! Local files that an image takes in.

use serde::{Deserialize, Serialize};

/// What to collect from the local machine, and where it goes in the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileSet {
    /// The sources, in order; a later one wins where two write the same path.
    pub entries: Vec<FileEntry>,
}

impl FileSet {
    /// Whether there is nothing to collect.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// One local file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileEntry {
    /// Absolute local path.
    pub source: String,
    /// Absolute path in the image: of the file itself, or of the directory that receives the contents.
    pub target: String,
    /// What the source has to be.
    pub kind: FileKind,
    /// What to leave out.
    #[serde(default)]
    pub ignore: Option<Ignore>,
}

/// What a source has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file, or a link to one.
    File,
    /// A directory, or a link to one.
    Directory,
}

/// What to leave out of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ignore {
    /// Everything except these paths, relative to the source: a Python callable has already decided.
    Only {
        /// The paths to take.
        only: Vec<Name>,
    },
    /// What the patterns match; see [`crate::patterns`].
    Patterns {
        /// The patterns.
        patterns: Vec<String>,
        /// Leave out what the patterns do *not* match.
        #[serde(default)]
        invert: bool,
    },
}

/// A path as Python has it: text, or bytes that are no UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Name {
    /// Text.
    Text(String),
    /// The bytes of what is no text.
    Bytes(Vec<u8>),
}

impl Name {
    /// The bytes of either.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}
