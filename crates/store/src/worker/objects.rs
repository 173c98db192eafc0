//! Objects: file contents, stored once per identity.
//!
//! An object gets its name as soon as it is written, so that it can be linked at once, but the layer time only when its
//! bytes are known to be on the disk. An object without that time is believed by nobody but the process that wrote it;
//! another process that needs it reads it and, if the bytes are what the name says, makes them durable itself. So two
//! processes can store the same files at the same time, and a half-written object of a power cut is replaced.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use lamina_image::{Digest, Hasher};
use rustix::fs::{FileType, Gid, OFlags, Stat, Uid};

use super::disk::{self, Result};
use super::xattrs;
use crate::{JobError, ObjectMeta, ObjectName};

/// Bytes read and hashed at once.
pub(super) const CHUNK: usize = 64 << 10;
/// Up to this many unsynced objects are synced one by one; beyond it syncing the filesystem is cheaper.
const SYNC_SINGLY: usize = 32;
/// Links that an object may have before views get copies: ext4 allows 65,000.
pub(super) const MAXIMUM_LINKS: usize = 60_000;

/// The objects of a store.
#[derive(Debug)]
pub(super) struct Objects {
    content: PathBuf,
    /// Objects that this process wrote and that may not be on the disk yet, with their inodes.
    unsynced: Mutex<HashMap<ObjectName, u64>>,
    /// Objects that jobs of this process added; they count as new bytes of the first layer that has them.
    unclaimed: Mutex<HashSet<ObjectName>>,
}

impl Objects {
    /// The objects below a content directory.
    pub(super) fn open(content: &Path) -> Result<Self> {
        let objects = content.join("objects");
        disk::make_directory(&objects, 0o755)?;
        // Made in order, so that the last one tells whether there is anything to do.
        if disk::try_stat(&objects.join("ff"))?.is_none() {
            for byte in 0..=u8::MAX {
                disk::make_directory(&objects.join(format!("{byte:02x}")), 0o755)?;
            }
        }
        Ok(Self { content: content.to_owned(), unsynced: Mutex::default(), unclaimed: Mutex::default() })
    }

    /// Where an object is.
    pub(super) fn path(&self, name: &ObjectName) -> PathBuf {
        self.content.join(name.path())
    }

    /// The status of an object that is in the store with everything its name promises short of its bytes.
    pub(super) fn find(&self, name: &ObjectName, meta: &ObjectMeta, size: Option<u64>) -> Result<Option<Stat>> {
        let path = self.path(name);
        let Some(stat) = disk::try_stat(&path)? else {
            return Ok(None);
        };
        let plausible = disk::file_type(&stat) == FileType::RegularFile
            && disk::meta(&stat) == ObjectMeta { xattrs: std::collections::BTreeMap::new(), ..meta.clone() }
            && size.is_none_or(|size| disk::size(&stat) == size);
        // A name holds only 32 bits of the attributes; a planted file must not pass for one without capabilities.
        if !plausible || xattrs::read_at(&path)?.inside != meta.xattrs {
            return Ok(None);
        }
        let believed = disk::has_layer_time(&stat) || self.is_unsynced(name, &stat) || vouch(name, &path)?;
        Ok(believed.then_some(stat))
    }

    /// Stores what `reader` gives, by way of the unused path `temporary`.
    pub(super) fn put(&self, reader: &mut dyn Read, meta: &ObjectMeta, temporary: &Path) -> Result<(Stored, u64)> {
        let mut chunk = vec![0; CHUNK];
        let filled = fill(reader, &mut chunk)?;
        if filled < chunk.len() {
            let stored = self.put_bytes(&chunk[..filled], meta, temporary)?;
            return Ok((stored, filled as u64));
        }
        let written = write_stream(chunk, reader, temporary);
        let stored = written.and_then(|(digest, size)| Ok((self.adopt(digest, size, meta, temporary)?, size)));
        clean_up(stored, temporary)
    }

    /// Stores bytes; the common case of a small file that the store already has writes nothing.
    pub(super) fn put_bytes(&self, bytes: &[u8], meta: &ObjectMeta, temporary: &Path) -> Result<Stored> {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        if size == 0 || self.find(&ObjectName::new(digest, meta), meta, Some(size))?.is_some() {
            return Ok(Stored { digest, is_new: false });
        }
        let written = disk::create(temporary)
            .and_then(|mut file| file.write_all(bytes).map_err(JobError::file("writing", temporary)));
        clean_up(written.and_then(|()| self.adopt(digest, size, meta, temporary)), temporary)
    }

    /// Turns a finished file into an object.
    fn adopt(&self, digest: Digest, size: u64, meta: &ObjectMeta, temporary: &Path) -> Result<Stored> {
        let name = ObjectName::new(digest, meta);
        set_identity(temporary, meta)?;
        let inode = disk::stat(temporary)?.st_ino;
        let path = self.path(&name);
        let mut unsynced = self.lock();
        if disk::rename_new(temporary, &path)? {
            unsynced.insert(name, inode);
            return Ok(Stored { digest, is_new: true });
        }
        drop(unsynced);
        if self.find(&name, meta, Some(size))?.is_some() {
            disk::unlink(temporary)?;
            return Ok(Stored { digest, is_new: false });
        }
        let mut unsynced = self.lock();
        disk::rename(temporary, &path)?;
        unsynced.insert(name, inode);
        Ok(Stored { digest, is_new: true })
    }

