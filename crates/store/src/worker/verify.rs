//! Checking layers against their trees, and objects against their names.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use lamina_image::Digest;
use rayon::prelude::*;
use rustix::fs::{FileType, Stat};

use super::disk::{self, Result, join};
use super::place::leads_to;
use super::shown::deletion_of;
use super::xattrs;
use super::{WorkerContext, collect, content, objects, view, whiteouts};
use crate::placing::Placing;
use crate::protocol::CheckedObjects;
use crate::tree::{Entry, Node, Tree, lossy};
use crate::{JobError, Metadata, ObjectName};

/// What is known of objects that were read whole: whether they hold what their names say, as long as their status is this.
pub(super) type Verdicts = Mutex<HashMap<ObjectName, (u64, i64, i64, bool)>>;

/// Reads the layer's tree, its view and its objects whole; answers one sentence per problem. Fails once nobody wants to know.
pub(super) fn verify(context: &WorkerContext, digest: &Digest, abandoned: &AtomicBool) -> Result<Vec<String>> {
    match load(context, digest)? {
        Ok(tree) => problems(context, digest, &tree, None, abandoned),
        Err(problem) => Ok(vec![problem]),
    }
}

/// As [`verify`], for many layers: no object is read twice, and a view that is missing altogether is no problem, as whoever
/// needs it makes it again.
pub(super) fn check(context: &WorkerContext, digest: &Digest) -> Result<Vec<String>> {
    match load(context, digest)? {
        Ok(tree) if disk::try_stat(&view::view_path(context, digest))?.is_none() => {
            let problems = tree
                .entries()
                .par_iter()
                .filter_map(|entry| sentence(entry, check_object(context, entry, Some(&context.verdicts))));
            Ok(problems.collect())
        }
        Ok(tree) => problems(context, digest, &tree, Some(&context.verdicts), &AtomicBool::new(false)),
        Err(problem) => Ok(vec![problem]),
    }
}

/// The tree with this digest, or what is wrong with it.
pub(super) fn load(context: &WorkerContext, digest: &Digest) -> Result<std::result::Result<Tree, String>> {
    let path = view::tree_path(context, digest);
    if disk::try_stat(&path)?.is_none() {
        return Ok(Err("its tree is missing".to_owned()));
    }
    let encoded = match disk::read(&path) {
        Ok(encoded) => encoded,
        Err(error) => return Ok(Err(error.message)),
    };
    if Digest::of(&encoded) != *digest {
        return Ok(Err(format!("the tree `{digest}` has other contents than its name says")));
    }
    Ok(Tree::decode(&encoded).map_err(|error| format!("the tree `{digest}` cannot be read: {error}")))
}

fn problems(
    context: &WorkerContext,
    digest: &Digest,
    tree: &Tree,
    verdicts: Option<&Verdicts>,
    abandoned: &AtomicBool,
) -> Result<Vec<String>> {
    let root = view::view_path(context, digest);
    let placing = context.placing_at(&root);
    let problem = |entry: &Entry| {
        content::check_abandoned(abandoned)?;
        let found = match check_entry(context, entry, &join(&root, &entry.path), placing) {
            Ok(None) => check_object(context, entry, verdicts),
            other => other,
        };
        Ok(sentence(entry, found))
    };
    let mut problems: Vec<String> =
        tree.entries().par_iter().map(problem).filter_map(Result::transpose).collect::<Result<_>>()?;
    problems.extend(unknown(tree, &root)?);
    if placing == Placing::Redirects {
        problems.extend(deletions(context, digest, tree, &root)?);
    }
    Ok(problems)
}

fn sentence(entry: &Entry, found: Result<Option<&'static str>>) -> Option<String> {
    match found {
        Ok(None) => None,
        Ok(Some(problem)) => Some(format!("`{}` {problem}", lossy(&entry.path))),
        Err(error) => Some(error.message),
    }
}

