//! Local files that an image takes in.
//!
//! The engine walks them, because the worker, which has other ids, may not read them; it hands changed files to the
//! worker as open descriptors. What is known about unchanged ones is kept in a [`record::Record`] per file set,
//! so that a second look costs one walk and no reading.

mod context;
mod filter;
mod ingest;
mod links;
mod place;
pub(super) mod record;
mod walk;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lamina_ground::Stack;
use lamina_image::{Digest, FileSet, Hasher};

use super::Store;
use super::image_tree::ImageTree;
use crate::protocol::{Published, Request};
use crate::tree::{Entry, Node, Tree, TreeError, parent};
use crate::{Committed, Metadata, StoreError};

pub use context::Context;
use links::LocalLink;
use place::{Item, Placement};
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
    /// Views that together show the set: one, or a delta over an older one; none when the set is empty.
    pub views: Stack<Digest>,
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
    /// Which source of the set it comes from.
    entry: usize,
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
pub struct Collection {
    files: Vec<(LocalFile, Digest)>,
    links: Vec<LocalLink>,
    record_path: PathBuf,
    record: Record,
    /// How it was shown over images, most recently last.
    shown: Vec<Shown>,
    read: u64,
    bytes_new: u64,
    warnings: Vec<String>,
}

impl Collection {
    /// Walks the sources and reads what is not known.
    pub(super) fn collect(store: &Store, set: &FileSet) -> Result<Self, StoreError> {
        let mut warnings = Vec::new();
        let (files, links) = walk::walk(set, &store.cancel, &mut warnings)?;
        Self::of(store, record::path(store.layout(), set), files, links, warnings)
    }

