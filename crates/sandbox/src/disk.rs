//! Keeps sandboxes that change the store from filling its disk. No quota works without privileges, so what is left on
//! the disk is watched, and a sandbox during which it became too little is killed.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::{StatVfs, statvfs};
use rustix::process::{Signal, pidfd_send_signal};

/// How often the disk is looked at: what is written meanwhile is less than the reserve on most disks.
const INTERVAL: Duration = Duration::from_millis(200);
/// The variable that says how many MiB of the store's disk stay free.
const VARIABLE: &str = "MODAL_STORE_RESERVE";
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
                write!(formatter, "less than `{}` MiB left, which {VARIABLE} keeps free", reserve >> 20)
            }
            Self::Inodes(reserve) => write!(formatter, "room for less than `{reserve}` more files (`df -i` shows it)"),
        }
    }
}

/// Watches the disk for one sandbox, until dropped.
#[derive(Debug)]
pub(crate) struct DiskGuard {
    reached: Arc<OnceLock<DiskShortage>>,
    /// Ends the thread when dropped.
    _alive: Sender<()>,
}

impl DiskGuard {
    /// Kills the process `pidfd` as soon as the disk below `content` has too little left.
    pub(crate) fn watch(content: &Path, pidfd: OwnedFd) -> std::io::Result<Self> {
        let reached = Arc::new(OnceLock::new());
        let (alive, ended) = channel();
        let (disk, report) = (Disk::new(content)?, Arc::clone(&reached));
        std::thread::Builder::new().name("disk".to_owned()).spawn(move || {
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if let Some(shortage) = disk.shortage() {
                    report.get_or_init(|| shortage);
                    // It may have ended already, which is no failure.
                    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                    return;
                }
            }
        })?;
        Ok(Self { reached, _alive: alive })
    }

    /// What the sandbox was killed for, if it was.
    pub(crate) fn reached(&self) -> Option<DiskShortage> {
        self.reached.get().copied()
    }
}

/// The disk and what it had at the start.
struct Disk {
    content: PathBuf,
    at_start: StatVfs,
    reserve: u64,
}

impl Disk {
    fn new(content: &Path) -> std::io::Result<Self> {
        let at_start = statvfs(content)?;
        let usual = LARGEST_RESERVE.min(bytes(&at_start, at_start.f_blocks) / RESERVED_PART);
        Ok(Self { content: content.to_owned(), at_start, reserve: chosen().unwrap_or(usual).max(1) })
    }

    /// What there is too little of now.
    fn shortage(&self) -> Option<DiskShortage> {
        let now = statvfs(&self.content).ok()?;
        let inodes = now.f_files / RESERVED_PART;
        let lacks_bytes = is_lacking(
            bytes(&now, now.f_bavail),
            self.reserve,
            bytes(&self.at_start, self.at_start.f_bavail),
            FALL_BYTES,
        );
        // A filesystem without a number of inodes has as many as it needs.
        let lacks_inodes = now.f_files > 0 && is_lacking(now.f_favail, inodes, self.at_start.f_favail, FALL_INODES);
        let bytes = lacks_bytes.then_some(DiskShortage::Bytes(self.reserve));
        bytes.or_else(|| lacks_inodes.then_some(DiskShortage::Inodes(inodes)))
    }
}

fn is_lacking(now: u64, reserve: u64, at_start: u64, fall: u64) -> bool {
    now < reserve && now.saturating_add(fall) < at_start
}

fn bytes(disk: &StatVfs, blocks: u64) -> u64 {
    blocks.saturating_mul(disk.f_frsize)
}

/// The reserve that the user has chosen, in bytes.
fn chosen() -> Option<u64> {
    let mebibytes: u64 = std::env::var(VARIABLE).ok()?.trim().parse().ok()?;
    mebibytes.checked_mul(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_matters_to_those_who_filled_it() {
        assert!(is_lacking(50, 100, 500, 64));
        assert!(!is_lacking(150, 100, 500, 64), "there is enough");
        assert!(!is_lacking(50, 100, 60, 64), "it was full before");
    }

    #[test]
    fn what_is_short_is_said() {
        let said = |shortage: DiskShortage| shortage.to_string();
        assert_eq!(said(DiskShortage::Bytes(5 << 20)), "less than `5` MiB left, which MODAL_STORE_RESERVE keeps free");
        assert_eq!(said(DiskShortage::Inodes(7)), "room for less than `7` more files (`df -i` shows it)");
    }
}
