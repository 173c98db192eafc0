//! From what is on disk to the nodes of a tree.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rayon::prelude::*;
use rustix::fs::FileType;

use super::bytecode;
use super::scan::Found;
use crate::tree::Node;
use crate::worker::WorkerContext;
use crate::worker::disk::{self, Result, join};
use crate::worker::upper::Linked;
use crate::worker::{objects, xattrs};
use crate::{JobError, ObjectMeta, ObjectName};

/// Files whose digests were known before, by inode.
type Links = HashMap<u64, Linked>;

/// The tree's node for every item. Files get their final bytes and time on the way, and lose the overlay's marks.
pub(super) fn nodes(
    context: &WorkerContext,
    upper: &Path,
    found: &[Found],
    links: &Links,
    abandoned: &AtomicBool,
) -> Result<Vec<Node>> {
    let first_names = first_names(found, links);
    let node = |item: &Found| {
        let path = join(upper, &item.path);
        match item.file_type() {
            FileType::Directory => directory(&path, item),
            FileType::Symlink => symlink(&path, item),
            FileType::Fifo => Ok(Node::Fifo { meta: disk::meta(&item.stat) }),
            FileType::RegularFile => match first_names.get(&item.stat.st_ino) {
                Some(first) if *first != item.path => Ok(Node::HardLink { target: first.to_vec() }),
                _ => file(context, &path, item, found, links.get(&item.stat.st_ino), abandoned),
            },
            _ if item.is_whiteout() => Ok(Node::Whiteout),
            file_type => Ok(Node::Device {
                meta: disk::meta(&item.stat),
                block: file_type == FileType::BlockDevice,
                major: rustix::fs::major(item.stat.st_rdev),
                minor: rustix::fs::minor(item.stat.st_rdev),
            }),
        }
    };
    found.par_iter().map(node).collect()
}

/// For every file with several names in the upper, the first of them. Files that were linked from objects share their
/// inodes by accident; those are files of their own.
fn first_names<'a>(found: &'a [Found], links: &Links) -> HashMap<u64, &'a [u8]> {
    let mut first = HashMap::new();
    for item in found {
        let stat = &item.stat;
        if item.file_type() == FileType::RegularFile && stat.st_nlink > 1 && !links.contains_key(&stat.st_ino) {
            first.entry(stat.st_ino).or_insert(&item.path[..]);
        }
    }
    first
}

fn directory(path: &Path, item: &Found) -> Result<Node> {
    let directory = disk::open_directory(path)?;
    let attributes = xattrs::read(&directory, path)?;
    xattrs::remove(&directory, &attributes.stale_marks, path)?;
    let meta = ObjectMeta { xattrs: attributes.inside, ..disk::meta(&item.stat) };
    Ok(Node::Directory { meta, opaque: attributes.opaque })
}

fn symlink(path: &Path, item: &Found) -> Result<Node> {
    let target = rustix::fs::readlink(path, Vec::new()).map_err(JobError::file("reading the link", path))?;
    let meta = ObjectMeta { mode: 0o777, ..disk::meta(&item.stat) };
    Ok(Node::Symlink { meta, target: target.into_bytes() })
}

fn file(
    context: &WorkerContext,
    path: &Path,
    item: &Found,
    found: &[Found],
    linked: Option<&Linked>,
    abandoned: &AtomicBool,
) -> Result<Node> {
    if let Some(linked) = linked {
        let meta = ObjectMeta { xattrs: xattrs::read_at(path)?.inside, ..disk::meta(&item.stat) };
        check_untouched(context, linked, &meta, item, path)?;
        return Ok(Node::File { meta, size: disk::size(&item.stat), digest: linked.digest });
    }
    bytecode::normalise(&item.path, path, found)?;
    let mut file = disk::open(path)?;
    let attributes = xattrs::read(&file, path)?;
    let meta = ObjectMeta { xattrs: attributes.inside, ..disk::meta(&item.stat) };
    xattrs::remove(&file, &attributes.stale_marks, path)?;
    let (digest, size) = objects::hash(&mut file, path, abandoned)?;
    disk::set_file_layer_time(&file, path)?;
    Ok(Node::File { meta, size, digest })
}

/// A process that wrote to an upper with linked objects has written to the objects: take them out of use.
fn check_untouched(
    context: &WorkerContext,
    linked: &Linked,
    meta: &ObjectMeta,
    item: &Found,
    path: &Path,
) -> Result<()> {
    if linked.is_untouched(&item.stat, meta) {
        return Ok(());
    }
    let name = ObjectName::new(linked.digest, &linked.meta);
    disk::unlink(&context.objects.path(&name))?;
    let text =
        format!("`{}` was written to although it is shared with other layers; build the step again", path.display());
    Err(JobError::new(JobError::STORE, text))
}