/// Compares what the view has at a path.
fn check_entry(context: &WorkerContext, entry: &Entry, path: &Path, placing: Placing) -> Result<Option<&'static str>> {
    let stat = disk::try_stat(path)?;
    if matches!(entry.node, Node::Device { .. }) {
        return Ok(stat.is_some().then_some("is a device, which views do not have"));
    }
    if matches!(entry.node, Node::Whiteout) {
        let deletion = match placing {
            Placing::Redirects => deletion_of(context.content(), path),
            _ => path.to_owned(),
        };
        return Ok((!whiteouts::is_deletion(&deletion)?).then_some("is no deletion in the view"));
    }
    let Some(stat) = stat else {
        return Ok(Some("is missing from the view"));
    };
    if disk::file_type(&stat) != expected_type(&entry.node) {
        return Ok(Some("is of another type in the view"));
    }
    let depth = placing.depth();
    let differs = match &entry.node {
        Node::Directory { meta, opaque } => {
            let found = xattrs::read(disk::open_directory(path)?, depth, path)?;
            found.opaque != *opaque || Metadata { xattrs: found.inside, ..disk::meta(&stat) } != *meta
        }
        Node::File { meta, size, digest } => {
            let file = disk::open(path)?;
            let found = xattrs::read(&file, depth, path)?;
            let holds = if found.is_redirected() && placing == Placing::Redirects {
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
        Node::HardLink { .. } | Node::Whiteout | Node::Device { .. } => false,
    };
    Ok(differs.then_some("has another owner, mode, time, attribute or target in the view"))
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
pub(super) fn check_object(
    context: &WorkerContext,
    entry: &Entry,
    verdicts: Option<&Verdicts>,
) -> Result<Option<&'static str>> {
    let Node::File { size, digest, .. } = &entry.node else { return Ok(None) };
    if *size == 0 {
        return Ok(None);
    }
    let Some(stat) = context.objects.find(digest, Some(*size))? else {
        return Ok(Some("has no sound object"));
    };
    let read = || {
        let path = context.objects.path(digest);
        content::matches(&disk::open(&path)?, digest, &path)
    };
    let sound = match verdicts {
        Some(verdicts) => remembered(verdicts, ObjectName::new(digest), &stat, read)?,
        None => read()?,
    };
    Ok((!sound).then_some("has an object with other bytes than its name says"))
}

/// Reads the objects whose names begin with a digit; answers how many there are, and the paths of damaged ones.
pub(super) fn check_objects(context: &WorkerContext, digit: u8) -> Result<CheckedObjects> {
    let objects = collect::objects_of(context, digit)?;
    let damaged = |(name, path): &(ObjectName, PathBuf)| match is_sound(context, *name, path) {
        Ok(true) => None,
        Ok(false) | Err(_) => Some(path.strip_prefix(context.content()).unwrap_or(path).to_owned()),
    };
    Ok(CheckedObjects { count: objects.len() as u64, damaged: objects.par_iter().filter_map(damaged).collect() })
}

/// Whether an object holds what its name and its seal say.
pub(super) fn is_sound(context: &WorkerContext, name: ObjectName, path: &Path) -> Result<bool> {
    let Some(stat) = disk::try_stat(path)? else { return Ok(true) };
    if disk::file_type(&stat) != FileType::RegularFile {
        return Ok(false);
    }
    remembered(&context.verdicts, name, &stat, || objects::holds(&name, path))
}

fn remembered(verdicts: &Verdicts, name: ObjectName, stat: &Stat, read: impl FnOnce() -> Result<bool>) -> Result<bool> {
    let known = verdicts.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
    let status = (stat.st_ino, stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or_default());
    if let Some((inode, seconds, nanoseconds, sound)) = known
        && (inode, seconds, nanoseconds) == status
    {
        return Ok(sound);
    }
    let sound = read()?;
    let verdict = (status.0, status.1, status.2, sound);
    verdicts.lock().unwrap_or_else(PoisonError::into_inner).insert(name, verdict);
    Ok(sound)
}

/// What is wrong with the deletions beside a view.
fn deletions(context: &WorkerContext, digest: &Digest, tree: &Tree, root: &Path) -> Result<Option<String>> {
    if tree.deletions().next().is_none() || disk::try_stat(root)?.is_none() {
        return Ok(None);
    }
    if !xattrs::has_whiteouts(root) {
        return Ok(Some("the view does not say that there are deletions in it".to_owned()));
    }
    let has_exactly = whiteouts::has_exactly(&whiteouts::path(context, digest), tree.deletions())?;
    Ok((!has_exactly).then(|| "the deletions of the view are not those of the tree".to_owned()))
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
