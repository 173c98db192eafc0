//! What requests and jobs work with.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lamina_image::Digest;

use super::content;
use super::disk::{self, Result};
use super::objects::{Objects, Stored};
use super::probe;
use super::removal::remove_all;
use super::upper::Placed;
use super::works::{WorkUse, Works};
use crate::names::check_name;
use crate::placing::Placing;
use crate::tree::Tree;
use crate::{JobError, ObjectName};

/// What jobs work with: the content directory, objects, and the uppers of steps.
#[derive(Debug)]
pub struct WorkerContext {
    content: PathBuf,
    /// Where unfinished things of this process are.
    temporary: PathBuf,
    counter: AtomicU64,
    pub(super) objects: Objects,
    /// Objects that were checked.
    pub(super) verdicts: super::verify::Verdicts,
    /// How files get into views.
    pub(super) placing: Placing,
    /// Whether small views may have copies.
    pub(super) may_copy: bool,
    /// For every work: the files that were placed in its upper, by inode.
    placed: Mutex<HashMap<String, HashMap<u64, Placed>>>,
    /// Who writes into works.
    works: Arc<Works>,
    /// Held for their locks only.
    _leases: Vec<OwnedFd>,
}

impl WorkerContext {
    /// Prepares the content directory.
    pub(super) fn new(content: &Path, session: &str, leases: Vec<OwnedFd>) -> Result<Self> {
        make_directories(content)?;
        let temporary = content.join("work").join(format!("{session}-temporary"));
        disk::make_directory(&temporary, 0o700)?;
        let placing = probe::placing(content, &temporary)?;
        Ok(Self {
            content: content.to_owned(),
            temporary,
            placing,
            may_copy: probe::may("copies"),
            counter: AtomicU64::new(0),
            objects: Objects::open(content)?,
            verdicts: Mutex::default(),
            placed: Mutex::default(),
            works: Arc::default(),
            _leases: leases,
        })
    }

    /// Makes the directories of a store in which nothing is.
    pub(super) fn prepare(&self) -> Result<()> {
        make_directories(&self.content)?;
        Objects::open(&self.content).map(drop)
    }

    /// The content directory.
    #[must_use]
    pub fn content(&self) -> &Path {
        &self.content
    }

    /// Everything of a step.
    pub(super) fn work(&self, work_id: &str) -> PathBuf {
        self.content.join("work").join(work_id)
    }

    /// The upper directory of a step.
    #[must_use]
    pub fn upper(&self, work_id: &str) -> PathBuf {
        self.work(work_id).join("upper")
    }

    /// A package cache; made if missing.
    ///
    /// # Errors
    /// When it cannot be made or the name is no file name.
    pub fn cache(&self, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        let path = self.content.join("caches").join(name);
        disk::make_directory(&path, 0o755)?;
        Ok(path)
    }

    /// A new name for an unfinished file or directory, on the same filesystem; what is still there when the process
    /// ends is removed.
    #[must_use]
    pub fn temporary_path(&self) -> PathBuf {
        self.temporary.join(self.counter.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Begins to write into a work: until the use ends, the work is not removed.
    pub(super) fn enter(&self, work_id: &str) -> Result<WorkUse> {
        self.works.enter(work_id)
    }

    /// Tells all who write into works that nobody will use what they make.
    pub(super) fn abandon_works(&self) {
        self.works.abandon_all();
    }

    /// Fails when nobody wants the work any more; long jobs ask now and then.
    ///
    /// # Errors
    /// When the work was abandoned.
    pub fn ensure_wanted(&self, work_id: &str) -> Result<()> {
        self.works.ensure_wanted(work_id)
    }

    /// Removes a work, once all who write into it have stopped, which they are told to.
    pub(super) fn discard(&self, work_id: &str) -> Result<()> {
        self.works.abandon(work_id);
        let removed = remove_all(&self.work(work_id));
        self.placed.lock().unwrap_or_else(PoisonError::into_inner).remove(work_id);
        self.works.forget(work_id);
        removed
    }

    /// Removes a file or a directory with all that it holds, however deep; that nothing is there is fine.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(&self, path: &Path) -> Result<()> {
        remove_all(path)
    }

    /// Stores bytes as an object.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest> {
        let stored = self.objects.put_bytes(bytes, &self.temporary_path())?;
        Ok(self.noted(stored))
    }

