//! What a layer changes over its parent: the diff tree.
//!
//! A tree is the canonical form of a layer. It holds whatever makes two layers differ (paths, types, modes, owners as
//! seen inside, modification times, extended attributes, contents, link targets, device numbers, deletions) and nothing
//! else. It has two digests: that of its encoding names the layer, so equal layers have equal names; that of the encoding
//! without times says what the layer holds, so a step that was run again and yields the same bytes at another time still
//! has the same content.

mod encoded;
mod format;

use std::collections::HashSet;

use lamina_image::Digest;

use crate::{Metadata, ObjectName, Timestamp};

pub(crate) use encoded::EncodedTree;
pub use format::MAGIC;

/// Longest path, in bytes; the kernel takes no longer ones at once.
pub const MAXIMUM_PATH: usize = 4095;
/// Longest file name, in bytes.
const MAXIMUM_NAME: usize = 255;
/// Longest value of an extended attribute, in bytes.
const MAXIMUM_ATTRIBUTE: usize = 64 << 10;

/// A diff tree: entries in the byte order of their paths, the root first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<Entry>,
}

/// What of a tree a look at its view is compared with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outline<'tree> {
    /// The directories, and when something in each was changed last.
    pub(crate) directories: Vec<(&'tree [u8], Timestamp)>,
    /// The regular files and their sizes in bytes, unless these are many.
    pub(crate) files: Vec<(&'tree [u8], u64)>,
    /// What is deleted.
    pub(crate) deletions: Vec<&'tree [u8]>,
}

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the image's root, without leading slash; empty for the root itself.
    pub path: Vec<u8>,
    /// What is there.
    pub node: Node,
}

/// What a layer has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory, merged with the parent's unless opaque.
    Directory {
        /// Mode, owner, attributes.
        meta: Metadata,
        /// Whether the parent's directory of this path is hidden.
        opaque: bool,
    },
    /// A regular file.
    File {
        /// Mode, owner, attributes.
        meta: Metadata,
        /// Length in bytes.
        size: u64,
        /// Digest of the contents.
        digest: Digest,
    },
    /// Another name of the file at an earlier path.
    HardLink {
        /// Path of the file.
        target: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// Owner; the mode is 0777.
        meta: Metadata,
        /// Where it points.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo {
        /// Mode, owner.
        meta: Metadata,
    },
    /// A device node. It exists in the tree only; views have no devices.
    Device {
        /// Mode, owner.
        meta: Metadata,
        /// Block device, else character device.
        block: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// The parent's file or directory is deleted.
    Whiteout,
}

/// A tree does not hold together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The bytes end in the middle of something, or something follows the end.
    #[error("the tree is truncated or longer than it says")]
    Length,
    /// The bytes are no tree of a version that this program knows.
    #[error("the tree is of an unknown format")]
    Format,
    /// A field has a value that it cannot have.
    #[error("the entry `{0}` has an impossible value")]
    Value(String),
    /// A path is absolute, empty, too long, or has parts that no file can have.
    #[error("the path `{0}` cannot be in a layer: it is too long or has an impossible part")]
    Path(String),
    /// Paths are not in order or appear twice.
    #[error("the path `{0}` is out of order or appears twice")]
    Order(String),
    /// A path's parent is no directory of the tree.
    #[error("the path `{0}` has no parent directory in the tree")]
    Orphan(String),
    /// A hard link does not name an earlier file.
    #[error("the hard link `{0}` does not name an earlier file")]
    Link(String),
}

