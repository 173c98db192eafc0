//! Layers and whole images as archives, written by the store worker, who alone may read all files of layers.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;

use lamina_image::Digest;
use lamina_store::tree::{Entry, Node, Tree};
use lamina_store::{Job, JobError, JobErrorKind, Metadata, WorkerContext};
use serde::{Deserialize, Serialize};

use super::tar::{Kind, Times, Writer};

/// Kind of a [`JobError`]: a file cannot be in an image's layer.
pub const NOT_PORTABLE: JobErrorKind = JobErrorKind::new("registry-not-portable");
/// The beginning of names of files that stand for deletions.
const WHITEOUT: &[u8] = b".wh.";
/// The file that stands for the deletion of everything below in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Writes a layer, as the OCI image specification has it, into the one descriptor that comes with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WriteLayer {
    pub(crate) layer: Digest,
    pub(crate) times: Times,
}

/// Writes what the layers of an image are together into the one descriptor that comes with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WriteRoot {
    /// The layers, the lowest first.
    pub(crate) layers: Vec<WriteLayer>,
}

impl Job for WriteLayer {
    const NAME: &'static str = "registry.write-layer";
    type Output = ();

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<(), JobError> {
        let layers = [(context.tree(&self.layer)?, self.times)];
        let entries = layers[0].0.entries();
        if let Some(entry) = entries.iter().find(|entry| name(&entry.path).starts_with(WHITEOUT)) {
            return Err(JobError::new(
                NOT_PORTABLE,
                format!(
                    "`/{}` cannot be in an image that leaves the store: in layers, names that begin with `.wh.` stand for \
                     deletions",
                    String::from_utf8_lossy(&entry.path)
                ),
            ));
        }
        let found = entries.iter().filter(|entry| entry.node != Node::Whiteout).map(|entry| Found { layer: 0, entry });
        let mut archive = Archive { writer: open(fds)?, context, layers: &layers, written: HashMap::new() };
        let deletions = Deletions::of(entries);
        for found in in_order(found.collect()) {
            archive.put(found)?;
            if let Node::Directory { opaque, .. } = found.entry.node {
                deletions.write(&mut archive.writer, &found.entry.path, opaque)?;
            }
        }
        Ok(archive.writer.finish()?)
    }
}

/// What a layer deletes, by the directory that it is in. It stands before what the layer has there.
struct Deletions<'a>(HashMap<&'a [u8], Vec<&'a [u8]>>);

impl<'a> Deletions<'a> {
    fn of(entries: &'a [Entry]) -> Self {
        let mut deletions: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
        for entry in entries.iter().filter(|entry| matches!(entry.node, Node::Whiteout)) {
            deletions.entry(directory(&entry.path)).or_default().push(name(&entry.path));
        }
        Self(deletions)
    }

    fn write<W: Write>(&self, writer: &mut Writer<W>, path: &[u8], is_opaque: bool) -> io::Result<()> {
        let opaque = is_opaque.then(|| OPAQUE.to_vec());
        let deleted = self.0.get(path).into_iter().flatten().map(|name| [WHITEOUT, name].concat());
        for name in opaque.into_iter().chain(deleted) {
            let path = if path.is_empty() { name } else { [path, b"/", &name].concat() };
            writer.entry(&path, &Metadata::root_owned(0o600), Kind::File { size: 0, is_sparse: false })?;
        }
        Ok(())
    }
}

impl Job for WriteRoot {
    const NAME: &'static str = "registry.write-root";
    type Output = ();

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<(), JobError> {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| Ok((context.tree(&layer.layer)?, layer.times)))
            .collect::<Result<_, JobError>>()?;
        let mut archive = Archive { writer: open(fds)?, context, layers: &layers, written: HashMap::new() };
        for found in in_order(merged(&layers).into_values().collect()) {
            archive.put(found)?;
        }
        Ok(archive.writer.finish()?)
    }
}

/// An archive that is being written.
struct Archive<'a> {
    writer: Writer<BufWriter<File>>,
    context: &'a WorkerContext,
    layers: &'a [(Tree, Times)],
    /// At which path a file of a layer was written that others are further names of.
    written: HashMap<(usize, &'a [u8]), &'a [u8]>,
}

