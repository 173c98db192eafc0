//! Views: hard-link forms of trees that an overlay mounts as lower directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lamina_image::Digest;
use rayon::prelude::*;
use rustix::fs::{CWD, FileType, Mode};

use super::disk::{self, Result, join};
use super::removal::remove_all;
use super::{WorkerContext, objects, xattrs};
use crate::protocol::Published;
use crate::tree::{Entry, Node, Tree};
use crate::{JobError, ObjectMeta, ObjectName};

/// Makes a view of an encoded tree and publishes both, unless objects are missing.
pub(super) fn publish(context: &WorkerContext, encoded: &[u8]) -> Result<Published> {
    let tree = Tree::decode(encoded).map_err(|error| JobError::new(JobError::STORE, error.to_string()))?;
    let digest = Digest::of(encoded);
    let missing = missing(context, &tree)?;
    if !missing.is_empty() {
        return Ok(Published::Missing(missing));
    }
    context.objects.sync(false)?;
    let root = context.temporary_path();
    let tree_file = context.temporary_path();
    let built = build(context, &tree, &root)
        .and_then(|()| write_tree(encoded, &tree_file))
        .and_then(|()| publish_both(context, &digest, &tree_file, &root));
    if built.is_err() {
        // The first error is the one to report; what stays is swept with the session.
        let _ = remove_all(&root);
    }
    built.map(|()| Published::Done(digest))
}

/// Where a view is.
pub(super) fn view_path(context: &WorkerContext, digest: &Digest) -> std::path::PathBuf {
    context.content().join("views").join(digest.hex())
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
    disk::sync_directory(&context.content().join("views"))
}

fn missing(context: &WorkerContext, tree: &Tree) -> Result<Vec<Digest>> {
    let absent = |entry: &Entry| match &entry.node {
        Node::File { meta, size, digest } => {
            let name = entry.node.object();
            let found = name.map(|name| context.objects.find(&name, meta, Some(*size))).transpose();
            found.map(|found| matches!(found, Some(None)).then_some(*digest)).transpose()
        }
        _ => None,
    };
    tree.entries().par_iter().filter_map(absent).collect()
}

/// Builds a view at `root`. The tree was checked: every parent is a directory of the tree, so no path leaves `root`.
fn build(context: &WorkerContext, tree: &Tree, root: &Path) -> Result<()> {
    for entry in tree.entries() {
        place(context, entry, root, &join(root, &entry.path))?;
    }
    // Children first: making them changes their directories' times.
    for entry in tree.entries().iter().rev() {
        if matches!(entry.node, Node::Directory { .. } | Node::Symlink { .. } | Node::Fifo { .. }) {
            disk::set_layer_time(&join(root, &entry.path))?;
        }
    }
    Ok(())
}

fn place(context: &WorkerContext, entry: &Entry, root: &Path, path: &Path) -> Result<()> {
    match &entry.node {
        Node::Directory { meta, opaque } => {
            disk::make_directory(path, meta.mode)?;
            objects::set_identity(path, meta)?;
            if *opaque { xattrs::set_opaque(disk::open_directory(path)?, path) } else { Ok(()) }
        }
        Node::File { meta, digest, size } => {
            let object = ObjectName::new(*digest, meta);
            let relative = Path::new(OsStr::from_bytes(&entry.path));
            context.place(&object, meta, relative, *size, &|from| disk::hard_link(from, path))
        }
        Node::HardLink { target } => {
            disk::hard_link(&join(root, target), path).map_err(JobError::file("linking to", path))
        }
        Node::Symlink { meta, target } => {
            rustix::fs::symlink(&target[..], path).map_err(JobError::file("creating the link", path))?;
            disk::change_owner(path, meta)
        }
        Node::Fifo { meta } => {
            make_node(path, FileType::Fifo, meta)?;
            disk::change_owner(path, meta)?;
            disk::change_mode(path, meta.mode)
        }
        Node::Whiteout => make_node(path, FileType::CharacterDevice, &ObjectMeta::default()),
        Node::Device { .. } => Ok(()),
    }
}

/// Makes a pipe, or the device 0/0 that is a whiteout and needs no privilege.
fn make_node(path: &Path, file_type: FileType, meta: &ObjectMeta) -> Result<()> {
    rustix::fs::mknodat(CWD, path, file_type, Mode::from_raw_mode(meta.mode), 0)
        .map_err(JobError::file("creating", path))
}
