//! Checking a layer against its tree.

use std::collections::HashSet;
use std::path::Path;

use lamina_image::Digest;
use rayon::prelude::*;
use rustix::fs::FileType;

use super::disk::{self, Result, join};
use super::place::leads_to;
use super::xattrs::{self, Depth};
use super::{WorkerContext, content, view};
use crate::tree::{Entry, Node, Tree, lossy};
use crate::{JobError, Metadata};

/// Reads the layer's tree, its view and its objects whole; answers one sentence per problem.
pub(super) fn verify(context: &WorkerContext, digest: &Digest) -> Result<Vec<String>> {
    let tree_path = view::tree_path(context, digest);
    let encoded = match read(&tree_path) {
        Ok(encoded) => encoded,
        Err(error) => return Ok(vec![error.message]),
    };
    if Digest::of(&encoded) != *digest {
        return Ok(vec![format!("the tree `{digest}` has other contents than its name says")]);
    }
    let tree = match Tree::decode(&encoded) {
        Ok(tree) => tree,
        Err(error) => return Ok(vec![format!("the tree `{digest}` cannot be read: {error}")]),
    };
    let root = view::view_path(context, digest);
    let problem = |entry: &Entry| {
        let found = match check(context, entry, &join(&root, &entry.path)) {
            Ok(None) => check_object(context, entry),
            other => other,
        };
        match found {
            Ok(None) => None,
            Ok(Some(problem)) => Some(format!("`{}` {problem}", lossy(&entry.path))),
            Err(error) => Some(error.message),
        }
    };
    let mut problems: Vec<String> = tree.entries().par_iter().filter_map(problem).collect();
    problems.extend(unknown(&tree, &root)?);
    Ok(problems)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut disk::open(path)?, &mut bytes).map_err(JobError::file("reading", path))?;
    Ok(bytes)
}

/// Compares what the view has at a path.
fn check(context: &WorkerContext, entry: &Entry, path: &Path) -> Result<Option<&'static str>> {
    let stat = disk::try_stat(path)?;
    if matches!(entry.node, Node::Device { .. }) {
        return Ok(stat.is_some().then_some("is a device, which views do not have"));
    }
    if matches!(entry.node, Node::Whiteout) && context.placing.depth() == Depth::Two {
        return Ok(check_whiteout(path)?.then_some("is no deletion in the view"));
    }
    let Some(stat) = stat else {
        return Ok(Some("is missing from the view"));
    };
    if disk::file_type(&stat) != expected_type(&entry.node) {
        return Ok(Some("is of another type in the view"));
    }
    let depth = context.placing.depth();
    let differs = match &entry.node {
        Node::Directory { meta, opaque } => {
            let found = xattrs::read(disk::open_directory(path)?, depth, path)?;
            found.opaque != *opaque || Metadata { xattrs: found.inside, ..disk::meta(&stat) } != *meta
        }
        Node::File { meta, size, digest } => {
            let file = disk::open(path)?;
            let found = xattrs::read(&file, depth, path)?;
            let holds = if found.is_redirected() {
                disk::size(&stat) == *size && leads_to(path, digest)?
            } else {
                content::matches(&file, digest, path)?
            };
            if !holds {
                return Ok(Some("has other bytes in the view than its digest says"));
            }
            Metadata { xattrs: found.inside, ..disk::meta(&stat) } != *meta
        }
        Node::Symlink { meta, target } => {
            let found = rustix::fs::readlink(path, Vec::new()).map_err(JobError::file("reading the link", path))?;
            found.as_bytes() != target || disk::meta(&stat) != *meta
        }
        Node::Fifo { meta } => disk::meta(&stat) != *meta,
        Node::Whiteout => stat.st_rdev != 0,
        Node::HardLink { .. } | Node::Device { .. } => false,
    };
    Ok(differs.then_some("has another owner, mode, time, attribute or target in the view"))
}

/// Whether a deletion is not there as the mark that it should be. Where everything below is hidden, none is needed.
fn check_whiteout(path: &Path) -> Result<bool> {
    if disk::try_stat(path)?.is_some() {
        return Ok(!xattrs::read(disk::open(path)?, Depth::Two, path)?.whiteout);
    }
    let parent = path.parent().unwrap_or(path);
    Ok(!xattrs::read(disk::open_directory(parent)?, Depth::Two, parent)?.opaque)
}

fn expected_type(node: &Node) -> FileType {
    match node {
        Node::Directory { .. } => FileType::Directory,
        Node::File { .. } | Node::HardLink { .. } => FileType::RegularFile,
        Node::Symlink { .. } => FileType::Symlink,
        Node::Fifo { .. } => FileType::Fifo,
        Node::Whiteout | Node::Device { block: false, .. } => FileType::CharacterDevice,
        Node::Device { block: true, .. } => FileType::BlockDevice,
    }
}

/// Checks the object of a file.
fn check_object(context: &WorkerContext, entry: &Entry) -> Result<Option<&'static str>> {
    let Node::File { size, digest, .. } = &entry.node else { return Ok(None) };
    if *size == 0 {
        return Ok(None);
    }
    if context.objects.find(digest, Some(*size))?.is_none() {
        return Ok(Some("has no sound object"));
    }
    let path = context.objects.path(digest);
    let sound = content::matches(&disk::open(&path)?, digest, &path)?;
    Ok((!sound).then_some("has an object with other bytes than its name says"))
}

/// What the view has and the tree does not.
fn unknown(tree: &Tree, root: &Path) -> Result<Vec<String>> {
    let known: HashSet<&[u8]> = tree.entries().iter().map(|entry| &entry.path[..]).collect();
    let mut problems = Vec::new();
    for entry in tree.entries().iter().filter(|entry| matches!(entry.node, Node::Directory { .. })) {
        let path = join(root, &entry.path);
        if disk::try_stat(&path)?.is_none_or(|stat| disk::file_type(&stat) != FileType::Directory) {
            continue;
        }
        for (name, _) in disk::list(&path)? {
            let inside = if entry.path.is_empty() { name } else { [&entry.path[..], b"/", &name].concat() };
            if !known.contains(&inside[..]) {
                problems.push(format!("`{}` is in the view and not in the tree", lossy(&inside)));
            }
        }
    }
    Ok(problems)
}
