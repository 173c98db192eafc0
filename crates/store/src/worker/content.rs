//! The bytes of files: digests and copies that pass over holes.
//!
//! A file with large holes (a virtual disk, a database that was given its size at once) is hashed by what it holds: reading
//! twenty gigabytes of zeros takes a minute, and a copy of them takes twenty gigabytes. Its digest is BLAKE3 in a mode of
//! its own (`derive_key`), so that no other file can have the same one:
//!
//! ```text
//! digest = BLAKE3(size(u64) (offset(u64) block)*)     context: "lamina sparse file 1"
//! ```
//!
//! for every block of 64 KiB, aligned, with another byte than zero. Where exactly the holes are does not matter.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lamina_ground::Subject;
use lamina_image::{Digest, Hasher};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::disk::{self, Result};
use crate::JobError;

/// Bytes read and hashed at once, and the size of blocks in digests of sparse files.
pub(super) const CHUNK: usize = 64 << 10;
/// The context of digests of sparse files; a part of the format.
const SPARSE: &str = "lamina sparse file 1";

/// Digest and length of a file that is read from its beginning.
pub(super) fn hash(file: &File, path: &Path, abandoned: &AtomicBool) -> Result<(Digest, u64)> {
    let stat = rustix::fs::fstat(file).map_err(JobError::file("reading the status of", path))?;
    if disk::is_sparse(&stat) {
        hash_sparse(file, disk::size(&stat), path, abandoned)
    } else {
        hash_whole(file, disk::size(&stat), path, abandoned)
    }
}

/// Whether a file holds what the digest says, whether it has kept its holes or not. What it would have as it is now is tried
/// first: holes cost nothing then.
pub(super) fn matches(file: &File, digest: &Digest, path: &Path) -> Result<bool> {
    let never = AtomicBool::new(false);
    let (as_it_is, size) = hash(file, path, &never)?;
    if as_it_is == *digest || size == 0 {
        return Ok(as_it_is == *digest);
    }
    let stat = rustix::fs::fstat(file).map_err(JobError::file("reading the status of", path))?;
    let other = if disk::is_sparse(&stat) {
        hash_whole(file, size, path, &never)?.0
    } else {
        hash_sparse(file, size, path, &never)?.0
    };
    Ok(other == *digest)
}

/// Both digests that a file with these bytes may have.
pub(super) fn digests(file: &File, path: &Path) -> Result<[Digest; 2]> {
    let never = AtomicBool::new(false);
    let size = disk::size(&rustix::fs::fstat(file).map_err(JobError::file("reading the status of", path))?);
    let (whole, size) = hash_whole(file, size, path, &never)?;
    Ok([whole, hash_sparse(file, size, path, &never)?.0])
}

/// Copies what a file holds, holes as holes.
pub(super) fn copy(from: &File, to: &mut File, path: &Path) -> Result<()> {
    let size = disk::size(&rustix::fs::fstat(from).map_err(JobError::file("reading the status of", path))?);
    let mut block = vec![0; CHUNK];
    rustix::fs::ftruncate(&*to, size).map_err(JobError::file("writing", path))?;
    for_each_extent(from, size, path, |begin, end| {
        let mut offset = begin;
        while offset < end {
            let length = block.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            from.read_exact_at(&mut block[..length], offset).map_err(JobError::file("reading", path))?;
            to.write_all_at(&block[..length], offset).map_err(JobError::file("writing", path))?;
            offset += length as u64;
        }
        Ok(())
    })
}

/// `expected` is how long the file should be.
fn hash_whole(file: &File, expected: u64, path: &Path, abandoned: &AtomicBool) -> Result<(Digest, u64)> {
    // Most files are small: one look tells that there is no more.
    let length = CHUNK.min(usize::try_from(expected).unwrap_or(CHUNK).saturating_add(1));
    let mut chunk = vec![0; length];
    let mut hasher = Hasher::new();
    let mut size = 0;
    loop {
        check_abandoned(abandoned)?;
        let filled = read_at(file, &mut chunk, size).map_err(JobError::file("reading", path))?;
        hasher.update(&chunk[..filled]);
        size += filled as u64;
        if filled == 0 || (filled < chunk.len() && size >= expected) {
            return Ok((hasher.finish(), size));
        }
    }
}

