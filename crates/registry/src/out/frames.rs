//! Frames that were compressed before, kept by what they hold: a layer in which little has changed is not compressed whole.
//!
//! ```text
//! kept = archive frame* count(u32) zstd(u32) "LAMINA-FRAMES\x01"
//! frame = content(32) digest(32) length(u32)
//! ```
//!
//! `archive` consists of the frames that are listed. `content` is BLAKE3 of what a frame holds, `digest` that of its bytes, and
//! `zstd` the version of the library that made them: another one may make others.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use lamina_image::Digest;
use rustix::fs::{AtFlags, CWD, linkat};

/// What a kept archive ends with; the last byte is the version.
const MAGIC: &[u8; 14] = b"LAMINA-FRAMES\x01";
/// How the name of a kept archive ends; its SHA-256 is before it.
const EXTENSION: &str = "frames";
/// Bytes of what is behind the list.
const END: usize = 4 + 4 + MAGIC.len();
/// Bytes of what is said of a frame.
const ENTRY: usize = 32 + 32 + 4;
/// Archives that are looked into, the newest first.
const MOST_ARCHIVES: usize = 32;
/// Bytes of an archive from which on it is kept.
const WORTH_KEEPING: u64 = 1 << 20;

/// A frame of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// BLAKE3 of what it holds.
    pub(super) content: Digest,
    /// BLAKE3 of its bytes.
    pub(super) digest: Digest,
    pub(super) length: u32,
}

/// Frames of archives that were made before.
#[derive(Debug, Default)]
pub(super) struct Kept {
    archives: Vec<Archive>,
    /// Where a frame is: in which archive, and from where on.
    frames: HashMap<Digest, (usize, u64, Frame)>,
}

#[derive(Debug)]
struct Archive {
    path: PathBuf,
    file: File,
    length: u64,
    /// Bytes that were taken from it.
    taken: AtomicU64,
}

impl Kept {
    /// Those in a directory. What cannot be read is as good as not there.
    pub(super) fn open(directory: &Path) -> Self {
        let entries = fs_err::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let kept = entries.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        let time = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
        let mut paths: Vec<(Option<SystemTime>, PathBuf)> = kept.map(|path| (time(&path), path)).collect();
        paths.sort_unstable_by(|one, other| other.cmp(one));
        let mut found = Self::default();
        for (_, path) in paths.into_iter().take(MOST_ARCHIVES) {
            let Ok(file) = fs_err::File::open(&path).map(fs_err::File::into_file) else { continue };
            let Some(frames) = read_list(&file) else { continue };
            let mut length = 0;
            for frame in frames {
                found.frames.entry(frame.content).or_insert((found.archives.len(), length, frame));
                length += u64::from(frame.length);
            }
            found.archives.push(Archive { path, file, length, taken: AtomicU64::new(0) });
        }
        found
    }

    /// The frame that holds something.
    pub(super) fn find(&self, content: &Digest) -> Option<Vec<u8>> {
        let (archive, begin, frame) = self.frames.get(content)?;
        let archive = &self.archives[*archive];
        let mut bytes = vec![0; usize::try_from(frame.length).ok()?];
        archive.file.read_exact_at(&mut bytes, *begin).ok()?;
        // Nothing waits for a kept archive to be on the disk.
        if Digest::of(&bytes) != frame.digest {
            return None;
        }
        archive.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Some(bytes)
    }

