//! Turning a step's upper directory into a layer.
//!
//! The upper itself becomes the view: no bytes are copied. In order:
//!
//! 1. *scan*: what is there, without what the rules leave out;
//! 2. *digest*: hash the files in parallel, strip the overlay's marks;
//! 3. encode the diff tree, whose digest names the layer;
//! 4. *share*: files become objects, and what is placed in their stead names them;
//! 5. one `syncfs`: from here on the bytes are on the disk, and the objects are sealed;
//! 6. rename tree and upper to their published names, sync these directories.
//!
//! Whatever happens before the last step leaves only the step's work directory, which is swept.

mod bytecode;
mod digest;
mod rules;
mod scan;
mod share;

use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lamina_image::Digest;

use super::disk::{self, Result};
use super::removal::remove_all;
use super::{WorkerContext, content, view};
use crate::tree::{Entry, Node, Tree};
use crate::{CommitRules, Committed, JobError};

/// Commits the upper of the work `id`.
pub(super) fn commit(context: &WorkerContext, id: &str, rules: &CommitRules) -> Result<Committed> {
    let commit = context.running_commit(id);
    let _running = commit.running.lock().unwrap_or_else(PoisonError::into_inner);
    let upper = context.upper(id);
    let placed = context.placed(id);
    if rules.package_step {
        rules::normalise_shadow(&upper)?;
    }
    let found = scan::scan(&upper, rules)?;
    let abandoned = &commit.is_abandoned;
    let nodes = digest::Upper { root: &upper, found: &found, placed: &placed, rules, abandoned }.nodes()?;
    let entries = found.iter().zip(nodes).map(|(found, node)| Entry { path: found.path.clone(), node });
    let tree = Tree::new(entries.collect()).map_err(|error| JobError::new(JobError::STORE, error.to_string()))?;
    let encoded = tree.encode();
    let digest = Digest::of(&encoded);
    let bytes_new = if is_published(context, &digest)? {
        // Another run of the same step, or another step with the same result.
        remove_all(&upper)?;
        0
    } else {
        let sharing = share::Sharing { context, upper: &upper, found: &found, tree: &tree, placed: &placed };
        let bytes_new = sharing.share()?;
        let tree_file = context.temporary_path();
        view::write_tree(&encoded, &tree_file)?;
        context.objects.sync(true)?;
        content::check_abandoned(abandoned)?;
        view::publish_both(context, &digest, &tree_file, &upper)?;
        bytes_new
    };
    if !rules.package_times {
        wait_for_the_next_second(bytecode::youngest_source(&found), abandoned)?;
    }
    let files: Vec<_> =
        found.iter().zip(tree.entries()).filter(|(_, entry)| matches!(entry.node, Node::File { .. })).collect();
    let held = |found: &scan::Found| match placed.get(&found.stat.st_ino) {
        Some(placed) => placed.bytes.size,
        None => disk::held(&found.stat),
    };
    let bytes = files.iter().map(|(found, _)| held(found)).sum();
    Ok(Committed { digest, content: tree.content(), files: files.len() as u64, bytes, bytes_new })
}

/// Waits until the clock shows a later second than this one, unless that is far in the future.
fn wait_for_the_next_second(second: Option<i64>, abandoned: &AtomicBool) -> Result<()> {
    let Some(second) = second else { return Ok(()) };
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if now.as_secs().cast_signed() != second {
            return Ok(());
        }
        content::check_abandoned(abandoned)?;
        std::thread::sleep(Duration::from_nanos(u64::from(1_000_000_000 - now.subsec_nanos())));
    }
}

fn is_published(context: &WorkerContext, digest: &Digest) -> Result<bool> {
    let view = disk::try_stat(&view::view_path(context, digest))?;
    Ok(view.is_some() && disk::try_stat(&view::tree_path(context, digest))?.is_some())
}