fn hash_sparse(file: &File, size: u64, path: &Path, abandoned: &AtomicBool) -> Result<(Digest, u64)> {
    let mut hasher = blake3::Hasher::new_derive_key(SPARSE);
    hasher.update(&size.to_le_bytes());
    let mut block = vec![0; CHUNK];
    let mut next = 0;
    for_each_extent(file, size, path, |begin, end| {
        // A block that two extents share was hashed with the first of them.
        let mut offset = (begin - begin % CHUNK as u64).max(next);
        while offset < end {
            check_abandoned(abandoned)?;
            let length = block.len().min(usize::try_from(size - offset).unwrap_or(usize::MAX));
            file.read_exact_at(&mut block[..length], offset).map_err(JobError::file("reading", path))?;
            if block[..length].iter().any(|byte| *byte != 0) {
                hasher.update(&offset.to_le_bytes()).update(&block[..length]);
            }
            offset += CHUNK as u64;
        }
        next = offset;
        Ok(())
    })?;
    Ok((Digest::from_bytes(*hasher.finalize().as_bytes()), size))
}

/// Visits the parts of a file that are no holes: where each begins and ends. Where the file system does not tell, the whole
/// file is one part.
fn for_each_extent(file: &File, size: u64, path: &Path, mut visit: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
    let mut end = 0;
    while end < size {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(end)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return Ok(()),
            Err(Errno::INVAL) => end,
            Err(errno) => return Err(JobError::file("reading", path)(errno)),
        };
        end = match rustix::fs::seek(file, SeekFrom::Hole(begin)) {
            Ok(end) => end.min(size),
            Err(_) => size,
        };
        visit(begin, end)?;
    }
    Ok(())
}

/// As much as there is at `offset`, up to a whole buffer.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// An error once nobody wants the result any more.
pub(super) fn check_abandoned(abandoned: &AtomicBool) -> Result<()> {
    if abandoned.load(Ordering::Relaxed) {
        return Err(JobError::new(JobError::STORE, "the work was abandoned"));
    }
    Ok(())
}

/// Writes what was read already and what is left to read; answers digest and length.
pub(super) fn write_stream(mut chunk: Vec<u8>, reader: &mut dyn Read, temporary: &Path) -> Result<(Digest, u64)> {
    let mut file = disk::create(temporary)?;
    let mut hasher = Hasher::new();
    let (mut filled, mut size) = (chunk.len(), 0);
    while filled > 0 {
        hasher.update(&chunk[..filled]);
        file.write_all(&chunk[..filled]).map_err(JobError::file("writing", temporary))?;
        size += filled as u64;
        filled = fill(reader, &mut chunk)?;
    }
    Ok((hasher.finish(), size))
}

/// Writes `size` bytes from a reader; false if they are not those of the digest, be it that of a file with holes, which gets
/// its holes then.
pub(super) fn write_announced(
    reader: &mut dyn Read,
    digest: &Digest,
    size: u64,
    temporary: &Path,
    abandoned: &AtomicBool,
) -> Result<bool> {
    let file = disk::create(temporary)?;
    let (mut whole, mut sparse) = (Hasher::new(), blake3::Hasher::new_derive_key(SPARSE));
    sparse.update(&size.to_le_bytes());
    let (mut block, mut offset, mut holes) = (vec![0; CHUNK], 0, Vec::new());
    while offset < size {
        check_abandoned(abandoned)?;
        let length = CHUNK.min(usize::try_from(size - offset).unwrap_or(usize::MAX));
        if fill(reader, &mut block[..length])? < length {
            return Ok(false);
        }
        whole.update(&block[..length]);
        if block[..length].iter().any(|byte| *byte != 0) {
            sparse.update(&offset.to_le_bytes()).update(&block[..length]);
            file.write_all_at(&block[..length], offset).map_err(JobError::file("writing", temporary))?;
        } else {
            holes.push((offset, length));
        }
        offset += length as u64;
    }
    rustix::fs::ftruncate(&file, size).map_err(JobError::file("writing", temporary))?;
    if whole.finish() == *digest {
        block.fill(0);
        for (offset, length) in holes {
            file.write_all_at(&block[..length], offset).map_err(JobError::file("writing", temporary))?;
        }
        return Ok(true);
    }
    Ok(Digest::from_bytes(*sparse.finalize().as_bytes()) == *digest)
}