impl<'a> Archive<'a> {
    fn put(&mut self, found: Found<'a>) -> Result<(), JobError> {
        let Found { layer, entry } = found;
        let (tree, times) = &self.layers[layer];
        self.writer.set_times(*times);
        let file = found.file(tree).ok_or_else(|| damaged(&entry.path))?;
        let (kind, meta) = described(&file.node).ok_or_else(|| damaged(&entry.path))?;
        if let Node::File { size, digest, .. } = &file.node {
            if let Some(target) = self.written.get(&(layer, &file.path[..])) {
                return Ok(self.writer.entry(&entry.path, meta, Kind::HardLink { target })?);
            }
            self.written.insert((layer, &file.path), &entry.path);
            if *size == 0 {
                return Ok(self.writer.entry(&entry.path, meta, kind)?);
            }
            let (mut contents, is_sparse) = self.context.open_intact_object(digest, *size)?;
            self.writer.entry(&entry.path, meta, Kind::File { size: *size, is_sparse })?;
            return Ok(self.writer.contents_of(*size, &mut contents)?);
        }
        Ok(self.writer.entry(&entry.path, meta, kind)?)
    }
}

/// What a directory holds follows it at once: programs give it its time when they leave it.
fn in_order(mut found: Vec<Found<'_>>) -> Vec<Found<'_>> {
    let parts = |path: &[u8]| path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect::<Vec<_>>();
    found.sort_by_cached_key(|found| parts(&found.entry.path));
    found
}

/// What an image has at a path.
#[derive(Clone, Copy)]
struct Found<'a> {
    layer: usize,
    entry: &'a Entry,
}

impl<'a> Found<'a> {
    /// The entry that says what is there: that of the file, for a further name of one.
    fn file(self, tree: &'a Tree) -> Option<&'a Entry> {
        let Node::HardLink { target } = &self.entry.node else { return Some(self.entry) };
        tree.entries().binary_search_by(|entry| entry.path.cmp(target)).ok().map(|index| &tree.entries()[index])
    }
}

/// What layers are together.
fn merged(layers: &[(Tree, Times)]) -> BTreeMap<&[u8], Found<'_>> {
    let mut merged: BTreeMap<&[u8], Found<'_>> = BTreeMap::new();
    for (layer, (tree, _)) in layers.iter().enumerate() {
        for entry in tree.entries() {
            let path = &entry.path[..];
            let was_directory =
                merged.get(path).is_some_and(|found| matches!(found.entry.node, Node::Directory { .. }));
            if was_directory && !matches!(entry.node, Node::Directory { opaque: false, .. }) {
                remove_below(&mut merged, path);
            }
            if entry.node == Node::Whiteout {
                merged.remove(path);
            } else {
                merged.insert(path, Found { layer, entry });
            }
        }
    }
    merged
}

fn remove_below(merged: &mut BTreeMap<&[u8], Found<'_>>, directory: &[u8]) {
    let prefix = if directory.is_empty() { Vec::new() } else { [directory, b"/"].concat() };
    let range = merged.range(&prefix[..]..).map(|(path, _)| *path);
    let below: Vec<&[u8]> =
        range.take_while(|path| path.starts_with(&prefix)).filter(|path| !path.is_empty()).collect();
    for path in below {
        merged.remove(path);
    }
}

fn open(fds: Vec<OwnedFd>) -> Result<Writer<BufWriter<File>>, JobError> {
    let output =
        fds.into_iter().next().ok_or_else(|| JobError::new(JobError::STORE, "an archive came without its file"))?;
    Ok(Writer::new(BufWriter::with_capacity(1 << 20, File::from(output))))
}

/// What a node that is no further name of another is in an archive.
fn described(node: &Node) -> Option<(Kind<'_>, &Metadata)> {
    Some(match node {
        Node::Directory { meta, .. } => (Kind::Directory, meta),
        Node::File { meta, size, .. } => (Kind::File { size: *size, is_sparse: false }, meta),
        Node::Symlink { meta, target } => (Kind::Symlink { target }, meta),
        Node::Fifo { meta } => (Kind::Fifo, meta),
        Node::Device { meta, block, major, minor } => {
            (Kind::Device { is_block: *block, major: *major, minor: *minor }, meta)
        }
        Node::HardLink { .. } | Node::Whiteout => return None,
    })
}

fn damaged(path: &[u8]) -> JobError {
    JobError::new(JobError::STORE, format!("`/{}` names nothing in its layer", String::from_utf8_lossy(path)))
}

fn directory(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &path[..slash])
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}
