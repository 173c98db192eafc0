//! The directory that a Dockerfile's `COPY` takes files from: as it is, with its links, empty directories and modes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use lamina_image::patterns::PatternMatcher;
use lamina_image::{FileEntry, FileKind, FileSet, Ignore};
use rustix::fs::FileType;

use super::filter::Filter;
use super::record::Status;
use super::{Collection, LocalFile, beneath, record};
use crate::engine::Store;
use crate::tree::{Entry, Node, Tree};
use crate::{Committed, Metadata, StoreError};

/// More links than this, one leading to the next, are a mistake.
const MAXIMUM_LINKS: usize = 40;

/// What is taken of a local directory.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The directory, absolute.
    pub root: &'a Path,
    /// What is never taken.
    pub ignore: Option<&'a Ignore>,
    /// Paths and patterns below it: only what they name is looked at.
    pub sources: &'a [String],
}

impl Context<'_> {
    /// What was found, as a layer over nothing.
    pub(in crate::engine) fn layer(&self, store: &Store) -> Result<Committed, StoreError> {
        let entry = FileEntry {
            source: self.root.display().to_string(),
            target: "/".to_owned(),
            kind: FileKind::Directory,
            ignore: self.ignore.cloned(),
        };
        let filter = Filter::new(&entry)?;
        if !fs::metadata(self.root).map_err(|_| StoreError::NotFound(self.root.to_owned()))?.is_dir() {
            return Err(StoreError::NotADirectory(self.root.to_owned()));
        }
        let mut sources = Vec::new();
        for source in self.sources {
            sources.push(Source::new(source.as_bytes())?);
        }
        let mut walk =
            Walk { store, root: self.root.into(), filter, sources, files: Vec::new(), others: BTreeMap::new() };
        walk.start()?;
        let mut files = walk.files;
        files.sort_unstable_by(|left, right| left.target.cmp(&right.target));
        // Named after what it is of, and apart from what `add_local_*` takes of the same directory.
        let marked = FileEntry { target: format!("/\0{}", self.sources.join("\0")), ..entry };
        let record_path = record::path(store.layout(), &FileSet { entries: vec![marked] });
        let mut collection = Collection::of(store, record_path, files, Vec::new(), Vec::new())?;
        let file = |(file, digest): &(LocalFile, lamina_image::Digest)| {
            let meta = file.status.metadata();
            Entry { path: file.target.clone(), node: Node::File { meta, size: file.status.size, digest: *digest } }
        };
        let others = walk.others.into_iter().map(|(path, node)| Entry { path, node });
        let entries = collection.files.iter().map(file).chain(others).collect();
        let tree = Tree::new(entries).map_err(|error| StoreError::InvalidFileSet(error.to_string()))?;
        let digest = collection.publish(store, &tree.encode())?;
        collection.save_files()?;
        let (files, bytes) = tree.totals();
        Ok(Committed { digest, content: tree.content(), files, bytes, bytes_new: collection.bytes_new })
    }
}

/// A path or pattern that is asked for.
struct Source {
    parts: Vec<PatternMatcher>,
    /// Whether it may name something at any depth.
    spans: bool,
    whole: PatternMatcher,
}

impl Source {
    fn new(path: &[u8]) -> Result<Self, StoreError> {
        let text = String::from_utf8_lossy(path);
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let matcher = |pattern: &str| {
            // A leading `!` is part of a name here.
            let pattern = if pattern.starts_with('!') { format!("\\{pattern}") } else { pattern.to_owned() };
            PatternMatcher::new(&[pattern]).map_err(|error| StoreError::InvalidFileSet(error.to_string()))
        };
        let spans = parts.contains(&"**");
        let whole = matcher(&parts.join("/"))?;
        Ok(Self { parts: parts.into_iter().map(matcher).collect::<Result<_, _>>()?, spans, whole })
    }

    /// Whether it names this path, or something that this is below.
    fn covers(&self, path: &[u8]) -> bool {
        self.parts.is_empty() || self.whole.matches(path)
    }

    /// Whether something below this path may be named.
    fn may_be_below(&self, path: &[u8]) -> bool {
        let names = path.split(|byte| *byte == b'/');
        self.spans || names.zip(&self.parts).all(|(name, part)| part.matches(name))
    }

    /// Whether it names exactly this path.
    fn names(&self, path: &[u8]) -> bool {
        self.covers(path) && (self.spans || path.split(|byte| *byte == b'/').count() <= self.parts.len())
    }
}

