//! Leases of running processes on what they use, and finding what dead ones left.
//!
//! Every process has one session, a locked file in `locks/`. Its directories in `work/` carry the session's name as
//! prefix. The worker holds the lock as well: as long as either of them lives, nobody takes the directories for
//! leftovers. The file's lines say since when the session runs, and which layers and caches it uses, for those who
//! collect what nobody uses.

use std::collections::{BTreeSet, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lamina_ground::{random_name, seconds_since_1970};
use lamina_image::Digest;

use super::lock::Lock;
use crate::{DamagedFile, Layout, StoreError};

/// Prefix of the lock files of sessions.
const PREFIX: &str = "session-";
/// Prefix of the lock files that have a name of their caller's.
pub(super) const NAMED: &str = "lock-";

/// This process's lease.
#[derive(Debug)]
pub(super) struct Session {
    /// Its name.
    pub(super) name: String,
    /// Held while the process lives. Its file stays: the worker may be busy, and hold it, for longer.
    pub(super) lock: Lock,
    /// What its file says that it uses.
    used: Mutex<HashSet<Use>>,
}

/// Something that a process uses, and that stays until its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Use {
    /// A layer.
    Layer(Digest),
    /// A package cache.
    Cache(String),
}

/// What the sessions of other running processes use.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// Layers.
    pub(super) layers: HashSet<Digest>,
    /// Package caches.
    pub(super) caches: HashSet<String>,
    /// When the oldest of them began, in seconds since 1970.
    pub(super) oldest: Option<i64>,
}

impl Session {
    pub(super) fn begin(layout: &Layout) -> Result<Self, StoreError> {
        loop {
            let name = random_name();
            if let Some(lock) = Lock::try_take(&lock_file(layout, &name))? {
                let lock = lock.keep_file();
                lock.write_line(&format!("begin {}", now()))?;
                return Ok(Self { name, lock, used: Mutex::default() });
            }
        }
    }

    /// Notes what the process uses. The caller holds off collection meanwhile.
    pub(super) fn note(&self, used: Use) -> Result<(), StoreError> {
        let mut known = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(&used) {
            self.lock.write_line(&match &used {
                Use::Layer(digest) => format!("layer {digest}"),
                Use::Cache(name) => format!("cache {name}"),
            })?;
            known.insert(used);
        }
        Ok(())
    }

    /// What other running processes use.
    pub(super) fn others(&self, layout: &Layout) -> Result<Leases, StoreError> {
        let mut leases = Leases::default();
        for name in names(&layout.locks())? {
            let path = layout.locks().join(&name);
            if name.strip_prefix(PREFIX).is_some_and(|session| session != self.name) && Lock::is_held(&path)? {
                leases.read(&path)?;
            }
        }
        Ok(leases)
    }
}

impl Leases {
    fn read(&mut self, path: &Path) -> Result<(), StoreError> {
        let damaged = || StoreError::Damaged { path: path.to_owned(), file: DamagedFile::Lease };
        let bytes = match fs_err::read(path) {
            // The process has ended just now, and somebody has swept.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged())?;
        // A session that has not said yet since when it runs began just now. One from the future began before the clock
        // was set back: everything may be younger than it.
        let mut begin = now();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("begin", time)) => {
                    begin = time.parse().map_err(|_| damaged())?;
                    begin = if begin > now() { 0 } else { begin };
                }
                Some(("layer", digest)) => {
                    self.layers.insert(digest.parse().map_err(|_| damaged())?);
                }
                Some(("cache", name)) => drop(self.caches.insert(name.to_owned())),
                // Of a later version: nothing that this one knows how to take away.
                _ => {}
            }
        }
        self.oldest = Some(self.oldest.map_or(begin, |oldest| oldest.min(begin)));
        Ok(())
    }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    seconds_since_1970().cast_signed()
}

/// What dead processes left.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// The dead sessions' locks; dropping them removes their files.
    pub(super) locks: Vec<Lock>,
    /// Their directories in `work/`.
    pub(super) directories: Vec<String>,
}

/// Finds sessions of dead processes and takes their locks.
pub(super) fn find_leftovers(layout: &Layout, limit: usize) -> Result<Leftovers, StoreError> {
    let directories = names(&layout.content().join("work"))?;
    let session = |directory: &str| directory.rsplit_once('-').map(|(session, _)| session.to_owned());
    let locks = names(&layout.locks())?;
    // Whoever was killed has left the files of other locks, too; those that nobody holds are removed.
    for name in locks.iter().filter(|name| name.starts_with(NAMED)).take(limit) {
        drop(Lock::try_take(&layout.locks().join(name))?);
    }
    let locked = locks.iter().filter_map(|name| Some(name.strip_prefix(PREFIX)?.to_owned()));
    let sessions: BTreeSet<String> = directories.iter().filter_map(|name| session(name)).chain(locked).collect();
    let mut leftovers = Leftovers::default();
    for name in sessions.into_iter().take(limit) {
        if let Some(lock) = Lock::try_take(&lock_file(layout, &name))? {
            leftovers.locks.push(lock);
            leftovers
                .directories
                .extend(directories.iter().filter(|path| session(path).as_ref() == Some(&name)).cloned());
        }
    }
    Ok(leftovers)
}

fn lock_file(layout: &Layout, session: &str) -> PathBuf {
    layout.locks().join(format!("{PREFIX}{session}"))
}

/// Names in a directory; none if it does not exist yet.
fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    match fs_err::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}