/// Reads until the chunk is full or the reader ends.
pub(super) fn fill(reader: &mut dyn Read, chunk: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match reader.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(JobError::refused(Subject::Store, format!("reading failed: {error}"), &error)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(file: &File) -> (Digest, u64) {
        hash(file, Path::new("test"), &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn holes_are_passed_over_and_kept() {
        let sparse = tempfile::tempfile().unwrap();
        let size = 100_u64 << 30;
        sparse.set_len(size).unwrap();
        sparse.write_all_at(b"begin", 70_000).unwrap();
        sparse.write_all_at(b"end", size - 3).unwrap();
        let (first, length) = digest(&sparse);
        assert_eq!(length, size);
        let mut copied = tempfile::tempfile().unwrap();
        copy(&sparse, &mut copied, Path::new("test")).unwrap();
        assert_eq!(digest(&copied), (first, size));
        let stat = rustix::fs::fstat(&copied).unwrap();
        assert!(disk::allocated(&stat) < 1 << 20, "the holes are holes");
        // Zeros that were written are as good as a hole.
        copied.write_all_at(&vec![0; 200_000], 30 << 20).unwrap();
        assert_eq!(digest(&copied).0, first);
        copied.write_all_at(b"x", 50 << 30).unwrap();
        assert_ne!(digest(&copied).0, first);
        let mut bytes = [0; 5];
        sparse.read_exact_at(&mut bytes, 70_000).unwrap();
        assert_eq!(&bytes, b"begin", "what was read is as it was");
    }

    #[test]
    fn announced_bytes_are_taken_as_what_they_are_or_not_at_all() {
        let (directory, never) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
        let mut bytes = vec![0; 4 << 20];
        bytes[70_000] = b'x';
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(4 << 20).unwrap();
        sparse.write_all_at(b"x", 70_000).unwrap();
        for (name, digest, is_sparse) in [("whole", Digest::of(&bytes), false), ("sparse", digest(&sparse).0, true)] {
            let path = directory.path().join(name);
            let from = |bytes: &[u8]| {
                let _ = fs_err::remove_file(&path);
                write_announced(&mut &bytes[..], &digest, 4 << 20, &path, &never).unwrap()
            };
            assert!(!from(&bytes[..4 << 19]));
            bytes[3 << 20] = 1;
            assert!(!from(&bytes));
            bytes[3 << 20] = 0;
            assert!(from(&bytes));
            let written = fs_err::File::open(&path).unwrap().into_file();
            assert_eq!(disk::is_sparse(&rustix::fs::fstat(&written).unwrap()), is_sparse);
            assert!(matches(&written, &digest, &path).unwrap());
        }
    }

    #[test]
    fn a_file_that_lost_its_holes_is_still_itself() {
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(4 << 20).unwrap();
        sparse.write_all_at(b"x", 3 << 20).unwrap();
        let full = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 4 << 20];
        bytes[3 << 20] = b'x';
        full.write_all_at(&bytes, 0).unwrap();
        let (of_sparse, of_full) = (digest(&sparse).0, digest(&full).0);
        assert_ne!(of_sparse, of_full, "no digest of one kind is one of the other");
        assert_eq!(of_full, Digest::of(&bytes));
        for digest in [of_sparse, of_full] {
            assert!(matches(&sparse, &digest, Path::new("test")).unwrap());
            assert!(matches(&full, &digest, Path::new("test")).unwrap());
        }
        full.write_all_at(b"y", 3 << 20).unwrap();
        assert!(!matches(&full, &of_sparse, Path::new("test")).unwrap());
    }
}
