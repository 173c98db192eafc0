//! Views: trees as directories that an overlay mounts as lower ones.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lamina_image::Digest;
use rayon::prelude::*;
use rustix::fs::{CWD, FileType, Mode, Stat};

use super::disk::{self, Result, join};
use super::place::{Bytes, MOST_COPIED, Place, set_metadata};
use super::removal::remove_all;
use super::xattrs::{self, Depth};
use super::{WorkerContext, outline, whiteouts};
use crate::placing::Placing;
use crate::protocol::Published;
use crate::tree::{Entry, Node, Tree};
use crate::{JobError, Metadata, Timestamp};

/// Makes a view of an encoded tree and publishes both, unless objects are missing.
pub(super) fn publish(context: &WorkerContext, encoded: &[u8]) -> Result<Published> {
    make_and_publish(context, encoded, |context, digest, tree, view| {
        let is_damaged = disk::try_stat(&view_path(context, digest))?.is_some()
            && !(disk::try_stat(&tree_path(context, digest))?.is_some() && looks_right(context, digest)?);
        if is_damaged { replace_both(context, digest, tree, view) } else { publish_both(context, digest, tree, view) }
    })
}

fn make_and_publish(
    context: &WorkerContext,
    encoded: &[u8],
    publish: impl FnOnce(&WorkerContext, &Digest, &Path, &Path) -> Result<()>,
) -> Result<Published> {
    let tree = Tree::decode(encoded).map_err(|error| JobError::new(JobError::STORE, error.to_string()))?;
    let digest = Digest::of(encoded);
    let missing = missing(context, &tree)?;
    if !missing.is_empty() {
        return Ok(Published::Missing(missing));
    }
    context.sync()?;
    let root = context.temporary_path();
    let tree_file = context.temporary_path();
    let built = build(context, &tree, &root)
        .and_then(|()| write_tree(encoded, &tree_file))
        .and_then(|()| whiteouts::publish(context, &digest, &tree, &root))
        .and_then(|()| publish(context, &digest, &tree_file, &root));
    if built.is_err() {
        // The first error is the one to report; what stays is swept with the session.
        let _ = remove_all(&root);
    }
    built.map(|()| Published::Done(digest))
}

/// Makes the view of a published tree again, in the place of whatever is there: one that was damaged, or that another kernel
/// made in another way. False when the tree or some object is gone or damaged.
pub(super) fn restore(context: &WorkerContext, digest: &Digest) -> Result<bool> {
    let path = tree_path(context, digest);
    if disk::try_stat(&path)?.is_none() {
        return Ok(false);
    }
    let encoded = disk::read(&path)?;
    if Digest::of(&encoded) != *digest {
        return Ok(false);
    }
    Ok(matches!(make_and_publish(context, &encoded, replace_both)?, Published::Done(_)))
}

/// A look at a view, cheap enough for every start: whether its directories have the times that the tree says, which change with
/// every name that comes or goes, and whether the deletions beside it are there. Files of small views, which may be copies, have
/// to have their sizes as well: after a power cut a copy may be there without its bytes.
pub(super) fn looks_right(context: &WorkerContext, digest: &Digest) -> Result<bool> {
    let Some(encoded) = outline::read(context, digest)? else { return Ok(false) };
    let Ok(outline) = Tree::outline(&encoded, MOST_COPIED) else { return Ok(false) };
    let root = view_path(context, digest);
    if !disk::try_stat(&root)?.is_some_and(|stat| disk::file_type(&stat) == FileType::Directory) {
        return Ok(false);
    }
    // Paths are looked up from here, which spares the store's own part of each.
    let opened = disk::open_directory(&root)?;
    let directory = |(path, modified): &(&[u8], Timestamp)| {
        let stat = disk::try_stat_below(&opened, path, &root)?;
        let is_right =
            |stat: Stat| disk::file_type(&stat) == FileType::Directory && disk::meta(&stat).modified == *modified;
        Ok(stat.is_some_and(is_right))
    };
    let file = |(path, size): &(&[u8], u64)| {
        let stat = disk::try_stat_below(&opened, path, &root)?;
        Ok(stat.is_some_and(|stat| disk::file_type(&stat) == FileType::RegularFile && disk::size(&stat) == *size))
    };
    Ok(all(&outline.directories, directory)?
        && all(&outline.files, file)?
        && whiteouts::look_right(context, digest, &outline.deletions, &root)?)
}

