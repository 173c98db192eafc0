//! Keeps sandboxes that change the store from filling its disk. No quota works without privileges, so what is left on
//! the disk is watched, and a sandbox during which it became too little is killed.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lamina_ground::EnvVars;
use rustix::fs::{StatVfs, statvfs};
use rustix::process::{Signal, pidfd_send_signal};

use crate::SandboxError;

/// How often the disk is looked at: what is written meanwhile is less than the reserve on most disks.
const INTERVAL: Duration = Duration::from_millis(200);
/// Most bytes that stay free unless the variable says more.
const LARGEST_RESERVE: u64 = 1 << 30;
/// The part of a small disk that stays free instead, and of every disk's inodes.
const RESERVED_PART: u64 = 20;
/// By how many bytes or inodes less there must be than at a sandbox's start: a disk that was full before is not its fault.
const FALL_BYTES: u64 = 64 << 20;
const FALL_INODES: u64 = 1000;

/// What the store's disk has too little of, as the end of a sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskShortage {
    /// Bytes, of which so many are to stay free.
    Bytes(u64),
    /// Inodes, of which so many are to stay free.
    Inodes(u64),
}

impl fmt::Display for DiskShortage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(reserve) => {
                write!(
                    formatter,
                    "less than `{}` MiB left, which {} keeps free",
                    reserve >> 20,
                    EnvVars::MODAL_STORE_RESERVE
                )
            }
            Self::Inodes(reserve) => write!(formatter, "room for less than `{reserve}` more files (`df -i` shows it)"),
        }
    }
}

/// Watches the disk for all sandboxes of an engine, in one thread that is started with the first.
#[derive(Debug)]
pub(crate) struct DiskGuard {
    shared: Arc<Shared>,
    thread: OnceLock<()>,
}

#[derive(Debug)]
struct Shared {
    content: PathBuf,
    /// The bytes that the user wants to stay free.
    chosen: Option<u64>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    watched: Vec<Watched>,
    /// Whether the engine has ended.
    has_ended: bool,
}

/// A sandbox that is killed when the disk has too little left.
#[derive(Debug)]
struct Watched {
    pidfd: OwnedFd,
    at_start: Free,
    reached: Arc<OnceLock<DiskShortage>>,
}

/// What a disk has left for ordinary users.
#[derive(Debug, Clone, Copy)]
struct Free {
    bytes: u64,
    inodes: u64,
}

/// Has the disk watched for one sandbox, until dropped.
#[derive(Debug)]
pub(crate) struct DiskWatch {
    shared: Arc<Shared>,
    reached: Arc<OnceLock<DiskShortage>>,
}

impl DiskGuard {
    /// For the disk below `content`, with the reserve that the environment says; nothing is done yet.
    pub(crate) fn new(content: &Path) -> Result<Self, SandboxError> {
        let chosen = chosen(std::env::var_os(EnvVars::MODAL_STORE_RESERVE))?;
        let shared = Shared { content: content.to_owned(), chosen, state: Mutex::default(), changed: Condvar::new() };
        Ok(Self { shared: Arc::new(shared), thread: OnceLock::new() })
    }

    /// Bytes of the disk that are to stay free.
    pub(crate) fn reserve(&self) -> std::io::Result<u64> {
        Ok(reserve(&statvfs(&self.shared.content)?, self.shared.chosen))
    }

    /// Kills the process `pidfd` as soon as there is too little left.
    pub(crate) fn watch(&self, pidfd: OwnedFd) -> std::io::Result<DiskWatch> {
        let at_start = Free::of(&statvfs(&self.shared.content)?);
        let reached = Arc::<OnceLock<DiskShortage>>::default();
        let mut state = self.shared.state();
        if self.thread.get().is_none() {
            let shared = Arc::clone(&self.shared);
            std::thread::Builder::new().name("disk".to_owned()).spawn(move || shared.keep_watch())?;
            self.thread.get_or_init(|| ());
        }
        state.watched.push(Watched { pidfd, at_start, reached: Arc::clone(&reached) });
        drop(state);
        self.shared.changed.notify_one();
        Ok(DiskWatch { shared: Arc::clone(&self.shared), reached })
    }
}

