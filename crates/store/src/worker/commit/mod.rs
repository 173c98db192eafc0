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
//! A layer that is published already is read whole: where it is damaged, what was made now takes its place.
//!
//! Whatever happens before the last step leaves only the step's work directory, which is swept. Until then it ends between
//! two files once nobody wants the layer any more.

mod bytecode;
mod digest;
mod scan;
mod shadow;
mod share;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lamina_image::Digest;

use super::disk::{self, Result};
use super::removal::remove_all;
use super::upper::Placed;
use super::{WorkerContext, content, repair, verify, view, whiteouts};
use crate::tree::{Entry, Node, Tree};
use crate::{CommitRules, Committed, JobError, ObjectName};

/// Commits the upper of the work `id`.
pub(super) fn commit(context: &WorkerContext, id: &str, rules: &CommitRules) -> Result<Committed> {
    let work = context.enter(id)?;
    let upper = context.upper(id);
    let placed = context.placed(id);
    if rules.constant_password_days {
        shadow::normalise(&upper)?;
    }
    let abandoned = work.is_abandoned();
    let found = scan::scan(&upper, rules, abandoned)?;
    let nodes = digest::Upper { root: &upper, found: &found, placed: &placed, rules, abandoned }.nodes()?;
    let entries = found.iter().zip(nodes).map(|(found, node)| Entry { path: found.path.clone(), node });
    let tree = Tree::new(entries.collect()).map_err(|error| JobError::new(JobError::STORE, error.to_string()))?;
    let encoded = tree.encode();
    let digest = Digest::of(&encoded);
    let has_view = disk::try_stat(&view::view_path(context, &digest))?.is_some();
    let has_tree = disk::try_stat(&view::tree_path(context, &digest))?.is_some();
    let bytes_new = if has_view && has_tree && verify::verify(context, &digest, abandoned)?.is_empty() {
        // Another run of the same step, or another step with the same result.
        remove_all(&upper)?;
        0
    } else {
        if has_view {
            make_way(context, &tree, &placed)?;
        }
        let placing = context.placing_of(&tree);
        let (upper, found, tree, placed) = (&upper, &found, &tree, &placed);
        let bytes_new = share::Sharing { context, upper, found, tree, placed, placing, abandoned }.share()?;
        let tree_file = context.temporary_path();
        view::write_tree(&encoded, &tree_file)?;
        whiteouts::publish(context, &digest, tree, upper)?;
        content::check_abandoned(abandoned)?;
        context.objects.sync(true, abandoned)?;
        content::check_abandoned(abandoned)?;
        let publish = if has_view { view::replace_both } else { view::publish_both };
        publish(context, &digest, &tree_file, upper)?;
        bytes_new
    };
    if !rules.package_times {
        wait_for_the_next_second(bytecode::youngest_source(&found), abandoned)?;
    }
    let files: Vec<_> =
        found.iter().zip(tree.entries()).filter(|(_, entry)| matches!(entry.node, Node::File { .. })).collect();
    let bytes = files.iter().map(|(found, _)| held(found, &placed)).sum();
    Ok(Committed { digest, content: tree.content(), files: files.len() as u64, bytes, bytes_new })
}

/// Bytes that a file holds: of one that was placed, those of its object.
fn held(found: &scan::Found, placed: &HashMap<u64, Placed>) -> u64 {
    match placed.get(&found.stat.st_ino) {
        Some(placed) => placed.bytes.size,
        None => disk::held(&found.stat),
    }
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

/// Puts damaged objects of a layer aside that is about to be replaced. Files that were placed have no bytes but those.
fn make_way(context: &WorkerContext, tree: &Tree, placed: &HashMap<u64, Placed>) -> Result<()> {
    let damaged = repair::set_damaged_aside(context, tree)?;
    let is_damaged = |placed: &&Placed| damaged.contains(&ObjectName::new(&placed.bytes.digest));
    match placed.values().find(is_damaged) {
        None => Ok(()),
        Some(placed) => {
            let text = format!(
                "the object `{}` of an unpacked package was damaged and has been put aside: build again, and the package \
                 is fetched anew",
                placed.bytes.digest
            );
            Err(JobError::new(JobError::STORE, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_ends_once_nobody_wants_the_layer() {
        let directory = tempfile::tempdir().unwrap();
        let context = WorkerContext::new(directory.path(), "test", Vec::new()).unwrap();
        let (upper, rules) = (directory.path().join("upper"), CommitRules::default());
        fs_err::create_dir(&upper).unwrap();
        fs_err::write(upper.join("file"), "bytes").unwrap();
        let (wanted, abandoned) = (AtomicBool::new(false), AtomicBool::new(true));
        let is_abandoned = |error: JobError| assert_eq!(error.message, "the work was abandoned");
        is_abandoned(scan::scan(&upper, &rules, &abandoned).err().unwrap());
        let found = scan::scan(&upper, &rules, &wanted).unwrap();
        let (root, found, rules, placed) = (&upper, &found, &rules, &HashMap::new());
        is_abandoned(digest::Upper { root, found, placed, rules, abandoned: &abandoned }.nodes().err().unwrap());
        let nodes = digest::Upper { root, found, placed, rules, abandoned: &wanted }.nodes().unwrap();
        let entries = found.iter().zip(nodes).map(|(found, node)| Entry { path: found.path.clone(), node });
        let (tree, placing) = (&Tree::new(entries.collect()).unwrap(), context.placing);
        let sharing =
            |abandoned| share::Sharing { context: &context, upper: root, found, tree, placed, placing, abandoned };
        is_abandoned(sharing(&abandoned).share().err().unwrap());
        assert!(context.objects.find(&Digest::of(b"bytes"), None).unwrap().is_none());
        assert_eq!(sharing(&wanted).share().unwrap(), 5);
    }
}
