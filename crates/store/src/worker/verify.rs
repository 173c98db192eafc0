//! Checking a layer against its tree.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use lamina_image::Digest;
use rustix::fs::FileType;

use super::disk::{self, Result, join};
use super::{WorkerContext, objects, view, xattrs};
use crate::tree::{Entry, Node, Tree, is_copied, lossy};
use crate::{JobError, ObjectMeta};

/// Checks are not abandoned.
static NEVER: AtomicBool = AtomicBool::new(false);

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
    let mut problems = Vec::new();
    for entry in tree.entries() {
        for found in [check(entry, &join(&root, &entry.path)), check_object(context, entry)] {
            match found {
                Ok(None) => {}
                Ok(Some(problem)) => problems.push(format!("`{}` {problem}", lossy(&entry.path))),
                Err(error) => problems.push(error.message),
            }
        }
    }
    problems.extend(unknown(&tree, &root)?);
    Ok(problems)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut disk::open(path)?, &mut bytes).map_err(JobError::file("reading", path))?;
    Ok(bytes)
}

/// Compares what the view has at a path.
fn check(entry: &Entry, path: &Path) -> Result<Option<&'static str>> {
    let stat = disk::try_stat(path)?;
    if matches!(entry.node, Node::Device { .. }) {
        return Ok(stat.is_some().then_some("is a device, which views do not have"));
    }
    let Some(stat) = stat else {
        return Ok(Some("is missing from the view"));
    };
    if disk::file_type(&stat) != expected_type(&entry.node) {
        return Ok(Some("is of another type in the view"));
    }
    let differs = match &entry.node {
        Node::Directory { meta, opaque } => {
            let found = xattrs::read(disk::open_directory(path)?, path)?;
            found.opaque != *opaque || ObjectMeta { xattrs: found.inside, ..disk::meta(&stat) } != *meta
        }
        Node::File { meta, digest, .. } => {
            let mut file = disk::open(path)?;
            if objects::hash(&mut file, path, &NEVER)?.0 != *digest {
                return Ok(Some("has other bytes in the view than its digest says"));
            }
            ObjectMeta { xattrs: xattrs::read(&file, path)?.inside, ..disk::meta(&stat) } != *meta
        }
        Node::Symlink { meta, target } => {
            let found = rustix::fs::readlink(path, Vec::new()).map_err(JobError::file("reading the link", path))?;
            found.as_bytes() != target || (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid)
        }
        Node::Fifo { meta } => disk::meta(&stat) != *meta,
        Node::Whiteout => stat.st_rdev != 0,
        Node::HardLink { .. } | Node::Device { .. } => false,
    };
    Ok(differs.then_some("has another owner, mode, attribute or target in the view"))
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

/// Checks the object of a file whose view has a copy of its own; otherwise the view's file is the object.
fn check_object(context: &WorkerContext, entry: &Entry) -> Result<Option<&'static str>> {
    let (Node::File { meta, size, digest }, Some(name)) = (&entry.node, entry.node.object()) else {
        return Ok(None);
    };
    if context.objects.find(&name, meta, Some(*size))?.is_none() {
        return Ok(Some("has no sound object"));
    }
    let path = context.objects.path(&name);
    let sound = !is_copied(&entry.path, *size) || objects::hash(&mut disk::open(&path)?, &path, &NEVER)?.0 == *digest;
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
