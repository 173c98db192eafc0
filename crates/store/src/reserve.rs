//! A little disk that is kept for clearing away: whoever removes something has to write a little first, such as a lock
//! file, a directory for what goes, and the log of the index.

use std::fs::File;
use std::path::{Path, PathBuf};

use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::StoreError;
use crate::layout::{Layout, make_directory};

/// The files of the reserve: each is an inode as well.
const FILES: usize = 32;
/// The one that is made last.
const LAST: &str = "31";
/// Bytes of each.
const BYTES: u64 = 128 << 10;

/// What was given up of the reserve is kept again when this is dropped.
#[derive(Debug)]
pub struct SpentReserve(Layout);

impl Drop for SpentReserve {
    fn drop(&mut self) {
        // Nothing is put where a store was.
        if is_store(&self.0) {
            // As much of it as there is space for is kept.
            let _ = fill(&self.0.reserve());
        }
    }
}

impl Layout {
    /// Where the reserve is.
    pub(crate) fn reserve(&self) -> PathBuf {
        self.root().join("reserve")
    }

    /// Keeps a reserve, if the disk has space and there is none yet, or a part of one.
    pub fn keep_reserve(&self) {
        let directory = self.reserve();
        if !directory.join(LAST).exists() && self.has_space() {
            // Without it everything works until the disk is full.
            let _ = fill(&directory);
        }
    }

    /// Gives the reserve up if the disk is as good as full: for those who clear away, and those who look what there is.
    #[must_use]
    pub fn spend_reserve(&self) -> Option<SpentReserve> {
        if !is_store(self) || self.has_space() {
            return None;
        }
        // One that is not there any more has been spent by another process.
        let _ = fs_err::remove_dir_all(self.reserve());
        Some(SpentReserve(self.clone()))
    }
}

fn is_store(layout: &Layout) -> bool {
    layout.format().is_ok_and(|format| format.is_some())
}

/// Makes as much of the reserve as there is space for: less of it is better than nothing.
fn fill(directory: &Path) -> Result<(), StoreError> {
    make_directory(directory)?;
    for number in 0..FILES {
        let path = directory.join(number.to_string());
        let mut options = fs_err::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        take_space(&options.open(&path)?.into_file()).map_err(StoreError::file("taking space for", &path))?;
    }
    Ok(())
}

/// Takes the file's blocks. A file system that cannot promise any gives none.
fn take_space(file: &File) -> Result<(), Errno> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, BYTES) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}
