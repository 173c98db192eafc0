//! Mending what is damaged. Nothing is changed in place, because other processes may be using it: what is damaged is moved
//! into the session's own directory, which goes with the session, and what can be made again takes its place.

use std::path::Path;

use lamina_image::Digest;
use rayon::prelude::*;

use super::disk::{self, Result, join};
use super::{WorkerContext, content, verify, view};
use crate::ObjectName;
use crate::protocol::Repaired;
use crate::tree::{Entry, Node, Tree};

/// Copies the bytes of damaged objects from files of the layer's view that still hold them.
pub(super) fn salvage(context: &WorkerContext, digest: &Digest) -> Result<()> {
    let Ok(tree) = verify::load(context, digest)? else { return Ok(()) };
    for (entry, bytes, size) in damaged(context, &tree) {
        let path = join(&view::view_path(context, digest), &entry.path);
        let holds = || content::matches(&disk::open(&path)?, &bytes, &path);
        if disk::try_stat(&path)?.is_none() || !holds().unwrap_or(false) {
            continue;
        }
        let temporary = context.temporary_path();
        content::copy(&disk::open(&path)?, &mut disk::create(&temporary)?, &temporary)?;
        set_aside(context, &context.objects.path(&bytes))?;
        context.objects.adopt(&bytes, size, &temporary)?;
    }
    context.sync()
}

/// Makes the view of a layer again if its objects are sound; otherwise puts the layer aside.
pub(super) fn repair(context: &WorkerContext, digest: &Digest) -> Result<Repaired> {
    let Ok(tree) = verify::load(context, digest)? else { return set_layer_aside(context, digest) };
    let damaged = damaged(context, &tree);
    for (_, bytes, _) in &damaged {
        set_aside(context, &context.objects.path(bytes))?;
    }
    if !damaged.is_empty() {
        return set_layer_aside(context, digest);
    }
    if verify::check(context, digest)?.is_empty() || view::restore(context, digest)? {
        return Ok(Repaired::Restored);
    }
    set_layer_aside(context, digest)
}

/// Puts objects aside that hold something else than their names say; paths are relative to the content directory.
pub(super) fn set_objects_aside(context: &WorkerContext, digit: u8) -> Result<()> {
    for path in verify::check_objects(context, digit)?.damaged {
        set_aside(context, &context.content().join(path))?;
    }
    Ok(())
}

/// Puts the objects of a tree aside whose bytes are wrong, so that new ones can take their places; answers their names.
pub(super) fn set_damaged_aside(context: &WorkerContext, tree: &Tree) -> Result<Vec<ObjectName>> {
    let damaged = damaged(context, tree);
    for (_, bytes, _) in &damaged {
        set_aside(context, &context.objects.path(bytes))?;
    }
    Ok(damaged.iter().map(|(_, bytes, _)| ObjectName::new(bytes)).collect())
}

/// The entries of a tree whose objects are missing or damaged.
fn damaged<'tree>(context: &WorkerContext, tree: &'tree Tree) -> Vec<(&'tree Entry, Digest, u64)> {
    let damaged = |entry: &'tree Entry| match entry.node {
        // An object that cannot be read is as good as a damaged one.
        Node::File { size, digest, .. } if !matches!(verify::check_object(context, entry, None), Ok(None)) => {
            Some((entry, digest, size))
        }
        _ => None,
    };
    tree.entries().par_iter().filter_map(damaged).collect()
}

/// Moves a file out of the way.
pub(super) fn set_aside(context: &WorkerContext, path: &Path) -> Result<()> {
    if disk::try_stat(path)?.is_some() { disk::rename(path, &context.temporary_path()) } else { Ok(()) }
}

/// A layer is there only while its tree is, so that goes first.
fn set_layer_aside(context: &WorkerContext, digest: &Digest) -> Result<Repaired> {
    for directory in ["trees", "outlines", "views", "whiteouts", "copies"] {
        let path = context.content().join(directory).join(digest.hex());
        if disk::try_stat(&path)?.is_some() {
            disk::rename(&path, &context.temporary_path())?;
        }
    }
    Ok(Repaired::Lost)
}