fn all<T>(items: &[T], is_right: impl Fn(&T) -> Result<bool>) -> Result<bool> {
    for item in items {
        if !is_right(item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where a view is.
pub(super) fn view_path(context: &WorkerContext, digest: &Digest) -> std::path::PathBuf {
    context.content().join(context.placing.directory()).join(digest.hex())
}

/// Where a tree is.
pub(super) fn tree_path(context: &WorkerContext, digest: &Digest) -> std::path::PathBuf {
    context.content().join("trees").join(digest.hex())
}

/// Writes an encoded tree and makes it durable.
pub(super) fn write_tree(encoded: &[u8], path: &Path) -> Result<()> {
    let mut file = disk::create(path)?;
    std::io::Write::write_all(&mut file, encoded).map_err(JobError::file("writing", path))?;
    rustix::fs::fsync(&file).map_err(JobError::file("syncing", path))?;
    disk::change_mode(path, 0o644)
}

/// Moves a finished tree and a finished view to their names. Whatever is there under these names already is the same.
pub(super) fn publish_both(context: &WorkerContext, digest: &Digest, tree: &Path, view: &Path) -> Result<()> {
    disk::rename(tree, &tree_path(context, digest))?;
    if !disk::rename_directory(view, &view_path(context, digest))? {
        remove_all(view)?;
    }
    disk::sync_directory(&context.content().join("trees"))?;
    disk::sync_directory(&context.content().join(context.placing.directory()))
}

/// As [`publish_both`], but what is there is damaged: it is moved out of the way. A process that dies in between leaves a tree
/// without a view, which whoever needs it makes again.
pub(super) fn replace_both(context: &WorkerContext, digest: &Digest, tree: &Path, view: &Path) -> Result<()> {
    let path = view_path(context, digest);
    if disk::try_stat(&path)?.is_some() {
        disk::rename(&path, &context.temporary_path())?;
    }
    publish_both(context, digest, tree, view)
}

fn missing(context: &WorkerContext, tree: &Tree) -> Result<Vec<Digest>> {
    let absent = |entry: &Entry| match &entry.node {
        Node::File { size, digest, .. } if *size > 0 => {
            let found = context.objects.find(digest, Some(*size));
            found.map(|found| found.is_none().then_some(*digest)).transpose()
        }
        _ => None,
    };
    tree.entries().par_iter().filter_map(absent).collect()
}

/// Makes what a layer has as plain files at `root`, which share nothing with the store.
pub(super) fn copy(context: &WorkerContext, layer: &Digest, root: &Path) -> Result<()> {
    let encoded = disk::read(&tree_path(context, layer))?;
    let invalid = |error: String| JobError::new(JobError::STORE, error);
    let tree = Tree::decode(&encoded).map_err(|error| invalid(error.to_string()))?;
    // There is nothing below it that could be hidden.
    let plain = |entry: &Entry| match entry.node.clone() {
        Node::Directory { meta, .. } => Entry { node: Node::Directory { meta, opaque: false }, ..entry.clone() },
        _ => entry.clone(),
    };
    let tree = Tree::new(tree.entries().iter().map(plain).collect()).map_err(|error| invalid(error.to_string()))?;
    build_by(context, Placing::Copies, &tree, root)?;
    disk::sync_filesystem(root)
}

/// Builds a view at `root`.
fn build(context: &WorkerContext, tree: &Tree, root: &Path) -> Result<()> {
    let placing = context.placing_of(tree);
    build_by(context, placing, tree, root)?;
    say_how_placed(context, placing, root)?;
    match placing {
        // Metadata is on the disk before the names that are given to it next; and see `looks_right`.
        Placing::Redirects | Placing::Copies => Ok(()),
        Placing::Clones | Placing::Links => disk::sync_filesystem(root),
    }
}

/// Makes the files of a tree. It was checked: every parent is a directory of the tree, so no path leaves `root`.
fn build_by(context: &WorkerContext, placing: Placing, tree: &Tree, root: &Path) -> Result<()> {
    let (directories, others): (Vec<&Entry>, Vec<&Entry>) =
        tree.entries().iter().partition(|entry| matches!(entry.node, Node::Directory { .. }));
    let make = |entry: &Entry| make(context, placing, entry, root);
    for entry in directories {
        make(entry)?;
    }
    // A link needs the file that it names.
    let (links, files): (Vec<&Entry>, Vec<&Entry>) =
        others.into_iter().partition(|entry| matches!(entry.node, Node::HardLink { .. }));
    files.par_iter().try_for_each(|entry| make(entry))?;
    links.iter().try_for_each(|entry| make(entry))?;
    set_times_of_directories(tree.entries(), root)
}

/// Gives directories their times, when nothing is added to them any more.
pub(super) fn set_times_of_directories(entries: &[Entry], root: &Path) -> Result<()> {
    entries.par_iter().try_for_each(|entry| match &entry.node {
        Node::Directory { meta, .. } => disk::set_time(&join(root, &entry.path), meta.modified),
        _ => Ok(()),
    })
}

/// Marks a view whose files are not placed as those of other views are.
pub(super) fn say_how_placed(context: &WorkerContext, placing: Placing, root: &Path) -> Result<()> {
    if placing == context.placing { Ok(()) } else { xattrs::set_has_copies(disk::open_directory(root)?, root) }
}

fn make(context: &WorkerContext, placing: Placing, entry: &Entry, root: &Path) -> Result<()> {
    let path = &join(root, &entry.path);
    match &entry.node {
        Node::Directory { meta, opaque } => {
            disk::make_directory(path, meta.mode)?;
            let directory = disk::open_directory(path)?;
            set_metadata(&directory, placing.depth(), meta, path)?;
            if *opaque { xattrs::set_opaque(directory, placing.depth(), path) } else { Ok(()) }
        }
        Node::File { meta, digest, size } => {
            let (parent, name) = (path.parent().unwrap_or(root), path.file_name().unwrap_or_default());
            let place = Place {
                directory: &disk::open_directory(parent)?.into(),
                name: Path::new(name),
                path: Path::new(OsStr::from_bytes(&entry.path)),
            };
            context.place(placing, Bytes { digest: *digest, size: *size }, meta, place).map(drop)
        }
        Node::HardLink { target } => {
            disk::hard_link(&join(root, target), path).map_err(JobError::file("linking to", path))
        }
        Node::Symlink { meta, target } => {
            rustix::fs::symlink(&target[..], path).map_err(JobError::file("creating the link", path))?;
            disk::change_owner(path, meta)?;
            disk::set_time(path, meta.modified)
        }
        Node::Fifo { meta } => {
            make_node(path, FileType::Fifo, meta)?;
            disk::change_owner(path, meta)?;
            disk::change_mode(path, meta.mode)?;
            disk::set_time(path, meta.modified)
        }
        Node::Whiteout if placing.depth() == Depth::One => whiteouts::make_deletion(path),
        Node::Whiteout | Node::Device { .. } => Ok(()),
    }
}

/// Makes a pipe, or the device 0/0 that is a whiteout and needs no privilege.
fn make_node(path: &Path, file_type: FileType, meta: &Metadata) -> Result<()> {
    rustix::fs::mknodat(CWD, path, file_type, Mode::from_raw_mode(meta.mode), 0)
        .map_err(JobError::file("creating", path))
}