    /// Publishes a file whose bytes, identity and time are final and on the disk as an object, by link. True when the
    /// object is new.
    pub(super) fn publish(
        &self,
        name: &ObjectName,
        meta: &ObjectMeta,
        size: u64,
        file: &Path,
        spare: &Path,
    ) -> Result<bool> {
        let path = self.path(name);
        match disk::hard_link(file, &path) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(JobError::file("linking to", &path)(errno)),
        }
        if self.find(name, meta, Some(size))?.is_some() {
            return Ok(false);
        }
        disk::hard_link(file, spare).map_err(JobError::file("linking to", spare))?;
        disk::rename(spare, &path)?;
        // Renaming one name of a file onto another one of it does nothing.
        disk::unlink(spare)?;
        Ok(true)
    }

    /// Makes the objects written so far durable and gives them the layer time. `everything` is whether other files of
    /// the store have to be on the disk as well.
    pub(super) fn sync(&self, everything: bool) -> Result<()> {
        let pending = self.lock().clone();
        if everything || pending.len() > SYNC_SINGLY {
            disk::sync_filesystem(&self.content)?;
        }
        for (name, inode) in &pending {
            let path = self.path(name);
            if disk::try_stat(&path)?.is_none() {
                continue; // It was of no use to any layer and has been collected.
            }
            let file = disk::open_with(&path, OFlags::RDONLY)?;
            let stat = rustix::fs::fstat(&file).map_err(JobError::file("reading the status of", &path))?;
            // Another process may have put its own copy in the place; that one is not ours to vouch for.
            if stat.st_ino == *inode {
                if !everything && pending.len() <= SYNC_SINGLY {
                    rustix::fs::fsync(&file).map_err(JobError::file("syncing", &path))?;
                }
                disk::set_file_layer_time(&file, &path)?;
            }
        }
        self.lock().retain(|name, inode| pending.get(name) != Some(inode));
        Ok(())
    }

    /// Remembers that a job added an object.
    pub(super) fn add_unclaimed(&self, name: ObjectName) {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
    }

    /// Whether a job of this process added the object and no layer has counted it yet.
    pub(super) fn claim(&self, name: &ObjectName) -> bool {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    fn is_unsynced(&self, name: &ObjectName, stat: &Stat) -> bool {
        self.lock().get(name) == Some(&stat.st_ino)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectName, u64>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object that was asked to be stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    /// Digest of its bytes.
    pub(super) digest: Digest,
    /// Whether the store did not have it.
    pub(super) is_new: bool,
}

/// Gives a file owner, mode and attributes. The order matters: a change of owner takes set-id bits and capabilities away.
pub(super) fn set_identity(path: &Path, meta: &ObjectMeta) -> Result<()> {
    let file = disk::open(path)?;
    let stat = rustix::fs::fstat(&file).map_err(JobError::file("reading the status of", path))?;
    if (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) {
        rustix::fs::fchown(&file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
            .map_err(JobError::file("changing the owner of", path))?;
    }
    disk::change_mode(path, meta.mode)?;
    xattrs::write(&file, &meta.xattrs, path)
}

/// Whether an object that another process may still be about to make durable holds what its name says; if so it is
/// made durable here.
fn vouch(name: &ObjectName, path: &Path) -> Result<bool> {
    let mut file = disk::open(path)?;
    if hash(&mut file, path, &AtomicBool::new(false))?.0 != name.content() {
        return Ok(false);
    }
    rustix::fs::fsync(&file).map_err(JobError::file("syncing", path))?;
    disk::set_file_layer_time(&file, path)?;
    Ok(true)
}

/// Digest and length of a file.
pub(super) fn hash(file: &mut impl Read, path: &Path, abandoned: &AtomicBool) -> Result<(Digest, u64)> {
    let mut chunk = vec![0; CHUNK];
    let mut hasher = Hasher::new();
    let mut size = 0;
    loop {
        check_abandoned(abandoned)?;
        let filled = file.read(&mut chunk).map_err(JobError::file("reading", path))?;
        if filled == 0 {
            return Ok((hasher.finish(), size));
        }
        hasher.update(&chunk[..filled]);
        size += filled as u64;
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
fn write_stream(mut chunk: Vec<u8>, reader: &mut dyn Read, temporary: &Path) -> Result<(Digest, u64)> {
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

/// Reads until the chunk is full or the reader ends.
fn fill(reader: &mut dyn Read, chunk: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match reader.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(JobError::new(JobError::STORE, format!("reading failed: {error}"))),
        }
    }
    Ok(filled)
}

/// Removes the temporary file after a failure.
fn clean_up<T>(result: Result<T>, temporary: &Path) -> Result<T> {
    if result.is_err() {
        // The first error is the one to report.
        let _ = disk::unlink(temporary);
    }
    result
}
