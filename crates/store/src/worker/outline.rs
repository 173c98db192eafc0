//! Outlines of trees: the encoding of a tree without what a look at its view does not ask for, kept beside it.
//!
//! Every start of a container looks at the view of its base, whose tree names ten thousand files and eight hundred
//! directories. An outline is made by the first look, is believed only if it is whole, and can be lost at any time.

use std::io::Write;
use std::path::{Path, PathBuf};

use lamina_image::Digest;

use super::WorkerContext;
use super::disk::{self, Result};
use super::place::MOST_COPIED;
use super::view::tree_path;
use crate::JobError;
use crate::tree::Tree;

/// Trees of fewer bytes are as fast to read.
const LEAST_BYTES: usize = 32 << 10;

/// The encoding of a published tree, or its outline, for [`Tree::outline`]. `None` if the tree is damaged.
pub(super) fn read(context: &WorkerContext, digest: &Digest) -> Result<Option<Vec<u8>>> {
    let tree = tree_path(context, digest);
    let length = disk::try_stat(&tree)?.map(|stat| disk::size(&stat));
    if let Some(length) = length
        && let Some(outline) = read_kept(&path(context, digest), length)
    {
        return Ok(Some(outline));
    }
    let encoded = disk::read(&tree)?;
    let Ok(outline) = Tree::without_contents(&encoded, MOST_COPIED) else { return Ok(None) };
    if encoded.len() >= LEAST_BYTES && outline.len() < encoded.len() / 2 {
        // Without it, the next look reads the tree again.
        let _ = keep(context, digest, &outline, encoded.len() as u64);
    }
    Ok(Some(outline))
}

fn path(context: &WorkerContext, digest: &Digest) -> PathBuf {
    context.content().join("outlines").join(digest.hex())
}

/// The outline in a file, if it is whole and of a tree of this length.
fn read_kept(path: &Path, length: u64) -> Option<Vec<u8>> {
    let mut kept = disk::read(path).ok()?;
    let (digest, rest) = kept.split_first_chunk()?;
    let is_right = Digest::of(rest) == Digest::from_bytes(*digest) && rest.starts_with(&length.to_le_bytes());
    is_right.then(|| kept.split_off(size_of::<Digest>() + size_of::<u64>()))
}

fn keep(context: &WorkerContext, digest: &Digest, outline: &[u8], length: u64) -> Result<()> {
    let rest = [&length.to_le_bytes(), outline].concat();
    let file = context.temporary_path();
    let whole = [Digest::of(&rest).as_bytes(), &rest[..]].concat();
    disk::create(&file)?.write_all(&whole).map_err(JobError::file("writing", &file))?;
    disk::rename(&file, &path(context, digest))
}
