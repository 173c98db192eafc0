//! What the store remembers of an unpacked package: its files as objects, by path. Kept in `content/conda`.

use lamina_image::Digest;
use lamina_packages::{Descriptions, file_name};
use lamina_store::{JobError, KeptPackage, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::known::Known;

/// An unpacked package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Whether it holds Python modules for any Python.
    pub(crate) is_python: bool,
    /// What it consists of, in the order of the paths.
    pub(crate) entries: Vec<Entry>,
    /// The programs to make.
    pub(crate) entry_points: Vec<EntryPoint>,
    /// All that it is packed with, as it is packed, if it has a script that is run before it is installed: that one sees it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) packed: Vec<Entry>,
}

/// A path of an unpacked package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its path in the package.
    pub(crate) path: String,
    /// What is there.
    pub(crate) kind: EntryKind,
    /// Its SHA-256 in the package, if the package says so.
    pub(crate) sha256: Option<String>,
    /// What was replaced in it.
    pub(crate) replaced: Option<Replaced>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EntryKind {
    /// A file.
    File {
        /// The object that holds its bytes.
        digest: Digest,
        /// Its permission bits.
        mode: u32,
        /// Its length.
        size: u64,
    },
    /// A symbolic link to this.
    Link(String),
    /// An empty directory.
    Directory,
}

/// The prefix that a file was built for, where ours stands now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replaced {
    /// The prefix.
    pub(crate) placeholder: String,
    /// Whether it was text.
    pub(crate) is_text: bool,
    /// SHA-256 of what is there now.
    pub(crate) sha256: String,
}

/// A program that calls a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryPoint {
    /// The program's name.
    pub(crate) name: String,
    /// The module to import.
    pub(crate) module: String,
    /// What to call in it, with dots for attributes.
    pub(crate) function: String,
}

/// What unpacking makes of a package.
const VERSION: u32 = 2;

/// Name of the manifest of the package with this digest.
pub(crate) fn manifest_name(sha256: &str) -> String {
    file_name(&format!("{sha256}.{VERSION}"), None)
}

/// The manifests.
pub(crate) fn descriptions(context: &WorkerContext) -> Descriptions<'_> {
    Descriptions::new(context, "conda")
}

/// All unpacked packages, for those who collect what nobody uses.
pub(crate) fn packages(context: &WorkerContext) -> Result<Vec<KeptPackage>, JobError> {
    descriptions(context).packages(|is_part, bytes| {
        // What a package says about itself names no objects.
        if is_part {
            return serde_json::from_slice(bytes).map(|_: Known| Vec::new());
        }
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        let objects = manifest.entries.into_iter().chain(manifest.packed).filter_map(|entry| match entry.kind {
            EntryKind::File { digest, size, .. } if size > 0 => Some(digest),
            _ => None,
        });
        Ok(objects.collect())
    })
}
