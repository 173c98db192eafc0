//! Objects: file contents, stored once.
//!
//! An object gets its name as soon as it is written, so that views can refer to it at once, but its *seal* only when its
//! bytes are known to be on the disk. The seal is an attribute with the whole digest, and the time that the object then had:
//! one that was written to since has another time, and its seal does not count. An object without a seal is believed by
//! nobody but the process that wrote it; another process that needs it reads it and, if the bytes are what the name says,
//! makes them durable and seals it itself. So two processes can store the same files at the same time, and a half-written
//! object of a power cut is replaced.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use lamina_image::Digest;
use rayon::prelude::*;
use rustix::fs::{FileType, Stat, XattrFlags};
use rustix::io::Errno;

use super::content::{self, CHUNK};
use super::disk::{self, Result};
use crate::{JobError, ObjectName, Timestamp};

/// The attribute that seals an object. Overlays show none of `user.overlay.` to processes inside.
pub(super) const SEAL: &str = "user.overlay.lamina";
/// Bytes of a seal: a digest, seconds, nanoseconds.
const SEAL_LENGTH: usize = 32 + 8 + 4;
/// Up to this many unsynced objects are synced one by one; beyond it syncing the filesystem is cheaper.
const SYNC_SINGLY: usize = 32;

/// The objects of a store.
#[derive(Debug)]
pub(super) struct Objects {
    content: PathBuf,
    /// Objects that this process wrote and that may not be on the disk yet, with their inodes and digests.
    unsynced: Mutex<HashMap<ObjectName, (u64, Digest)>>,
    /// Objects that jobs of this process added; they count as new bytes of the first layer that has them.
    unclaimed: Mutex<HashSet<ObjectName>>,
}

/// An object that was asked to be stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    /// Digest of its bytes.
    pub(super) digest: Digest,
    /// Whether the store did not have it.
    pub(super) is_new: bool,
}

impl Objects {
    /// The objects below a content directory.
    pub(super) fn open(content: &Path) -> Result<Self> {
        let objects = content.join("objects");
        disk::make_directory(&objects, 0o755)?;
        // All of them are counted, because any of them may have been lost.
        if disk::list(&objects)?.len() < ObjectName::DIGITS.len() {
            for digit in ObjectName::DIGITS {
                disk::make_directory(&objects.join(char::from(*digit).to_string()), 0o755)?;
            }
        }
        Ok(Self { content: content.to_owned(), unsynced: Mutex::default(), unclaimed: Mutex::default() })
    }

