//! Packs: groups with what their files hold, as they are kept in caches.
//!
//! ```text
//! pack = chunk* foot          chunk, foot: one Zstandard frame each
//! foot = "LAMINA-PACK" 0x01 count(u32) length(u64)* group
//! ```
//!
//! `length` is that of each chunk in the pack, `group` a part of a tree in the form of a tree. Its files say what the chunks hold:
//! distinct contents in the order of their paths, none of them empty; a chunk ends with the file with which it has 256 KiB or
//! more, and before one that has as much by itself. Who has the foot can ask for single chunks.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use lamina_image::Digest;
use lamina_store::{Job, JobError, WorkerContext};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::CacheError;
use crate::group::{Group, Object};

/// What a foot begins with; the last byte is the version.
const MAGIC: &[u8; 12] = b"LAMINA-PACK\x01";
/// The level of compression: higher ones take several times as long for some percent.
const LEVEL: i32 = 3;
/// Most bytes of a foot as it is read.
const FOOT_LIMIT: u64 = 256 << 20;
/// Chunks that are compressed at the same time.
const AT_ONCE: usize = 16;
/// Chunks of this many bytes are not held in memory.
const LARGE: u64 = 16 << 20;

/// The foot of a pack with chunks of these lengths.
pub(crate) fn foot(group: &Group, lengths: &[u64]) -> io::Result<Vec<u8>> {
    let count = u32::try_from(lengths.len()).map_err(io::Error::other)?;
    let mut foot = MAGIC.to_vec();
    foot.extend_from_slice(&count.to_le_bytes());
    for length in lengths {
        foot.extend_from_slice(&length.to_le_bytes());
    }
    foot.extend_from_slice(&group.encoded);
    zstd::encode_all(&foot[..], LEVEL)
}

/// The group of a pack, and where its chunks begin, with the end of the last one.
pub(crate) fn read_foot(bytes: &[u8]) -> Result<(Group, Vec<u64>), CacheError> {
    let damaged = |reason: &str| CacheError::Damaged(format!("the foot of a pack {reason}"));
    let mut foot = Vec::new();
    let decoder = zstd::Decoder::new(bytes).and_then(|decoder| decoder.take(FOOT_LIMIT).read_to_end(&mut foot));
    decoder.map_err(|error| damaged(&format!("cannot be read: {error}")))?;
    let rest = foot.strip_prefix(MAGIC).ok_or_else(|| damaged("is of another version"))?;
    let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("is too short"))?;
    let length = usize::try_from(u32::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(8));
    let (lengths, group) =
        length.and_then(|length| rest.split_at_checked(length)).ok_or_else(|| damaged("is too short"))?;
    let group = Group::read(group.to_vec()).map_err(|error| damaged(&format!("makes no sense: {error}")))?;
    let mut begins = vec![0_u64];
    for length in lengths.chunks_exact(8) {
        let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
        let end = begins.last().and_then(|begin| begin.checked_add(length));
        begins.push(end.ok_or_else(|| damaged("has impossible lengths"))?);
    }
    if begins.len() != group.chunks.len() + 1 {
        return Err(damaged("does not fit to its group"));
    }
    Ok((group, begins))
}

/// Writes chunks into the one descriptor that comes with it, one after the other; answers their lengths.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WriteChunks {
    pub(crate) chunks: Vec<Vec<Object>>,
}

impl Job for WriteChunks {
    const NAME: &'static str = "cache.write-chunks";
    type Output = Vec<u64>;

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<Vec<u64>, JobError> {
        let mut output = BufWriter::with_capacity(1 << 20, the_file(fds)?);
        let mut lengths = Vec::with_capacity(self.chunks.len());
        for chunks in self.chunks.chunks(AT_ONCE) {
            let is_large = |chunk: &[Object]| chunk.iter().map(|object| object.size).sum::<u64>() >= LARGE;
            let packed: Vec<Option<Vec<u8>>> = chunks
                .par_iter()
                .map(|chunk| if is_large(chunk) { Ok(None) } else { compress(context, chunk, Vec::new()).map(Some) })
                .collect::<Result<_, JobError>>()?;
            for (chunk, packed) in chunks.iter().zip(packed) {
                let length = match packed {
                    Some(packed) => {
                        output.write_all(&packed)?;
                        packed.len() as u64
                    }
                    None => compress(context, chunk, Counting { inner: &mut output, length: 0 })?.length,
                };
                lengths.push(length);
            }
        }
        output.flush()?;
        Ok(lengths)
    }
}

/// Writes the frame of one chunk.
fn compress<W: Write>(context: &WorkerContext, chunk: &[Object], output: W) -> Result<W, JobError> {
    let mut encoder = zstd::Encoder::new(output, LEVEL)?;
    for object in chunk {
        let (file, _) = context.open_intact_object(&object.digest, object.size)?;
        let written = io::copy(&mut file.take(object.size), &mut encoder)?;
        if written < object.size {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(encoder.finish()?)
}

struct Counting<W> {
    inner: W,
    length: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A chunk in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    /// Where it begins, in bytes.
    pub(crate) offset: u64,
    /// How long it is, in bytes.
    pub(crate) length: u64,
    /// What it holds.
    pub(crate) objects: Vec<Object>,
}

/// Stores what chunks hold that are in the one descriptor which comes with it, as far as the store lacks it; answers whether all
/// of it was what it should be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TakeChunks {
    pub(crate) chunks: Vec<Chunk>,
}

impl Job for TakeChunks {
    const NAME: &'static str = "cache.take-chunks";
    type Output = bool;

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<bool, JobError> {
        let file = the_file(fds)?;
        let is_right = AtomicBool::new(true);
        self.chunks.par_iter().try_for_each(|chunk| {
            let part = Part { file: &file, offset: chunk.offset, end: chunk.offset.saturating_add(chunk.length) };
            let mut reader = zstd::Decoder::new(part)?;
            for Object { digest, size } in &chunk.objects {
                let is_read = if context.has_object(digest) {
                    // What is damaged in the cache ends early.
                    io::copy(&mut (&mut reader).take(*size), &mut io::sink()).is_ok_and(|count| count == *size)
                } else {
                    match context.put_announced(&mut reader, digest, *size) {
                        Ok(is_read) => is_read,
                        // The disk has a reason of its own, a frame that cannot be read has not.
                        Err(error) if error.refusal.is_some() => return Err(error),
                        Err(_) => false,
                    }
                };
                if !is_read {
                    is_right.store(false, Ordering::Relaxed);
                    break;
                }
            }
            Ok::<(), JobError>(())
        })?;
        Ok(is_right.into_inner())
    }
}

/// A part of a file.
struct Part<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..length], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

fn the_file(fds: Vec<OwnedFd>) -> Result<File, JobError> {
    let file = fds.into_iter().next();
    file.map(File::from).ok_or_else(|| JobError::new(JobError::STORE, "chunks came without their file"))
}

impl Serialize for Object {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.digest, self.size).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <(Digest, u64)>::deserialize(deserializer).map(|(digest, size)| Self { digest, size })
    }
}