    /// Reads what is not known of these files, which are in the order of their paths in the image.
    fn of(
        store: &Store,
        record_path: PathBuf,
        files: Vec<LocalFile>,
        links: Vec<LocalLink>,
        warnings: Vec<String>,
    ) -> Result<Self, StoreError> {
        let former = Record::load(&record_path);
        let mut collection = Self {
            files: Vec::with_capacity(files.len()),
            record_path,
            record: Record {
                base: former.base,
                links: Some(links::digest(&links)).filter(|_| !links.is_empty()),
                shown: Vec::new(),
                files: Vec::with_capacity(files.len()),
            },
            links,
            shown: Vec::new(),
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
        let same_links = collection.record.links == former.links;
        if unknown.is_empty() && same_links && collection.files.len() == former.files.len() {
            collection.shown = former.shown;
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
        for read in ingest::ingest(&store.shared.client, files, &store.cancel)? {
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
        self.shown.retain(|other| other.image != shown.image);
        self.shown.push(shown);
        let is_complete = self.record.files.len() == self.files.len();
        let latest = self.shown.len().saturating_sub(record::MAXIMUM_SHOWN);
        self.record.shown = if is_complete { self.shown[latest..].to_vec() } else { Vec::new() };
        crate::layout::write_atomically(&self.record_path, &self.record.encode())
    }

    /// Remembers the files alone.
    fn save_files(&mut self) -> Result<(), StoreError> {
        crate::layout::write_atomically(&self.record_path, &self.record.encode())
    }

    /// The whole set's digest and the views that show it over an image, if both are as they were and the views are
    /// still there.
    fn known(&self, store: &Store, image: &Digest) -> Result<Option<(Digest, Stack<Digest>)>, StoreError> {
        let shown = self.shown.iter().find(|shown| shown.image == *image);
        let Some((whole, views)) = shown.map(|shown| (shown.whole, shown.views())) else { return Ok(None) };
        for view in views.bottom_up() {
            if !store.is_usable(view)? {
                return Ok(None);
            }
        }
        record::touch(&self.record_path)?;
        Ok(Some((whole, views)))
    }

    /// What was left out, in sentences.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// The set as one or two views over an image with these layers.
    pub(super) fn view(&mut self, store: &Store, image: &Stack<Digest>) -> Result<FileSetView, StoreError> {
        let (files, bytes) = (self.files.len() as u64, self.bytes());
        let (digest, views) = match self.known(store, &of_all(image))? {
            _ if self.files.is_empty() => (None, Stack::new()),
            Some((whole, views)) => (Some(whole), views),
            None => self.show(store, image).map(|(whole, views)| (Some(whole), views))?,
        };
        let (read, warnings) = (std::mem::take(&mut self.read), self.take_warnings());
        Ok(FileSetView { digest, views, files, bytes, read, warnings })
    }

    /// Makes the views that show the set.
    fn show(&mut self, store: &Store, image: &Stack<Digest>) -> Result<(Digest, Stack<Digest>), StoreError> {
        let base = self.record.base.filter(|_| self.files.len() >= SMALL);
        let (tree, base) = rayon::join(
            || self.tree(store, image),
            || base.and_then(|digest| store.tree(&digest).map(|tree| (digest, tree))),
        );
        let (tree, image) = (tree?, of_all(image));
        let encoded = tree.encode();
        let whole = Digest::of(&encoded);
        if !store.is_usable(&whole)?
            && let Some((base, base_tree)) = base
            && base != whole
            && store.is_usable(&base)?
            && let Some(delta) = self.delta(&base_tree, &tree)
        {
            let delta = self.publish(store, &delta.encode())?;
            let shown = Shown { image, whole, delta: Some((delta, base)) };
            self.save(shown)?;
            return Ok((whole, shown.views()));
        }
        self.publish(store, &encoded)?;
        self.record.base = Some(whole);
        let shown = Shown { image, whole, delta: None };
        self.save(shown)?;
        Ok((whole, shown.views()))
    }

    /// The set as one layer over these.
    pub(super) fn layer(mut self, store: &Store, image: &Stack<Digest>) -> Result<Committed, StoreError> {
        let (files, bytes) = (self.files.len() as u64, self.bytes());
        let known = match self.known(store, &of_all(image))? {
            Some((whole, views)) if views.bottom_up() == [whole] => store.tree(&whole).map(|tree| (whole, tree)),
            _ => None,
        };
        let (digest, tree) = if let Some(known) = known {
            known
        } else {
            let tree = self.tree(store, image)?;
            let digest = self.publish(store, &tree.encode())?;
            self.save(Shown { image: of_all(image), whole: digest, delta: None })?;
            (digest, tree)
        };
        Ok(Committed { digest, content: tree.content(), files, bytes, bytes_new: self.bytes_new })
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|(file, _)| file.status.size).sum()
    }

    /// The set as a tree of container root's, over an image.
    fn tree(&self, store: &Store, image: &Stack<Digest>) -> Result<Tree, StoreError> {
        let mut image = ImageTree::open(store, image)?;
        let placement = Placement::new(self.files.iter().map(|(file, _)| file), &self.links, &mut image)?;
        let item_entry = |(path, item): (Vec<u8>, Item)| match item {
            Item::File(index) => {
                let (file, digest) = &self.files[index];
                let meta = file.status.metadata();
                Entry { path, node: Node::File { meta, size: file.status.size, digest: *digest } }
            }
            Item::Link(target) => Entry { path, node: Node::Symlink { meta: Metadata::root_owned(0o777), target } },
        };
        let directories = placement.directories.into_iter().map(directory_entry);
        let entries = directories.chain(placement.items.into_iter().map(item_entry));
        Tree::new(entries.collect()).map_err(|error| match error {
            TreeError::Order(path) => {
                StoreError::InvalidFileSet(format!("`{path}` would be a file and a directory at once"))
            }
            other => StoreError::InvalidFileSet(other.to_string()),
        })
    }

    /// What `tree` adds to that of the last full view, when that is a small part of it and nothing was removed.
    ///
    /// Removals take a new full view: a whiteout over the old one would also hide what the image has below.
    fn delta(&self, base_tree: &Tree, tree: &Tree) -> Option<Tree> {
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
        Tree::new(entries).ok()
    }

    /// Makes a view, reading files again whose objects are gone.
    fn publish(&mut self, store: &Store, encoded: &[u8]) -> Result<Digest, StoreError> {
        let client = &store.shared.client;
        let digest = Digest::of(encoded);
        if store.is_usable(&digest)? {
            return Ok(digest);
        }
        let missing = match client.begin(Request::Publish, encoded, &[])?.wait()? {
            Published::Done(digest) => return Ok(digest),
            Published::Missing(missing) => BTreeSet::from_iter(missing),
        };
        let again: Vec<LocalFile> =
            self.files.iter().filter(|(_, digest)| missing.contains(digest)).map(|(file, _)| file.clone()).collect();
        self.read += again.len() as u64;
        ingest::ingest(client, again, &store.cancel)?;
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

fn directory_entry((path, meta): (Vec<u8>, Metadata)) -> Entry {
    Entry { path, node: Node::Directory { meta, opaque: false } }
}

/// What stands for an image with these layers.
fn of_all(layers: &Stack<Digest>) -> Digest {
    let mut hasher = Hasher::new();
    for layer in layers.bottom_up() {
        hasher.update(layer.as_bytes());
    }
    hasher.finish()
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
pub(super) fn beneath(directory: &[u8], path: &[u8]) -> Vec<u8> {
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
