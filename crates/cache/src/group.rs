//! How a tree is taken apart: groups of files that most likely change together.
//!
//! A cache keeps each group by itself, so a layer of which one package changed shares all others with the one before. What belongs
//! to a package of Python or Node (its modules, its metadata, its bytecode) is a group; a large file is one by itself; of what is
//! left, neighbours are together, up to a path whose digest says that a group ends there. So no group depends on what other
//! groups have, and there are some dozens of a layer with thousands of files.

use std::collections::{BTreeMap, HashSet};

use lamina_image::Digest;
use lamina_store::tree::{Entry, MAGIC, Node, Tree, TreeError};

/// Files of this many bytes are groups of their own.
const LARGE: u64 = 4 << 20;
/// One of so many paths ends a group.
const PATHS: u8 = 128;
/// Bytes of files with which a group ends in any case.
const MOST_BYTES: u64 = 16 << 20;
/// Bytes of small files that are compressed together.
const CHUNK_BYTES: u64 = 256 << 10;
/// Directories in which each name belongs to a package.
const PACKAGES: [&[u8]; 3] = [b"site-packages", b"dist-packages", b"node_modules"];

/// A part of a tree, in the form of a tree; it need not be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its encoding.
    pub(crate) encoded: Vec<u8>,
    /// The digest of that.
    pub(crate) digest: Digest,
    /// What its files hold, in the pieces in which that is compressed.
    pub(crate) chunks: Vec<Vec<Object>>,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Object {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Group {
    /// Reads a group.
    pub(crate) fn read(encoded: Vec<u8>) -> Result<Self, TreeError> {
        let parts = Tree::parts(&encoded)?;
        let (mut chunks, mut seen): (Vec<Vec<Object>>, _) = (Vec::new(), HashSet::new());
        let mut filled = CHUNK_BYTES;
        for (entry, _) in &parts {
            let Node::File { size, digest, .. } = entry.node else { continue };
            if size == 0 || !seen.insert(digest) {
                continue;
            }
            if filled >= CHUNK_BYTES || size >= CHUNK_BYTES {
                chunks.push(Vec::new());
                filled = 0;
            }
            filled = filled.saturating_add(size);
            chunks.last_mut().into_iter().for_each(|chunk| chunk.push(Object { digest, size }));
        }
        Ok(Self { digest: Digest::of(&encoded), encoded, chunks })
    }

    /// What its files hold.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.chunks.iter().flatten()
    }
}

/// The groups of a tree in its canonical encoding.
pub(crate) fn groups(tree: &[u8]) -> Result<Vec<Group>, TreeError> {
    let mut named: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut others: Vec<Vec<u8>> = Vec::new();
    let mut bytes: Option<u64> = None;
    for (entry, part) in Tree::parts(tree)? {
        let size = entry.node.size();
        if let Some(name) = name(&entry, size) {
            named.entry(name).or_insert_with(|| MAGIC.to_vec()).extend_from_slice(part);
            continue;
        }
        if bytes.is_none() {
            others.push(MAGIC.to_vec());
        }
        others.last_mut().into_iter().for_each(|group| group.extend_from_slice(part));
        let together = bytes.unwrap_or_default() + size;
        let is_last = Digest::of(&entry.path).as_bytes()[0].is_multiple_of(PATHS) || together >= MOST_BYTES;
        bytes = (!is_last).then_some(together);
    }
    others.into_iter().chain(named.into_values()).map(Group::read).collect()
}

/// The tree that consists of these groups.
pub(crate) fn joined<'a>(groups: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, TreeError> {
    let mut parts = Vec::new();
    for group in groups {
        parts.extend(Tree::parts(group)?);
    }
    parts.sort_by(|(left, _), (right, _)| left.path.cmp(&right.path));
    let encoded = parts.into_iter().map(|(_, part)| part);
    Ok(std::iter::once(&MAGIC[..]).chain(encoded).collect::<Vec<_>>().concat())
}