    /// Where the object with this digest is.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.content.join(ObjectName::new(digest).path())
    }

    /// The status of an object that is in the store with everything its digest promises short of its bytes.
    pub(super) fn find(&self, digest: &Digest, size: Option<u64>) -> Result<Option<Stat>> {
        let path = self.path(digest);
        let Some(stat) = disk::try_stat(&path)? else {
            return Ok(None);
        };
        if disk::file_type(&stat) != FileType::RegularFile || size.is_some_and(|size| disk::size(&stat) != size) {
            return Ok(None);
        }
        let sealed = match read_seal(&path)? {
            Some(seal) if seal.digest != *digest => return Err(alike(digest, &seal.digest)),
            seal => seal.is_some_and(|seal| seal.modified == disk::meta(&stat).modified),
        };
        match self.unsealed(digest, &stat) {
            _ if sealed => Ok(Some(stat)),
            Some(written) if written == *digest => Ok(Some(stat)),
            Some(other) => Err(alike(digest, &other)),
            None => Ok(vouch(digest, &path)?.then_some(stat)),
        }
    }

    /// Stores what `reader` gives, by way of the unused path `temporary`.
    pub(super) fn put(&self, reader: &mut dyn Read, temporary: &Path) -> Result<(Stored, u64)> {
        let mut chunk = vec![0; CHUNK];
        let filled = content::fill(reader, &mut chunk)?;
        if filled < chunk.len() {
            let stored = self.put_bytes(&chunk[..filled], temporary)?;
            return Ok((stored, filled as u64));
        }
        let written = content::write_stream(chunk, reader, temporary);
        let stored = written.and_then(|(digest, size)| Ok((self.adopt(&digest, size, temporary)?, size)));
        clean_up(stored, temporary)
    }

    /// Stores bytes; the common case of a small file that the store already has writes nothing.
    pub(super) fn put_bytes(&self, bytes: &[u8], temporary: &Path) -> Result<Stored> {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        if size == 0 || self.find(&digest, Some(size))?.is_some() {
            return Ok(Stored { digest, is_new: false });
        }
        let written = disk::create(temporary)
            .and_then(|mut file| file.write_all(bytes).map_err(JobError::file("writing", temporary)));
        clean_up(written.and_then(|()| self.adopt(&digest, size, temporary)), temporary)
    }

    /// Turns a finished file with these bytes into an object. It is gone from where it was.
    pub(super) fn adopt(&self, digest: &Digest, size: u64, file: &Path) -> Result<Stored> {
        let inode = disk::stat(file)?.st_ino;
        let path = self.path(digest);
        let mut unsynced = self.lock();
        if disk::rename_new(file, &path)? {
            unsynced.insert(ObjectName::new(digest), (inode, *digest));
            return Ok(Stored { digest: *digest, is_new: true });
        }
        drop(unsynced);
        if self.find(digest, Some(size))?.is_some() {
            disk::unlink(file)?;
            return Ok(Stored { digest: *digest, is_new: false });
        }
        let mut unsynced = self.lock();
        disk::rename(file, &path)?;
        unsynced.insert(ObjectName::new(digest), (inode, *digest));
        Ok(Stored { digest: *digest, is_new: true })
    }

    /// Gives a finished file with these bytes a second name, as an object; false where there is one already.
    pub(super) fn add_name(&self, digest: &Digest, size: u64, file: &Path, temporary: &Path) -> Result<bool> {
        if self.find(digest, Some(size))?.is_some() {
            return Ok(false);
        }
        let inode = disk::stat(file)?.st_ino;
        let path = self.path(digest);
        match disk::hard_link(file, &path) {
            Ok(()) => {}
            // Another process was faster.
            Err(Errno::EXIST) if self.find(digest, Some(size))?.is_some() => return Ok(false),
            // What is there is damaged.
            Err(Errno::EXIST) => {
                disk::hard_link(file, temporary).map_err(JobError::file("linking to", temporary))?;
                disk::rename(temporary, &path)?;
            }
            Err(errno) => return Err(JobError::file("linking to", &path)(errno)),
        }
        self.lock().insert(ObjectName::new(digest), (inode, *digest));
        Ok(true)
    }

    /// Makes the objects written so far durable and seals them. `everything` is whether other files of the store have to be
    /// on the disk as well. Ends between two objects once nobody wants them; those that are left have no seal.
    pub(super) fn sync(&self, everything: bool, abandoned: &AtomicBool) -> Result<()> {
        let pending = self.lock().clone();
        let singly = !everything && pending.len() <= SYNC_SINGLY;
        if !singly {
            disk::sync_filesystem(&self.content)?;
        }
        pending.par_iter().try_for_each(|(_, (inode, digest))| {
            content::check_abandoned(abandoned)?;
            self.seal_written(*inode, digest, singly)
        })?;
        self.lock().retain(|name, written| pending.get(name) != Some(written));
        Ok(())
    }

    /// Seals an object that this process wrote; `sync` is whether its bytes may not be on the disk yet.
    fn seal_written(&self, inode: u64, digest: &Digest, sync: bool) -> Result<()> {
        let path = self.path(digest);
        // One that was of no use to any layer has been collected.
        let Some(file) = disk::try_open(&path)? else { return Ok(()) };
        let stat = rustix::fs::fstat(&file).map_err(JobError::file("reading the status of", &path))?;
        // Another process may have put its own copy in the place; that one is not ours to vouch for.
        if stat.st_ino != inode {
            return Ok(());
        }
        if sync {
            rustix::fs::fsync(&file).map_err(JobError::file("syncing", &path))?;
        }
        seal(&file, &stat, digest, &path)
    }

    /// Remembers that a job added an object.
    pub(super) fn add_unclaimed(&self, name: ObjectName) {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
    }

    /// Whether a job of this process added the object and no layer has counted it yet.
    pub(super) fn claim(&self, name: &ObjectName) -> bool {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    /// The digest of an object that this process wrote and has not sealed yet.
    fn unsealed(&self, digest: &Digest, stat: &Stat) -> Option<Digest> {
        let written = self.lock().get(&ObjectName::new(digest)).copied();
        written.filter(|(inode, _)| *inode == stat.st_ino).map(|(_, digest)| digest)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectName, (u64, Digest)>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an attribute of an object says.
struct Seal {
    digest: Digest,
    /// When the object was last changed before it was sealed.
    modified: Timestamp,
}

/// Says of an object with this status that its bytes are on the disk and what their digest is.
fn seal(file: impl AsFd, stat: &Stat, digest: &Digest, path: &Path) -> Result<()> {
    let Timestamp { seconds, nanoseconds } = disk::meta(stat).modified;
    let value = [&digest.as_bytes()[..], &seconds.to_le_bytes(), &nanoseconds.to_le_bytes()].concat();
    rustix::fs::fsetxattr(file, SEAL, &value, XattrFlags::empty())
        .map_err(JobError::file("setting an attribute of", path))
}

/// Seals an object again if it was: its time has been changed on purpose.
pub(super) fn renew_seal(file: &File, digest: &Digest, path: &Path) -> Result<()> {
    match rustix::fs::fgetxattr(file, SEAL, &mut [0; SEAL_LENGTH][..]) {
        Ok(_) => {
            let stat = rustix::fs::fstat(file).map_err(JobError::file("reading the status of", path))?;
            seal(file, &stat, digest, path)
        }
        Err(Errno::NODATA | Errno::RANGE) => Ok(()),
        Err(errno) => Err(JobError::file("reading an attribute of", path)(errno)),
    }
}

fn read_seal(path: &Path) -> Result<Option<Seal>> {
    let mut value = [0; SEAL_LENGTH];
    match rustix::fs::lgetxattr(path, SEAL, &mut value[..]) {
        Ok(SEAL_LENGTH) => {
            let (digest, time) = value.split_at(32);
            let (seconds, nanoseconds) = time.split_at(8);
            Ok(Some(Seal {
                digest: Digest::from_bytes(array(digest)),
                modified: Timestamp {
                    seconds: i64::from_le_bytes(array(seconds)),
                    nanoseconds: u32::from_le_bytes(array(nanoseconds)),
                },
            }))
        }
        Ok(_) | Err(Errno::NODATA | Errno::RANGE) => Ok(None),
        Err(errno) => Err(JobError::file("reading an attribute of", path)(errno)),
    }
}

/// The bytes of a part whose length is known.
fn array<const LENGTH: usize>(bytes: &[u8]) -> [u8; LENGTH] {
    let mut array = [0; LENGTH];
    array.copy_from_slice(bytes);
    array
}

/// Whether an object holds what its seal says, and that is what its name says; one without a seal, what its name says.
pub(super) fn holds(name: &ObjectName, path: &Path) -> Result<bool> {
    let file = disk::open(path)?;
    match read_seal(path)? {
        Some(seal) => Ok(ObjectName::new(&seal.digest) == *name && content::matches(&file, &seal.digest, path)?),
        None => Ok(content::digests(&file, path)?.iter().any(|digest| ObjectName::new(digest) == *name)),
    }
}

/// Whether an object that another process may still be about to make durable holds what its name says; if so it is made
/// durable and sealed here.
fn vouch(digest: &Digest, path: &Path) -> Result<bool> {
    let file = disk::open(path)?;
    if !content::matches(&file, digest, path)? {
        return Ok(false);
    }
    rustix::fs::fsync(&file).map_err(JobError::file("syncing", path))?;
    let stat = rustix::fs::fstat(&file).map_err(JobError::file("reading the status of", path))?;
    seal(&file, &stat, digest, path)?;
    Ok(true)
}

fn alike(one: &Digest, other: &Digest) -> JobError {
    let text = format!(
        "the store cannot hold two files whose digests begin alike, `{one}` and `{other}`: one of them was made to replace \
         the other; find out where it comes from"
    );
    JobError::new(JobError::STORE, text)
}

/// Removes the temporary file after a failure.
fn clean_up<T>(result: Result<T>, temporary: &Path) -> Result<T> {
    if result.is_err() {
        // The first error is the one to report.
        let _ = disk::unlink(temporary);
    }
    result
}