impl Drop for DiskGuard {
    fn drop(&mut self) {
        self.shared.state().has_ended = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the disk every now and then while there are sandboxes, until the engine ends.
    fn keep_watch(&self) {
        loop {
            let idle = |state: &mut State| state.watched.is_empty() && !state.has_ended;
            let state = self.changed.wait_while(self.state(), idle).unwrap_or_else(PoisonError::into_inner);
            // Further sandboxes are no reason to look sooner.
            let (state, _) = self
                .changed
                .wait_timeout_while(state, INTERVAL, |state| !state.has_ended)
                .unwrap_or_else(PoisonError::into_inner);
            if state.has_ended {
                return;
            }
            // Without the lock: a disk may take its time to answer.
            drop(state);
            if let Ok(now) = statvfs(&self.content) {
                self.state().watched.iter().for_each(|watched| watched.look(&now, self.chosen));
            }
        }
    }
}

impl Free {
    fn of(disk: &StatVfs) -> Self {
        Self { bytes: bytes(disk, disk.f_bavail), inodes: disk.f_favail }
    }
}

impl Watched {
    fn look(&self, now: &StatVfs, chosen: Option<u64>) {
        if let Some(shortage) = shortage(self.at_start, now, chosen) {
            self.reached.get_or_init(|| shortage);
            // It may have ended already, which is no failure.
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }
}

impl DiskWatch {
    /// What the sandbox was killed for, if it was.
    pub(crate) fn reached(&self) -> Option<DiskShortage> {
        self.reached.get().copied()
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        self.shared.state().watched.retain(|watched| !Arc::ptr_eq(&watched.reached, &self.reached));
    }
}

/// What there is too little of now, and was not when the sandbox started.
fn shortage(at_start: Free, now: &StatVfs, chosen: Option<u64>) -> Option<DiskShortage> {
    let reserve = reserve(now, chosen);
    let free = Free::of(now);
    let lacks_bytes = is_lacking(free.bytes, reserve, at_start.bytes, FALL_BYTES);
    // A filesystem without a number of inodes has as many as it needs.
    let inodes = now.f_files / RESERVED_PART;
    let lacks_inodes = now.f_files > 0 && is_lacking(free.inodes, inodes, at_start.inodes, FALL_INODES);
    let bytes = lacks_bytes.then_some(DiskShortage::Bytes(reserve));
    bytes.or_else(|| lacks_inodes.then_some(DiskShortage::Inodes(inodes)))
}

/// Bytes that are to stay free.
fn reserve(disk: &StatVfs, chosen: Option<u64>) -> u64 {
    let usual = LARGEST_RESERVE.min(bytes(disk, disk.f_blocks) / RESERVED_PART);
    chosen.unwrap_or(usual).max(1)
}

fn is_lacking(now: u64, reserve: u64, at_start: u64, fall: u64) -> bool {
    now < reserve && now.saturating_add(fall) < at_start
}

fn bytes(disk: &StatVfs, blocks: u64) -> u64 {
    blocks.saturating_mul(disk.f_frsize)
}

/// The reserve that the user has chosen, in bytes; an empty value is none.
fn chosen(value: Option<OsString>) -> Result<Option<u64>, SandboxError> {
    let value = value.unwrap_or_default();
    let text = value.to_string_lossy();
    if text.trim().is_empty() {
        return Ok(None);
    }
    let mebibytes: Option<u64> = text.trim().parse().ok();
    let bytes = mebibytes.and_then(|mebibytes| mebibytes.checked_mul(1 << 20));
    bytes.map(Some).ok_or_else(|| SandboxError::Reserve { value: text.into_owned() })
}

#[cfg(test)]
mod tests {
    use lamina_ground::Hint;

    use super::*;

    #[test]
    fn a_full_disk_matters_to_those_who_filled_it() {
        assert!(is_lacking(50, 100, 500, 64));
        assert!(!is_lacking(150, 100, 500, 64), "there is enough");
        assert!(!is_lacking(50, 100, 60, 64), "it was full before");
    }

    #[test]
    fn one_thread_watches_for_all() {
        let directory = tempfile::tempdir().unwrap();
        let guard = DiskGuard::new(directory.path()).unwrap();
        let pidfd = || {
            let own = rustix::process::getpid();
            rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).unwrap()
        };
        let watches: Vec<DiskWatch> = (0..3).map(|_| guard.watch(pidfd()).unwrap()).collect();
        assert_eq!(guard.shared.state().watched.len(), 3);
        // The guard, its thread, and the watches.
        assert_eq!(Arc::strong_count(&guard.shared), 5);
        assert!(watches.iter().all(|watch| watch.reached().is_none()));
        drop(watches);
        assert!(guard.shared.state().watched.is_empty());
    }

    #[test]
    fn a_reserve_is_a_number_of_mebibytes() {
        let bytes = |text: &str| chosen(Some(text.into()));
        assert_eq!(chosen(None).unwrap(), None);
        assert_eq!(bytes("").unwrap(), None);
        assert_eq!(bytes(" 512\n").unwrap(), Some(512 << 20));
        assert_eq!(bytes("0").unwrap(), Some(0));
        for text in ["1G", "-1", "1.5", "lots", "18446744073709551615"] {
            let error = bytes(text).unwrap_err();
            assert_eq!(error.to_string(), format!("`MODAL_STORE_RESERVE` is `{text}`, which is no number of MiB"));
            assert!(error.hint().is_some_and(|hint| hint.contains("`1024`")), "{error}");
        }
    }

    #[test]
    fn what_is_short_is_said() {
        let said = |shortage: DiskShortage| shortage.to_string();
        assert_eq!(said(DiskShortage::Bytes(5 << 20)), "less than `5` MiB left, which MODAL_STORE_RESERVE keeps free");
        assert_eq!(said(DiskShortage::Inodes(7)), "room for less than `7` more files (`df -i` shows it)");
    }
}
