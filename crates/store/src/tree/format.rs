//! The encoding of trees; `docs/store-format.md` describes it.

use std::collections::BTreeMap;

use lamina_image::Digest;

use super::{Entry, MAXIMUM_ATTRIBUTE, Node, Outline, TreeError, lossy};
use crate::{Metadata, Timestamp};

/// What every tree begins with; the last byte is the version.
pub const MAGIC: &[u8; 12] = b"LAMINA-TREE\x02";
/// What the form without times begins with, of which the content digest is taken.
const CONTENT_MAGIC: &[u8; 12] = b"LAMINA-TREE\x01";

const DIRECTORY: u8 = b'd';
const OPAQUE_DIRECTORY: u8 = b'o';
const FILE: u8 = b'f';
const HARD_LINK: u8 = b'h';
const SYMLINK: u8 = b'l';
const FIFO: u8 = b'p';
const CHARACTER_DEVICE: u8 = b'c';
const BLOCK_DEVICE: u8 = b'b';
const WHITEOUT: u8 = b'w';

/// The encoding of entries that are in order.
pub(super) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAGIC.len() + entries.len() * 140);
    out.extend_from_slice(MAGIC);
    put_entries(&mut out, entries, Times::Kept);
    out
}

/// The encoding without times: what two layers have in common that differ only in when their files were made.
pub(super) fn encode_content(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAGIC.len() + entries.len() * 128);
    out.extend_from_slice(CONTENT_MAGIC);
    put_entries(&mut out, entries, Times::LeftOut);
    out
}

/// Whether times are encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    Kept,
    LeftOut,
}

fn put_entries(out: &mut Vec<u8>, entries: &[Entry], times: Times) {
    for entry in entries {
        out.push(kind(&entry.node));
        put_bytes(out, &entry.path);
        match &entry.node {
            Node::Directory { meta, .. } | Node::Fifo { meta } => put_meta(out, meta, times),
            Node::File { meta, size, digest } => {
                put_meta(out, meta, times);
                out.extend_from_slice(&size.to_le_bytes());
                out.extend_from_slice(digest.as_bytes());
            }
            Node::HardLink { target } => put_bytes(out, target),
            Node::Symlink { meta, target } => {
                put_meta(out, meta, times);
                put_bytes(out, target);
            }
            Node::Device { meta, major, minor, .. } => {
                put_meta(out, meta, times);
                out.extend_from_slice(&major.to_le_bytes());
                out.extend_from_slice(&minor.to_le_bytes());
            }
            Node::Whiteout => {}
        }
    }
}

fn kind(node: &Node) -> u8 {
    match node {
        Node::Directory { opaque: false, .. } => DIRECTORY,
        Node::Directory { opaque: true, .. } => OPAQUE_DIRECTORY,
        Node::File { .. } => FILE,
        Node::HardLink { .. } => HARD_LINK,
        Node::Symlink { .. } => SYMLINK,
        Node::Fifo { .. } => FIFO,
        Node::Device { block: false, .. } => CHARACTER_DEVICE,
        Node::Device { block: true, .. } => BLOCK_DEVICE,
        Node::Whiteout => WHITEOUT,
    }
}

fn put_meta(out: &mut Vec<u8>, meta: &Metadata, times: Times) {
    for number in [meta.mode, meta.uid, meta.gid] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    if times == Times::Kept {
        out.extend_from_slice(&meta.modified.seconds.to_le_bytes());
        out.extend_from_slice(&meta.modified.nanoseconds.to_le_bytes());
    }
    put_length(out, meta.xattrs.len());
    for (name, value) in &meta.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Lengths were checked when the tree was made, so none of them is beyond 32 bits.
fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

/// The entries of an encoding; whether they make a tree is checked by the caller.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Entry>, TreeError> {
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(TreeError::Format)?);
    let mut entries = Vec::new();
    while !reader.0.is_empty() {
        let kind = reader.byte()?;
        let path = reader.bytes()?.to_vec();
        let node = reader.node(kind, &path)?;
        entries.push(Entry { path, node });
    }
    Ok(entries)
}

/// The entries of an encoding, each with its own part of it; whether they make a tree is checked by nobody.
pub(super) fn parts(bytes: &[u8]) -> Result<Vec<(Entry, &[u8])>, TreeError> {
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(TreeError::Format)?);
    let mut parts = Vec::with_capacity(bytes.len() / 100);
    while !reader.0.is_empty() {
        let begin = reader.0;
        let kind = reader.byte()?;
        let path = reader.bytes()?.to_vec();
        let node = reader.node(kind, &path)?;
        parts.push((Entry { path, node }, &begin[..begin.len() - reader.0.len()]));
    }
    Ok(parts)
}

/// Where the entries of an encoding begin.
pub(super) fn starts(bytes: &[u8]) -> Result<Vec<usize>, TreeError> {
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(TreeError::Format)?);
    let mut starts = Vec::with_capacity(bytes.len() / 100);
    while !reader.0.is_empty() {
        starts.push(bytes.len() - reader.0.len());
        let kind = reader.byte()?;
        let path = reader.bytes()?;
        reader.skip_node(kind, path)?;
    }
    Ok(starts)
}

/// The path of the entry that bytes begin with; an empty one if there is none.
pub(super) fn path_at(bytes: &[u8]) -> &[u8] {
    let mut reader = Reader(bytes.get(1..).unwrap_or_default());
    reader.bytes().unwrap_or_default()
}

/// What is at the path of the entry that bytes begin with.
pub(super) fn node_at(bytes: &[u8]) -> Option<Node> {
    let mut reader = Reader(bytes);
    let kind = reader.byte().ok()?;
    let path = reader.bytes().ok()?;
    reader.node(kind, path).ok()
}

