//! What was seen of a file set the last time, like git's index.
//!
//! A digest is believed without reading the file again only while the file's status is the same. Two changes within one
//! tick of the clock could leave the same status; therefore a file that was read too soon after its last change is not
//! recorded at all, and is read again the next time.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lamina_ground::Stack;
use lamina_image::{Digest, FileSet, Hasher};
use rustix::fs::{AtFlags, CWD, Stat, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::{Layout, Metadata, StoreError, Timestamp};

const MAGIC: &[u8; 16] = b"LAMINA-CONTEXT\x00\x03";
/// Ticks of the kernel's clock are 10 ms at the longest.
const FINE_TICK: Duration = Duration::from_millis(20);
/// Filesystems without fractions of seconds have ticks of up to 2 s.
const COARSE_TICK: Duration = Duration::from_millis(2500);
/// Images that a set is remembered over.
pub(super) const MAXIMUM_SHOWN: usize = 64;

/// What tells whether a file changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
    mode: u32,
}

impl Status {
    pub(super) fn new(stat: &Stat) -> Self {
        let time = |seconds, nanoseconds| (seconds, u32::try_from(nanoseconds).unwrap_or_default());
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
            mode: stat.st_mode,
        }
    }

    /// Permission bits without set-id and sticky bits: local files bring no privileges along.
    fn permissions(&self) -> u32 {
        self.mode & 0o777
    }

    /// The file's metadata in an image, where it belongs to container root.
    pub(super) fn metadata(&self) -> Metadata {
        let (seconds, nanoseconds) = self.modified;
        let modified = Timestamp { seconds, nanoseconds };
        Metadata { modified, ..Metadata::root_owned(self.permissions()) }
    }

    /// Whether any later change gives another status, when the file was looked at at `now`.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let tick = if self.changed.1 == 0 { COARSE_TICK } else { FINE_TICK };
        let Ok(now) = now.duration_since(UNIX_EPOCH) else {
            return false;
        };
        let (seconds, nanoseconds) = self.changed.max(self.modified);
        let last = Duration::new(u64::try_from(seconds).unwrap_or_default(), nanoseconds);
        last + tick < now
    }
}

/// What is remembered of a file set.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The last full view that was made of it.
    pub(super) base: Option<Digest>,
    /// What stands for its links, if there are any.
    pub(super) links: Option<Digest>,
    /// What shows the whole set over images, most recently last, if all its files are recorded.
    pub(super) shown: Vec<Shown>,
    /// Files in the order of their paths in the image.
    pub(super) files: Vec<(Vec<u8>, Status, Digest)>,
}

/// A file set as it is shown over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    /// What stands for the image: its directories and links decide where the files are.
    pub(super) image: Digest,
    /// The digest of the whole set.
    pub(super) whole: Digest,
    /// The view that shows it over an older one, and that; otherwise it has a view of its own.
    pub(super) delta: Option<(Digest, Digest)>,
}

impl Shown {
    /// The views that show the set.
    pub(super) fn views(&self) -> Stack<Digest> {
        match self.delta {
            Some((delta, base)) => Stack::from_bottom_up([base, delta]),
            None => Stack::from_bottom_up([self.whole]),
        }
    }
}

/// Where the record of a file set is. What is ignored does not matter: the digests are those of the files.
pub(super) fn path(layout: &Layout, set: &FileSet) -> PathBuf {
    let mut hasher = Hasher::new();
    for entry in &set.entries {
        for text in [&entry.source, &entry.target] {
            hasher.update(text.as_bytes()).update(&[0]);
        }
    }
    layout.contexts().join(&hasher.finish().hex()[..32])
}

/// Notes that a record was used: its time is how long nobody has asked for the file set.
pub(super) fn touch(path: &Path) -> Result<(), StoreError> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    match rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()) {
        // Another process may have collected it.
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(StoreError::file("setting the time of", path)(errno)),
    }
}

/// The views that a record names, for those who collect what nobody uses.
pub(in crate::engine) fn views(path: &Path) -> impl Iterator<Item = Digest> {
    let Record { base, shown, .. } = Record::load(path);
    base.into_iter().chain(shown.into_iter().flat_map(|shown| shown.views().bottom_up().to_vec()))
}

impl Record {
    /// Reads a record. Without one, or with a damaged one, nothing is known.
    pub(super) fn load(path: &Path) -> Self {
        let bytes = fs_err::read(path).unwrap_or_default();
        Self::decode(&bytes).unwrap_or_default()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.files.len() * 140);
        out.extend_from_slice(MAGIC);
        put_digests(&mut out, self.base.as_slice());
        put_digests(&mut out, self.links.as_slice());
        out.extend_from_slice(&u32::try_from(self.shown.len()).unwrap_or(u32::MAX).to_le_bytes());
        for Shown { image, whole, delta } in &self.shown {
            put_digests(&mut out, &[*image, *whole]);
            put_digests(&mut out, &delta.map_or_else(Vec::new, |(delta, base)| vec![delta, base]));
        }
        for (path, status, digest) in &self.files {
            out.extend_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(path);
            for number in [status.device, status.inode, status.size] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            for (seconds, nanoseconds) in [status.modified, status.changed] {
                out.extend_from_slice(&seconds.to_le_bytes());
                out.extend_from_slice(&nanoseconds.to_le_bytes());
            }
            out.extend_from_slice(&status.mode.to_le_bytes());
            out.extend_from_slice(digest.as_bytes());
        }
        let checksum = Digest::of(&out);
        out.extend_from_slice(checksum.as_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, checksum) = bytes.split_last_chunk::<32>()?;
        if Digest::of(bytes).as_bytes() != checksum {
            return None;
        }
        let mut reader = Reader(bytes.strip_prefix(MAGIC)?);
        let base = reader.digests()?.first().copied();
        let links = reader.digests()?.first().copied();
        let shown = (0..reader.number()?).map(|_| reader.shown()).collect::<Option<_>>()?;
        let mut files = Vec::with_capacity(reader.0.len() / 140);
        while !reader.0.is_empty() {
            files.push(reader.file()?);
        }
        Some(Self { base, links, shown, files })
    }
}

/// Digests with their number before them.
fn put_digests(out: &mut Vec<u8>, digests: &[Digest]) {
    out.push(u8::try_from(digests.len()).unwrap_or(u8::MAX));
    for digest in digests {
        out.extend_from_slice(digest.as_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn file(&mut self) -> Option<(Vec<u8>, Status, Digest)> {
        let length = usize::try_from(self.number()?).ok()?;
        let (path, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let status = Status {
            device: self.long()?,
            inode: self.long()?,
            size: self.long()?,
            modified: self.time()?,
            changed: self.time()?,
            mode: self.number()?,
        };
        Some((path.to_vec(), status, Digest::from_bytes(self.array()?)))
    }

    fn shown(&mut self) -> Option<Shown> {
        let (what, delta) = (self.digests()?, self.digests()?);
        let [image, whole] = what[..] else { return None };
        Some(Shown { image, whole, delta: delta.first().copied().zip(delta.get(1).copied()) })
    }

    fn digests(&mut self) -> Option<Vec<Digest>> {
        let [count] = self.array()?;
        (0..count).map(|_| Some(Digest::from_bytes(self.array()?))).collect()
    }

    fn time(&mut self) -> Option<(i64, u32)> {
        Some((i64::from_le_bytes(self.array()?), self.number()?))
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
}
