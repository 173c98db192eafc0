//! Local files that an image takes in.
//!
//! The engine walks them, because the worker, which has other ids, may not read them; it hands changed files to the
//! worker as open descriptors. What is known about unchanged ones is kept in a [`Record`](record::Record) per file set,
//! so that a second look costs one walk and no reading.

mod ingest;
pub(super) mod record;
mod walk;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lamina_image::{Digest, FileSet};

use super::Store;
use crate::protocol::{Published, Request};
use crate::tree::{Entry, Node, Tree, TreeError, parent};
use crate::{Committed, ObjectMeta, StoreError};

use record::{Record, Status};

/// Sets with fewer files get a new full view whenever something changes: making it takes no time.
const SMALL: usize = 500;
/// A delta view is made while it has less than one in this many of the set's files.
const DELTA_SHARE: usize = 5;

/// Local files, taken into the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSetView {
    /// Digest of the whole set; `None` when the set is empty.
    pub digest: Option<Digest>,
    /// Views that together show the set, top-most first: one, or a delta over an older one; none when the set is empty.
    pub views: Vec<Digest>,
    /// Files in the set.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files whose contents had to be read.
    pub read: u64,
    /// What was left out, in sentences.
    pub warnings: Vec<String>,
}

/// A local file on its way into the store.
#[derive(Debug, Clone)]
struct LocalFile {
    /// Path in the image, without leading slash.
    target: Vec<u8>,
    /// Where it is.
    source: PathBuf,
    /// What the walk saw.
    status: Status,
}

/// A collected file set: every digest is known and every object is in the store.
#[derive(Debug)]
pub(super) struct Collection {
    files: Vec<(LocalFile, Digest)>,
    record_path: PathBuf,
    record: Record,
    read: u64,
    bytes_new: u64,
    warnings: Vec<String>,
}

impl Collection {
    /// Walks the sources and reads what is not known.
    pub(super) fn collect(store: &Store, set: &FileSet) -> Result<Self, StoreError> {
        let record_path = record::path(store.layout(), set);
        let former = Record::load(&record_path);
        let mut warnings = Vec::new();
        let files = walk::walk(set, &mut warnings)?;
        let mut collection = Self {
            files: Vec::with_capacity(files.len()),
            record_path,
            record: Record { base: former.base, files: Vec::with_capacity(files.len()) },
            read: 0,
            bytes_new: 0,
            warnings,
        };
        let mut unknown = Vec::new();
        for file in files {
            match former.digest(&file.target, &file.status) {
                Some(digest) => collection.add(file, digest, true),
                None => unknown.push(file),
            }
        }
        let is_unchanged = unknown.is_empty() && collection.files.len() == former.files.len();
        collection.read_files(store, unknown)?;
        if is_unchanged {
            record::touch(&collection.record_path)?;
        } else {
            collection.save()?;
        }
        Ok(collection)
    }

    fn add(&mut self, file: LocalFile, digest: Digest, is_settled: bool) {
        if is_settled {
            self.record.files.push((file.target.clone(), file.status, digest));
        }
        self.files.push((file, digest));
    }

    fn read_files(&mut self, store: &Store, files: Vec<LocalFile>) -> Result<(), StoreError> {
        if files.is_empty() {
            return Ok(());
        }
        for read in ingest::ingest(&store.shared.client, files)? {
            self.read += 1;
            self.bytes_new += if read.is_new { read.file.status.size } else { 0 };
            self.add(read.file, read.digest, read.is_settled);
        }
        self.files.sort_unstable_by(|left, right| left.0.target.cmp(&right.0.target));
        self.record.files.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        Ok(())
    }

    fn save(&self) -> Result<(), StoreError> {
        crate::layout::write_atomically(&self.record_path, &self.record.encode())
    }

    /// The set as one or two views.
    pub(super) fn view(mut self, store: &Store) -> Result<FileSetView, StoreError> {
        let mut result = FileSetView { files: self.files.len() as u64, bytes: self.bytes(), ..FileSetView::default() };
        if !self.files.is_empty() {
            let tree = self.tree()?;
            let encoded = tree.encode();
            let digest = Digest::of(&encoded);
            result.digest = Some(digest);
            result.views = match self.delta(store, &digest, &tree) {
                _ if store.has_view(&digest) => vec![digest],
                Some((base, delta)) => vec![self.publish(store, &delta.encode())?, base],
                None => {
                    let full = vec![self.publish(store, &encoded)?];
                    self.record.base = Some(digest);
                    self.save()?;
                    full
                }
            };
        }
        Ok(FileSetView { read: self.read, warnings: self.warnings, ..result })
    }