    /// Stores what a reader gives as an object; answers its digest and length.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn put_reader(&self, reader: &mut dyn Read) -> Result<(Digest, u64)> {
        let (stored, size) = self.objects.put(reader, &self.temporary_path())?;
        Ok((self.noted(stored), size))
    }

    /// Stores what a reader gives as the object of this digest; false, and nothing is stored, if it is not that. All `size`
    /// bytes are read.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn put_announced(&self, reader: &mut dyn Read, digest: &Digest, size: u64) -> Result<bool> {
        let (temporary, never) = (self.temporary_path(), AtomicBool::new(false));
        let stored = content::write_announced(reader, digest, size, &temporary, &never)
            .and_then(|is_right| is_right.then(|| self.objects.adopt(digest, size, &temporary)).transpose());
        if !matches!(stored, Ok(Some(_))) {
            let _ = remove_all(&temporary);
        }
        Ok(stored?.map(|stored| self.noted(stored)).is_some())
    }

    /// Notes an object that was not there before.
    fn noted(&self, stored: Stored) -> Digest {
        if stored.is_new {
            self.objects.add_unclaimed(ObjectName::new(&stored.digest));
        }
        stored.digest
    }

    /// Whether the object is in the store.
    #[must_use]
    pub fn has_object(&self, digest: &Digest) -> bool {
        is_empty(digest) || matches!(self.objects.find(digest, None), Ok(Some(_)))
    }

    /// Objects that have one of these lengths: their paths relative to the content directory, by length. Nobody has looked at
    /// their bytes.
    ///
    /// # Errors
    /// When the objects cannot be listed.
    pub fn objects_of_lengths(&self, lengths: &HashSet<u64>) -> Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for digit in ObjectName::DIGITS {
            let directory = self.content.join("objects").join(char::from(*digit).to_string());
            for (name, stat) in disk::list_with_status(&directory)? {
                let (name, size) = (ObjectName::parse(*digit, &name), disk::size(&stat));
                if let Some(name) = name
                    && lengths.contains(&size)
                {
                    found.push((size, name.path()));
                }
            }
        }
        Ok(found)
    }

    /// Opens an object for reading.
    ///
    /// # Errors
    /// When it is not in the store.
    pub fn open_object(&self, digest: &Digest) -> Result<std::fs::File> {
        disk::open(&self.objects.path(digest))
    }

    /// Opens an object whose length is right and that nobody has written to since it was sealed; says whether it has holes that
    /// count.
    ///
    /// # Errors
    /// When it is not in the store, or damaged.
    pub fn open_intact_object(&self, digest: &Digest, size: u64) -> Result<(std::fs::File, bool)> {
        let Some(stat) = self.objects.find(digest, Some(size))? else {
            let path = self.objects.path(digest);
            return Err(JobError::new(
                JobError::STORE,
                format!("`{}` is missing or damaged: `modal store verify --repair` mends it", path.display()),
            ));
        };
        Ok((self.open_object(digest)?, disk::is_sparse(&stat)))
    }

    /// What a layer changes over those below.
    ///
    /// # Errors
    /// When its tree is not in the store, or damaged.
    pub fn tree(&self, layer: &Digest) -> Result<Tree> {
        super::verify::load(self, layer)?.map_err(|problem| {
            JobError::new(
                JobError::STORE,
                format!("the layer `{layer}` cannot be read, {problem}: `modal store verify --repair` says more"),
            )
        })
    }

    /// Makes everything stored so far durable. Call it before publishing something that refers to objects.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<()> {
        self.objects.sync(false, &AtomicBool::new(false))
    }

    /// Notes files that were placed in the upper of a work, by inode.
    pub(super) fn note_placed(&self, work_id: &str, placed: impl Iterator<Item = (u64, Placed)>) {
        let mut works = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        works.entry(work_id.to_owned()).or_default().extend(placed);
    }

    /// The files that were placed in the upper of a work, by inode.
    pub(super) fn placed(&self, work_id: &str) -> HashMap<u64, Placed> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner).remove(work_id).unwrap_or_default()
    }
}

impl Drop for WorkerContext {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next process that opens the store.
        let _ = remove_all(&self.temporary);
    }
}

fn make_directories(content: &Path) -> Result<()> {
    for directory in ["trees", "outlines", "views", "whiteouts", "copies", "work", "caches", "wheels", "conda"] {
        disk::make_directory(&content.join(directory), 0o755)?;
    }
    Ok(())
}

/// Whether this is the digest of no bytes, for which no object is kept.
pub(super) fn is_empty(digest: &Digest) -> bool {
    *digest == Digest::of(b"")
}