    /// Keeps an archive that was made, a file without a name, in the place of those that most of was taken from. Only its first
    /// `size` bytes are the archive afterwards.
    pub(super) fn keep(&self, directory: &Path, file: &mut File, sha256: &str, frames: &[Frame]) -> io::Result<()> {
        let size: u64 = frames.iter().map(|frame| u64::from(frame.length)).sum();
        if size < WORTH_KEEPING {
            return Ok(());
        }
        file.seek(SeekFrom::Start(size))?;
        file.write_all(&list(frames))?;
        let path = directory.join(sha256).with_extension(EXTENSION);
        let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
        match linkat(CWD, itself, CWD, &path, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        for archive in &self.archives {
            if archive.path != path && archive.taken.load(Ordering::Relaxed) * 2 > archive.length {
                let _ = fs_err::remove_file(&archive.path);
            }
        }
        Ok(())
    }
}

fn list(frames: &[Frame]) -> Vec<u8> {
    let mut list = Vec::with_capacity(frames.len() * ENTRY + END);
    for Frame { content, digest, length } in frames {
        list.extend_from_slice(content.as_bytes());
        list.extend_from_slice(digest.as_bytes());
        list.extend_from_slice(&length.to_le_bytes());
    }
    // A list that is longer is not read again.
    list.extend_from_slice(&u32::try_from(frames.len()).unwrap_or_default().to_le_bytes());
    list.extend_from_slice(&zstd::zstd_safe::version_number().to_le_bytes());
    list.extend_from_slice(MAGIC);
    list
}

fn read_list(file: &File) -> Option<Vec<Frame>> {
    let before_end = file.metadata().ok()?.len().checked_sub(END as u64)?;
    let mut end = [0; END];
    file.read_exact_at(&mut end, before_end).ok()?;
    let (count, rest) = end.split_first_chunk::<4>()?;
    if rest != [&zstd::zstd_safe::version_number().to_le_bytes()[..], MAGIC].concat() {
        return None;
    }
    let length = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(ENTRY)?;
    let begin = before_end.checked_sub(length as u64)?;
    let mut list = vec![0; length];
    file.read_exact_at(&mut list, begin).ok()?;
    let frames = list.chunks_exact(ENTRY).map(|entry| {
        let (content, rest) = entry.split_first_chunk::<32>()?;
        let (digest, length) = rest.split_first_chunk::<32>()?;
        let length = u32::from_le_bytes(length.try_into().ok()?);
        Some(Frame { content: Digest::from_bytes(*content), digest: Digest::from_bytes(*digest), length })
    });
    let frames: Vec<Frame> = frames.collect::<Option<_>>()?;
    (frames.iter().map(|frame| u64::from(frame.length)).sum::<u64>() == begin).then_some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(directory: &Path, kept: &Kept, sha256: &str, contents: &[&[u8]]) {
        let mut file = tempfile::tempfile_in(directory).unwrap();
        let frames = contents.iter().map(|content| {
            // Frames need not be compressed for this.
            file.write_all(content).unwrap();
            let length = u32::try_from(content.len()).unwrap();
            Frame { content: Digest::of(content), digest: Digest::of(content), length }
        });
        let frames: Vec<_> = frames.collect();
        kept.keep(directory, &mut file, sha256, &frames).unwrap();
    }

    fn names(directory: &Path) -> Vec<String> {
        let names = fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn frames_are_found_by_what_they_hold_until_a_later_archive_has_them() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let [one, two, three] = [1, 2, 3].map(|byte| vec![byte; 900_000]);
        keep(directory, &Kept::open(directory), "a", &[&one, &two]);
        keep(directory, &Kept::open(directory), "small", &[b"few bytes"]);
        assert_eq!(names(directory), ["a.frames"]);
        let kept = Kept::open(directory);
        assert_eq!(kept.find(&Digest::of(&two)), Some(two.clone()));
        assert_eq!(kept.find(&Digest::of(&three)), None);
        keep(directory, &kept, "b", &[&three, &three]);
        assert_eq!(names(directory), ["a.frames", "b.frames"], "half of it is here only");
        let kept = Kept::open(directory);
        assert!(kept.find(&Digest::of(&one)).is_some() && kept.find(&Digest::of(&two)).is_some());
        keep(directory, &kept, "c", &[&one, &two, &three]);
        assert_eq!(names(directory), ["b.frames", "c.frames"]);
    }

    #[test]
    fn what_is_damaged_is_not_found() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let [one, two] = [1, 2].map(|byte| vec![byte; 900_000]);
        keep(directory, &Kept::open(directory), "a", &[&one, &two]);
        let file = fs_err::OpenOptions::new().write(true).open(directory.join("a.frames")).unwrap().into_file();
        file.write_all_at(b"x", 1000).unwrap();
        let kept = Kept::open(directory);
        assert_eq!(kept.find(&Digest::of(&one)), None);
        assert_eq!(kept.find(&Digest::of(&two)), Some(two));
        let length = file.metadata().unwrap().len();
        for damaged in [length - 1, 30, 0] {
            file.set_len(damaged).unwrap();
            assert!(Kept::open(directory).frames.is_empty());
        }
        // A list of another length than what is before it.
        file.set_len(0).unwrap();
        file.write_all_at(&list(&[Frame { content: Digest::of(b""), digest: Digest::of(b""), length: 5 }]), 4).unwrap();
        assert!(Kept::open(directory).frames.is_empty());
    }
}
