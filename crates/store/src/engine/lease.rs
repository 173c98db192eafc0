//! Leases on the directories of running processes, and finding what dead ones left.
//!
//! Every process has one session, a locked file in `locks/`. Its directories in `work/` carry the session's name as
//! prefix. The worker holds the lock as well: as long as either of them lives, nobody takes the directories for
//! leftovers.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::lock::Lock;
use super::unique_id;
use crate::{Layout, StoreError};

/// Prefix of the lock files of sessions.
const PREFIX: &str = "session-";

/// This process's lease.
#[derive(Debug)]
pub(super) struct Session {
    /// Its name.
    pub(super) name: String,
    /// Held while the process lives. Its file stays: the worker may be busy, and hold it, for longer.
    pub(super) lock: Lock,
}

impl Session {
    pub(super) fn begin(layout: &Layout) -> Result<Self, StoreError> {
        loop {
            let name = unique_id();
            if let Some(lock) = Lock::try_take(&lock_file(layout, &name))? {
                return Ok(Self { name, lock: lock.keep_file() });
            }
        }
    }
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
    let locked = names(&layout.locks())?.into_iter().filter_map(|name| Some(name.strip_prefix(PREFIX)?.to_owned()));
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