/// The outline of an encoding. Every start of a container reads one of all that is in its base, so nothing is copied.
pub(super) fn outline(bytes: &[u8], most_bytes: u64) -> Result<Outline<'_>, TreeError> {
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(TreeError::Format)?);
    let mut outline = Outline::default();
    let mut total = 0u64;
    while !reader.0.is_empty() {
        let kind = reader.byte()?;
        let path = reader.bytes()?;
        match kind {
            DIRECTORY | OPAQUE_DIRECTORY => outline.directories.push((path, reader.time_of_meta()?)),
            FILE => {
                reader.time_of_meta()?;
                let size = u64::from_le_bytes(reader.array()?);
                reader.take(size_of::<Digest>())?;
                total = total.saturating_add(size);
                if total <= most_bytes {
                    outline.files.push((path, size));
                }
            }
            WHITEOUT => outline.deletions.push(path),
            _ => reader.skip_node(kind, path)?,
        }
    }
    if total > most_bytes {
        outline.files.clear();
    }
    Ok(outline)
}

/// The entries that the outline of an encoding has, as they are there.
pub(super) fn without_contents(bytes: &[u8], most_bytes: u64) -> Result<Vec<u8>, TreeError> {
    let has_files = !outline(bytes, most_bytes)?.files.is_empty();
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(TreeError::Format)?);
    let mut part = MAGIC.to_vec();
    while !reader.0.is_empty() {
        let entry = reader.0;
        let kind = reader.byte()?;
        let path = reader.bytes()?;
        reader.skip_node(kind, path)?;
        if matches!(kind, DIRECTORY | OPAQUE_DIRECTORY | WHITEOUT) || (kind == FILE && has_files) {
            part.extend_from_slice(&entry[..entry.len() - reader.0.len()]);
        }
    }
    Ok(part)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn node(&mut self, kind: u8, path: &[u8]) -> Result<Node, TreeError> {
        Ok(match kind {
            DIRECTORY | OPAQUE_DIRECTORY => {
                Node::Directory { meta: self.meta(path)?, opaque: kind == OPAQUE_DIRECTORY }
            }
            FILE => Node::File {
                meta: self.meta(path)?,
                size: u64::from_le_bytes(self.array()?),
                digest: Digest::from_bytes(self.array()?),
            },
            HARD_LINK => Node::HardLink { target: self.bytes()?.to_vec() },
            SYMLINK => Node::Symlink { meta: self.meta(path)?, target: self.bytes()?.to_vec() },
            FIFO => Node::Fifo { meta: self.meta(path)? },
            CHARACTER_DEVICE | BLOCK_DEVICE => Node::Device {
                meta: self.meta(path)?,
                block: kind == BLOCK_DEVICE,
                major: self.number()?,
                minor: self.number()?,
            },
            WHITEOUT => Node::Whiteout,
            _ => return Err(TreeError::Value(lossy(path))),
        })
    }

    /// Goes on behind what is at a path.
    fn skip_node(&mut self, kind: u8, path: &[u8]) -> Result<(), TreeError> {
        match kind {
            DIRECTORY | OPAQUE_DIRECTORY | FIFO => {
                self.time_of_meta()?;
            }
            FILE => {
                self.time_of_meta()?;
                self.take(size_of::<u64>() + size_of::<Digest>())?;
            }
            HARD_LINK => {
                self.bytes()?;
            }
            SYMLINK => {
                self.time_of_meta()?;
                self.bytes()?;
            }
            CHARACTER_DEVICE | BLOCK_DEVICE => {
                self.time_of_meta()?;
                self.take(2 * size_of::<u32>())?;
            }
            WHITEOUT => {}
            _ => return Err(TreeError::Value(lossy(path))),
        }
        Ok(())
    }

    fn meta(&mut self, path: &[u8]) -> Result<Metadata, TreeError> {
        let (mode, uid, gid) = (self.number()?, self.number()?, self.number()?);
        let modified = Timestamp { seconds: i64::from_le_bytes(self.array()?), nanoseconds: self.number()? };
        let mut xattrs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for _ in 0..self.number()? {
            let name = self.bytes()?;
            let in_order = xattrs.last_key_value().is_none_or(|(last, _)| last[..] < *name);
            let value = self.bytes()?;
            if !in_order || value.len() > MAXIMUM_ATTRIBUTE {
                return Err(TreeError::Value(lossy(path)));
            }
            xattrs.insert(name.to_vec(), value.to_vec());
        }
        Ok(Metadata { mode, uid, gid, modified, xattrs })
    }

    /// The time of metadata of which nothing else is wanted.
    fn time_of_meta(&mut self) -> Result<Timestamp, TreeError> {
        self.take(3 * size_of::<u32>())?;
        let modified = Timestamp { seconds: i64::from_le_bytes(self.array()?), nanoseconds: self.number()? };
        for _ in 0..2 * u64::from(self.number()?) {
            self.bytes()?;
        }
        Ok(modified)
    }

    fn byte(&mut self) -> Result<u8, TreeError> {
        Ok(self.array::<1>()?[0])
    }

    fn number(&mut self) -> Result<u32, TreeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<&'a [u8], TreeError> {
        let length = usize::try_from(self.number()?).map_err(|_| TreeError::Length)?;
        self.take(length)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TreeError> {
        self.take(N)?.try_into().map_err(|_| TreeError::Length)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], TreeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(TreeError::Length)?;
        self.0 = rest;
        Ok(taken)
    }
}
