//! Locks between processes.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err::os::unix::fs::OpenOptionsExt;
use lamina_events::CancelToken;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::StoreError;

/// First and longest pause between two attempts to take a lock that somebody else holds. Nobody says when a lock between
/// processes comes free but to a thread that takes it, whether it is still wanted or not.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(80));

/// Waits that are shorter are nobody's concern.
const UNREMARKABLE: Duration = Duration::from_millis(500);

/// A lock between processes; released when dropped, or when the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    keeps_file: bool,
}

impl Lock {
    /// Takes the lock unless somebody holds it.
    pub(super) fn try_take(path: &Path) -> Result<Option<Self>, StoreError> {
        loop {
            let file = open(path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(StoreError::file("locking", path)(errno)),
            }
            // A lock file is removed by its holder: a lock on a removed file is worth nothing.
            let mine = file.metadata().map_err(StoreError::file("reading the status of", path))?;
            if fs_err::metadata(path).is_ok_and(|present| present.ino() == mine.ino()) {
                return Ok(Some(Self { file, path: path.to_owned(), keeps_file: false }));
            }
        }
    }

    /// Takes the lock, waiting for whoever holds it; `waiting` is called once before that.
    pub(super) fn take(path: &Path, cancel: &CancelToken, waiting: impl FnOnce()) -> Result<Self, StoreError> {
        wait_for(|| Self::try_take(path), Duration::ZERO, cancel, waiting)
    }

    /// Takes the lock, waiting for whoever holds it; `waiting` is called once if that lasts a while.
    ///
    /// # Errors
    /// When the file cannot be made or locked, or `cancel` comes first.
    pub fn take_soon(path: &Path, cancel: &CancelToken, waiting: impl FnOnce()) -> Result<Self, StoreError> {
        wait_for(|| Self::try_take(path), UNREMARKABLE, cancel, waiting)
    }

    /// Holds off whoever takes the lock, together with others who do the same. `waiting` is called once if that lasts a
    /// while. The lock's file stays.
    pub(super) fn share(path: &Path, cancel: &CancelToken, waiting: impl FnOnce()) -> Result<Self, StoreError> {
        let file = open(path)?;
        let attempt = || match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(())),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(errno) => Err(StoreError::file("locking", path)(errno)),
        };
        wait_for(attempt, UNREMARKABLE, cancel, waiting)?;
        Ok(Self { file, path: path.to_owned(), keeps_file: true })
    }

    /// Whether somebody holds the lock.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn is_held(path: &Path) -> Result<bool, StoreError> {
        let file = match fs_err::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        // Shared, so that two who ask do not take each other for the holder.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(StoreError::file("locking", path)(errno)),
        }
    }

    /// Adds a line to the lock's file, for others to read.
    pub(super) fn write_line(&self, line: &str) -> Result<(), StoreError> {
        (&self.file).write_all(format!("{line}\n").as_bytes()).map_err(StoreError::file("writing", &self.path))
    }

    /// The lock, whose file stays when it is released: for locks that other processes hold as well.
    #[must_use]
    pub fn keep_file(self) -> Self {
        let mut lock = self;
        lock.keeps_file = true;
        lock
    }

    /// Another handle on the same lock, which is released when the last of them is closed.
    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Tries to get something until it is there or `cancel` comes; `waiting` is called once if that lasts longer than what is
/// unremarkable.
fn wait_for<T>(
    mut attempt: impl FnMut() -> Result<Option<T>, StoreError>,
    unremarkable: Duration,
    cancel: &CancelToken,
    waiting: impl FnOnce(),
) -> Result<T, StoreError> {
    cancel.check()?;
    if let Some(taken) = attempt()? {
        return Ok(taken);
    }
    let begun = Instant::now();
    let mut waiting = Some(waiting);
    let mut pause = PAUSES.0;
    let waiter = std::thread::current();
    let _woken = cancel.on_cancel(move || waiter.unpark());
    loop {
        if begun.elapsed() >= unremarkable
            && let Some(waiting) = waiting.take()
        {
            waiting();
        }
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(PAUSES.1);
        cancel.check()?;
        if let Some(taken) = attempt()? {
            return Ok(taken);
        }
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    let mut options = fs_err::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    Ok(options.open(path)?.into_file())
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.keeps_file {
            // A file that stays does no harm.
            let _ = fs_err::remove_file(&self.path);
        }
    }
}