struct Walk<'a> {
    store: &'a Store,
    root: Arc<Path>,
    filter: Filter,
    sources: Vec<Source>,
    files: Vec<LocalFile>,
    /// Directories, links and pipes.
    others: BTreeMap<Vec<u8>, Node>,
}

impl Walk<'_> {
    /// Walks once, and again for what links lead to that are named themselves or are on the way to what is.
    fn start(&mut self) -> Result<(), StoreError> {
        for _ in 0..MAXIMUM_LINKS {
            self.files.clear();
            self.others.clear();
            let mut led = Vec::new();
            self.directory(b"", &mut led)?;
            let led: Vec<Vec<u8>> =
                led.into_iter().filter(|path| !self.sources.iter().any(|source| source.covers(path))).collect();
            if led.is_empty() {
                return Ok(());
            }
            for path in led {
                let escaped = String::from_utf8_lossy(&path).replace(['*', '?', '['], "?");
                self.sources.push(Source::new(escaped.as_bytes())?);
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &[u8], led: &mut Vec<Vec<u8>>) -> Result<(), StoreError> {
        self.store.cancel.check()?;
        let full = self.full(path);
        let status = fs::metadata(&full).map_err(StoreError::local("reading the status of", &full))?;
        self.others.insert(path.to_vec(), Node::Directory { meta: metadata(&status, path.is_empty()), opaque: false });
        let mut names: Vec<Vec<u8>> = Vec::new();
        for entry in fs::read_dir(&full).map_err(StoreError::local("listing", &full))? {
            names.push(entry.map_err(StoreError::local("listing", &full))?.file_name().into_vec());
        }
        names.sort_unstable();
        for name in names {
            self.entry(beneath(path, &name), led)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: Vec<u8>, led: &mut Vec<Vec<u8>>) -> Result<(), StoreError> {
        let covered = self.sources.iter().any(|source| source.covers(&path));
        if !covered && !self.sources.iter().any(|source| source.may_be_below(&path)) {
            return Ok(());
        }
        let full = self.full(&path);
        let stat = match rustix::fs::lstat(&full) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(StoreError::local("reading the status of", &full)(errno)),
        };
        let taken = covered && self.filter.takes_file(&path);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if self.filter.enters(&path) => {
                let before = self.others.len() + self.files.len();
                self.directory(&path, led)?;
                // One that is left out is there only where something below it is not.
                if !taken && self.others.len() + self.files.len() == before + 1 {
                    self.others.remove(&path);
                }
            }
            FileType::Symlink if taken || !covered => {
                let target = fs::read_link(&full).map_err(StoreError::local("reading the link", &full))?;
                if !covered || self.sources.iter().any(|source| source.names(&path)) {
                    led.push(join(&path, target.as_os_str().as_bytes()));
                }
                let status = fs::symlink_metadata(&full).map_err(StoreError::local("reading the status of", &full))?;
                let meta = Metadata { mode: 0o777, ..metadata(&status, false) };
                self.others.insert(path, Node::Symlink { meta, target: target.into_os_string().into_vec() });
            }
            FileType::RegularFile if taken => {
                let status = Status::new(&stat);
                self.files.push(LocalFile { target: path, origin: Arc::clone(&self.root), below: 0, entry: 0, status });
            }
            FileType::Fifo if taken => {
                let status = fs::symlink_metadata(&full).map_err(StoreError::local("reading the status of", &full))?;
                self.others.insert(path, Node::Fifo { meta: metadata(&status, false) });
            }
            // Images have neither sockets nor devices.
            _ => {}
        }
        Ok(())
    }

    fn full(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.root.to_path_buf() } else { self.root.join(OsStr::from_bytes(path)) }
    }
}

/// Where a link at `link` leads, with the context as the root of all paths.
fn join(link: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let start = if target.starts_with(b"/") { b"" } else { crate::tree::parent(link) };
    for part in start.split(|byte| *byte == b'/').chain(target.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// What a directory, link or pipe is in the image, where it belongs to container root.
fn metadata(status: &std::fs::Metadata, is_root: bool) -> Metadata {
    use std::os::unix::fs::MetadataExt;
    if is_root {
        return Metadata::root_owned(0o755);
    }
    let nanoseconds = u32::try_from(status.mtime_nsec()).unwrap_or_default();
    let modified = crate::Timestamp { seconds: status.mtime(), nanoseconds };
    Metadata { modified, ..Metadata::root_owned(status.mode() & 0o777) }
}