/// What a path is grouped by, if it is not by its neighbours.
fn name(entry: &Entry, size: u64) -> Option<Vec<u8>> {
    if size >= LARGE {
        return Some(entry.path.clone());
    }
    let mut begin = 0;
    let mut parts = entry.path.split(|byte| *byte == b'/');
    for part in parts.by_ref() {
        begin += part.len() + 1;
        if PACKAGES.contains(&part) {
            break;
        }
    }
    let first = parts.next()?;
    let file = if first == b"__pycache__" { parts.next()? } else { first };
    // `Flask-3.0.dist-info` is with `flask`, and so is `flask.py`.
    let end = file.iter().skip(1).position(|byte| matches!(byte, b'-' | b'.')).map_or(file.len(), |end| end + 1);
    Some([&entry.path[..begin], &file[..end].to_ascii_lowercase()].concat())
}

#[cfg(test)]
mod tests {
    use lamina_store::Metadata;

    use super::*;

    fn file(path: &str, contents: &str, size: u64) -> Entry {
        let node = Node::File { meta: Metadata::root_owned(0o644), size, digest: Digest::of(contents.as_bytes()) };
        Entry { path: path.into(), node }
    }

    fn tree(files: Vec<Entry>) -> Vec<u8> {
        let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        for entry in files {
            let mut path = &entry.path[..];
            while !path.is_empty() {
                path = path.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &path[..slash]);
                let node = Node::Directory { meta: Metadata::root_owned(0o755), opaque: false };
                entries.entry(path.to_vec()).or_insert(Entry { path: path.to_vec(), node });
            }
            entries.insert(entry.path.clone(), entry);
        }
        Tree::new(entries.into_values().collect()).unwrap().encode()
    }

    fn packages(version: &str) -> Vec<Entry> {
        let at = |path: &str| format!("usr/lib/python3/site-packages/{path}");
        let mut files = vec![
            file(&at("six.py"), "six", 10),
            file(&at("__pycache__/six.cpython-311.pyc"), "pyc", 10),
            file(&at(&format!("Flask-{version}.dist-info/RECORD")), version, 10),
            file(&at("flask/__init__.py"), &format!("flask {version}"), 10),
            file(&at("numpy.libs/big.so"), "big", LARGE),
        ];
        files.extend((0..1000).map(|number| file(&format!("usr/share/doc/{number}"), &number.to_string(), 100)));
        files
    }

    #[test]
    fn a_tree_comes_together_again() {
        let whole = tree(packages("1.0"));
        let groups = groups(&whole).unwrap();
        assert_eq!(joined(groups.iter().rev().map(|group| &group.encoded[..])).unwrap(), whole);
        assert!(groups.len() > 6 && groups.len() < 60, "{}", groups.len());
    }

    #[test]
    fn another_version_of_a_package_is_another_group_and_nothing_else() {
        let [former, present] = ["1.0", "2.0"].map(|version| groups(&tree(packages(version))).unwrap());
        let new: Vec<&Group> = present.iter().filter(|group| !former.contains(group)).collect();
        assert_eq!(new.len(), 1);
        assert_eq!(new[0].objects().count(), 2);
    }

    #[test]
    fn a_new_file_changes_the_group_that_it_is_in() {
        let mut more = packages("1.0");
        more.push(file("usr/share/doc/5000", "new", 100));
        let (former, present) = (groups(&tree(packages("1.0"))).unwrap(), groups(&tree(more)).unwrap());
        assert_eq!(present.iter().filter(|group| !former.contains(group)).count(), 1);
    }

    #[test]
    fn small_files_are_compressed_together_and_large_ones_by_themselves() {
        let sizes = [100, CHUNK_BYTES - 1, 100, CHUNK_BYTES * 2, 100, 100];
        let files = sizes.iter().enumerate().map(|(at, size)| file(&format!("f{at}"), &at.to_string(), *size));
        let read = Group::read(tree(files.collect())).unwrap();
        let shape: Vec<Vec<u64>> = read.chunks.iter().map(|chunk| chunk.iter().map(|one| one.size).collect()).collect();
        assert_eq!(shape, [vec![100, CHUNK_BYTES - 1], vec![100], vec![CHUNK_BYTES * 2], vec![100, 100]]);
    }
}
