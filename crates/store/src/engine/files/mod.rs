//! Local files that an image takes in.
//!
//! The engine walks them, because the worker, which has other ids, may not read them; it hands changed files to the
//! worker as open descriptors. What is known about unchanged ones is kept in a [`Record`](record::Record) per file set,
//! so that a second look costs one walk and no reading.

mod ingest;
pub(super) mod record;
mod walk;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lamina_image::{Digest, FileSet};

use super::Store;
use crate::protocol::{Published, Request};
use crate::tree::{Entry, Node, Tree, TreeError, parent};
use crate::{Committed, Metadata, StoreError};

use record::{Record, Shown, Status};

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
    /// The directory that it was found in, or the file itself.
    origin: Arc<Path>,
    /// Where in `target` its path below the origin begins.
    below: usize,
    /// What the walk saw.
    status: Status,
}

impl LocalFile {
    /// Where it is.
    fn source(&self) -> PathBuf {
        match &self.target[self.below..] {
            [] => self.origin.to_path_buf(),
            path => self.origin.join(OsStr::from_bytes(path)),
        }
    }
}

/// A collected file set: every digest is known and every object is in the store.
#[derive(Debug)]
pub(super) struct Collection {
    files: Vec<(LocalFile, Digest)>,
    record_path: PathBuf,
    record: Record,
    /// Whether it is as it was when it was last shown.
    is_unchanged: bool,
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
            record: Record { base: former.base, shown: None, files: Vec::with_capacity(files.len()) },
            is_unchanged: false,
            read: 0,
            bytes_new: 0,
            warnings,
        };
        let mut unknown = Vec::new();
        // Both are in the order of their paths.
        let mut recorded = former.files.iter().peekable();
        for file in files {
            while recorded.next_if(|(path, _, _)| *path < file.target).is_some() {}
            match recorded.next_if(|(path, status, _)| *path == file.target && *status == file.status) {
                Some((_, _, digest)) => collection.add(file, *digest, true),
                None => unknown.push(file),
            }
        }
        collection.is_unchanged = unknown.is_empty() && collection.files.len() == former.files.len();
        if collection.is_unchanged {
            collection.record.shown = former.shown;
        }
        collection.read_files(store, unknown)?;
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

    /// Remembers the set, and that it is shown so.
    fn save(&mut self, shown: Shown) -> Result<(), StoreError> {
        let is_complete = self.record.files.len() == self.files.len();
        self.record.shown = is_complete.then_some(shown);
        crate::layout::write_atomically(&self.record_path, &self.record.encode())
    }

    /// The whole set's digest and the views that show it, if it is as it was and they are still there.
    fn known(&self, store: &Store) -> Result<Option<(Digest, Vec<Digest>)>, StoreError> {
        let known = self.record.views().filter(|(_, views)| views.iter().all(|view| store.has_view(view)));
        if known.is_some() {
            record::touch(&self.record_path)?;
        }
        Ok(known)
    }

    /// The set as one or two views.
    pub(super) fn view(mut self, store: &Store) -> Result<FileSetView, StoreError> {
        let (files, bytes) = (self.files.len() as u64, self.bytes());
        let (digest, views) = match self.known(store)? {
            _ if self.files.is_empty() => (None, Vec::new()),
            Some((whole, views)) => (Some(whole), views),
            None => self.show(store).map(|(whole, views)| (Some(whole), views))?,
        };
        Ok(FileSetView { digest, views, files, bytes, read: self.read, warnings: self.warnings })
    }

    /// Makes the views that show the set.
    fn show(&mut self, store: &Store) -> Result<(Digest, Vec<Digest>), StoreError> {
        let tree = self.tree()?;
        let encoded = tree.encode();
        let whole = Digest::of(&encoded);
        if !store.has_view(&whole)
            && let Some((base, delta)) = self.delta(store, &whole, &tree)
        {
            let delta = self.publish(store, &delta.encode())?;
            self.save(Shown { whole, delta: Some(delta) })?;
            return Ok((whole, vec![delta, base]));
        }
        self.publish(store, &encoded)?;
        self.record.base = Some(whole);
        self.save(Shown { whole, delta: None })?;
        Ok((whole, vec![whole]))
    }

    /// The set as one layer.
    pub(super) fn layer(mut self, store: &Store) -> Result<Committed, StoreError> {
        let (files, bytes) = (self.files.len() as u64, self.bytes());
        let tree = self.tree()?;
        let digest = match self.known(store)? {
            Some((whole, views)) if views == [whole] => whole,
            _ => {
                let encoded = tree.encode();
                let digest = self.publish(store, &encoded)?;
                self.save(Shown { whole: digest, delta: None })?;
                digest
            }
        };
        Ok(Committed { digest, content: tree.content(), files, bytes, bytes_new: self.bytes_new })
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
            node: Node::File { meta: file.status.metadata(), size: file.status.size, digest: *digest },
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
        found.map(|(file, _)| file.source()).unwrap_or_default()
    }
}

/// Directories take the mode that every Debian gives them; all others are open to every user.
fn directory_entry(path: &[u8]) -> Entry {
    let mode = match path {
        b"root" => 0o700,
        b"tmp" | b"var/tmp" => 0o1777,
        _ => 0o755,
    };
    Entry { path: path.to_vec(), node: Node::Directory { meta: Metadata::root_owned(mode), opaque: false } }
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