impl Tree {
    /// A tree of these entries, which may come in any order.
    ///
    /// # Errors
    /// When a path is impossible, appears twice, or lacks its parent.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, TreeError> {
        entries.sort_unstable_by(|left, right| left.path.cmp(&right.path));
        Self::from_sorted(entries)
    }

    /// A tree of entries that are in order already.
    fn from_sorted(entries: Vec<Entry>) -> Result<Self, TreeError> {
        check(&entries)?;
        Ok(Self { entries })
    }

    /// The entries, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The canonical encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        format::encode(&self.entries)
    }

    /// The digest that names the layer: of the canonical encoding.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// The digest of what the layer holds, whenever it was made.
    #[must_use]
    pub fn content(&self) -> Digest {
        Digest::of(&format::encode_content(&self.entries))
    }

    /// Reads a canonical encoding.
    ///
    /// # Errors
    /// When the bytes are not exactly what [`Tree::encode`] makes of some tree.
    pub fn decode(bytes: &[u8]) -> Result<Self, TreeError> {
        Self::from_sorted(format::decode(bytes)?)
    }

    /// The entries of an encoding, each with the bytes that encode it. A tree's encoding is [`MAGIC`] and these, in the order
    /// of their paths, so a tree can be taken apart and put together again; whether they make one, [`Tree::decode`] says.
    ///
    /// # Errors
    /// When the bytes end in the middle of an entry.
    pub fn parts(bytes: &[u8]) -> Result<Vec<(Entry, &[u8])>, TreeError> {
        format::parts(bytes)
    }

    /// The outline of a canonical encoding; files are a part of it if all of them together have at most so many bytes.
    ///
    /// # Errors
    /// When the bytes end in the middle of something.
    pub(crate) fn outline(bytes: &[u8], most_bytes: u64) -> Result<Outline<'_>, TreeError> {
        format::outline(bytes, most_bytes)
    }

    /// The part of a canonical encoding whose outline is that of the whole.
    ///
    /// # Errors
    /// As [`Tree::outline`].
    pub(crate) fn without_contents(bytes: &[u8], most_bytes: u64) -> Result<Vec<u8>, TreeError> {
        format::without_contents(bytes, most_bytes)
    }

    /// What the layer deletes.
    pub(crate) fn deletions(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().filter(|entry| matches!(entry.node, Node::Whiteout)).map(|entry| &entry.path[..])
    }

    /// The regular files' number and bytes.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.entries.iter().fold((0, 0), |(files, bytes), entry| match entry.node {
            Node::File { size, .. } => (files + 1, bytes + size),
            _ => (files, bytes),
        })
    }
}

impl Node {
    /// Bytes of a file's contents; nothing else has any.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            _ => 0,
        }
    }

    /// The object that holds this file's bytes; `None` for anything but a file with contents.
    #[must_use]
    pub fn object(&self) -> Option<ObjectName> {
        match self {
            Self::File { size, digest, .. } if *size > 0 => Some(ObjectName::new(digest)),
            _ => None,
        }
    }
}

/// A path for messages.
pub(crate) fn lossy(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

/// The path of the directory that `path` is in; the root is its own parent.
pub(crate) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &path[..slash])
}

fn check(entries: &[Entry]) -> Result<(), TreeError> {
    let Some((root, rest)) = entries.split_first() else {
        return Err(TreeError::Orphan("/".to_owned()));
    };
    if !root.path.is_empty() || !matches!(root.node, Node::Directory { .. }) {
        return Err(TreeError::Orphan(lossy(&root.path)));
    }
    check_values(root)?;
    let mut directories: HashSet<&[u8]> = HashSet::from([&root.path[..]]);
    let mut files: HashSet<&[u8]> = HashSet::new();
    let mut previous: &[u8] = &root.path;
    for entry in rest {
        check_path(&entry.path)?;
        check_values(entry)?;
        if *previous >= entry.path[..] {
            return Err(TreeError::Order(lossy(&entry.path)));
        }
        if !directories.contains(parent(&entry.path)) {
            return Err(TreeError::Orphan(lossy(&entry.path)));
        }
        match &entry.node {
            Node::Directory { .. } => drop(directories.insert(&entry.path)),
            Node::File { .. } => drop(files.insert(&entry.path)),
            Node::HardLink { target } if !files.contains(&target[..]) => {
                return Err(TreeError::Link(lossy(&entry.path)));
            }
            _ => {}
        }
        previous = &entry.path;
    }
    Ok(())
}

fn check_path(path: &[u8]) -> Result<(), TreeError> {
    let possible = |part: &[u8]| {
        !part.is_empty() && part.len() <= MAXIMUM_NAME && part != b"." && part != b".." && !part.contains(&0)
    };
    if path.len() <= MAXIMUM_PATH && path.split(|byte| *byte == b'/').all(possible) {
        Ok(())
    } else {
        Err(TreeError::Path(lossy(path)))
    }
}

fn check_values(entry: &Entry) -> Result<(), TreeError> {
    let possible = match &entry.node {
        Node::Directory { meta, .. } | Node::File { meta, .. } | Node::Fifo { meta } | Node::Device { meta, .. } => {
            meta_is_possible(meta)
        }
        Node::Symlink { meta, target } => {
            meta.mode == 0o777
                && meta_is_possible(meta)
                && (1..=MAXIMUM_PATH).contains(&target.len())
                && !target.contains(&0)
        }
        Node::HardLink { .. } | Node::Whiteout => true,
    };
    if possible { Ok(()) } else { Err(TreeError::Value(lossy(&entry.path))) }
}

fn meta_is_possible(meta: &Metadata) -> bool {
    meta.mode & !0o7777 == 0
        && meta.modified.nanoseconds < 1_000_000_000
        && meta.xattrs.iter().all(|(name, value)| {
            (1..=MAXIMUM_NAME).contains(&name.len()) && !name.contains(&0) && value.len() <= MAXIMUM_ATTRIBUTE
        })
}

#[cfg(test)]
mod tests;