    /// The set as one layer.
    pub(super) fn layer(mut self, store: &Store) -> Result<Committed, StoreError> {
        let encoded = self.tree()?.encode();
        let digest = Digest::of(&encoded);
        if !store.has_view(&digest) {
            self.publish(store, &encoded)?;
        }
        let (files, bytes) = (self.files.len() as u64, self.bytes());
        Ok(Committed { digest, files, bytes, bytes_new: self.bytes_new })
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|(file, _)| file.status.size).sum()
    }

    /// The set as a tree of container root's.
    fn tree(&self) -> Result<Tree, StoreError> {
        let mut directories: BTreeSet<&[u8]> = BTreeSet::from([&b""[..]]);
        for (file, _) in &self.files {
            let mut directory = parent(&file.target);
            while directories.insert(directory) {
                directory = parent(directory);
            }
        }
        let file_entry = |(file, digest): &(LocalFile, Digest)| Entry {
            path: file.target.clone(),
            node: Node::File {
                meta: ObjectMeta::root_owned(file.status.permissions()),
                size: file.status.size,
                digest: *digest,
            },
        };
        let entries = directories.into_iter().map(directory_entry).chain(self.files.iter().map(file_entry));
        Tree::new(entries.collect()).map_err(|error| match error {
            TreeError::Order(path) => {
                StoreError::InvalidFileSet(format!("`{path}` would be a file and a directory at once"))
            }
            other => StoreError::InvalidFileSet(other.to_string()),
        })
    }

    /// What `tree` adds to the last full view, when that is a small part of it and nothing was removed.
    ///
    /// Removals take a new full view: a whiteout over the old one would also hide what the image has below.
    fn delta(&self, store: &Store, digest: &Digest, tree: &Tree) -> Option<(Digest, Tree)> {
        let base = self.record.base.filter(|base| base != digest && store.has_view(base))?;
        if self.files.len() < SMALL {
            return None;
        }
        let base_tree = store.tree(&base)?;
        let mut changed: BTreeSet<&[u8]> = BTreeSet::new();
        let mut former = base_tree.entries().iter().peekable();
        for entry in tree.entries() {
            if former.peek().is_none_or(|old| old.path > entry.path) {
                changed.insert(&entry.path);
                continue;
            }
            let old = former.next().filter(|old| old.path == entry.path)?;
            if std::mem::discriminant(&old.node) != std::mem::discriminant(&entry.node) {
                return None;
            }
            if old.node != entry.node {
                changed.insert(&entry.path);
            }
        }
        if former.next().is_some() || changed.len() > self.files.len() / DELTA_SHARE {
            return None;
        }
        let mut wanted = changed.clone();
        for path in changed {
            let mut directory = parent(path);
            while wanted.insert(directory) {
                directory = parent(directory);
            }
        }
        let entries = tree.entries().iter().filter(|entry| wanted.contains(&entry.path[..])).cloned().collect();
        Some((base, Tree::new(entries).ok()?))
    }

    /// Makes a view, reading files again whose objects are gone.
    fn publish(&mut self, store: &Store, encoded: &[u8]) -> Result<Digest, StoreError> {
        let client = &store.shared.client;
        let digest = Digest::of(encoded);
        if store.has_view(&digest) {
            return Ok(digest);
        }
        let missing = match client.begin(Request::Publish, encoded, &[])?.wait()? {
            Published::Done(digest) => return Ok(digest),
            Published::Missing(missing) => BTreeSet::from_iter(missing),
        };
        let again: Vec<LocalFile> =
            self.files.iter().filter(|(_, digest)| missing.contains(digest)).map(|(file, _)| file.clone()).collect();
        self.read += again.len() as u64;
        ingest::ingest(client, again)?;
        match client.begin(Request::Publish, encoded, &[])?.wait()? {
            Published::Done(digest) => Ok(digest),
            Published::Missing(missing) => Err(StoreError::Changed(self.source_of(&missing))),
        }
    }

    /// The local file with one of these contents.
    fn source_of(&self, digests: &[Digest]) -> PathBuf {
        let found = self.files.iter().find(|(_, digest)| digests.contains(digest));
        found.map(|(file, _)| file.source.clone()).unwrap_or_default()
    }
}

/// Directories take the mode that every Debian gives them; all others are open to every user.
fn directory_entry(path: &[u8]) -> Entry {
    let mode = match path {
        b"root" => 0o700,
        b"tmp" | b"var/tmp" => 0o1777,
        _ => 0o755,
    };
    Entry { path: path.to_vec(), node: Node::Directory { meta: ObjectMeta::root_owned(mode), opaque: false } }
}

/// The path in the image as bytes without leading slash.
fn image_path(target: &str) -> Result<Vec<u8>, StoreError> {
    let refuse = |why: &str| StoreError::InvalidFileSet(format!("the path `{target}` in the image {why}"));
    let rest = target.strip_prefix('/').ok_or_else(|| refuse("is not absolute"))?;
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(refuse("has a `..`"));
    }
    Ok(parts.join("/").into_bytes())
}

/// A directory and a relative path as one path.
fn beneath(directory: &[u8], path: &[u8]) -> Vec<u8> {
    match (directory.is_empty(), path.is_empty()) {
        (true, _) => path.to_vec(),
        (_, true) => directory.to_vec(),
        _ => [directory, b"/", path].concat(),
    }
}

/// A path for messages about something that is no valid target.
fn display(path: &Path) -> String {
    path.display().to_string()
}
