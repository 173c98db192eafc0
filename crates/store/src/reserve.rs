//! A little disk that is kept for clearing away: whoever removes something has to write a little first, such as a lock
//! file, a directory for what goes, and the log of the index.

use std::fs::File;
use std::path::{Path, PathBuf};

use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::FallocateFlags;

use crate::Layout;

/// The files of the reserve: each is an inode as well.
const FILES: usize = 32;
/// Bytes of each.
const BYTES: u64 = 128 << 10;

/// What was given up of the reserve is kept again when this is dropped.
#[derive(Debug)]
pub struct SpentReserve(Layout);

impl Drop for SpentReserve {
    fn drop(&mut self) {
        if self.0.root().exists() {
            fill(&directory(&self.0));
        }
    }
}

impl Layout {
    /// Keeps a reserve, if the disk has space and there is none yet.
    pub fn keep_reserve(&self) {
        let directory = directory(self);
        if !directory.exists() && self.has_space() {
            fill(&directory);
        }
    }

    /// Gives the reserve up if the disk is as good as full: for those who clear away, and those who look what there is.
    #[must_use]
    pub fn spend_reserve(&self) -> Option<SpentReserve> {
        let is_store = self.format().is_ok_and(|format| format.is_some());
        if !is_store || self.has_space() {
            return None;
        }
        // One that is not there any more has been spent by another process.
        let _ = fs_err::remove_dir_all(directory(self));
        Some(SpentReserve(self.clone()))
    }
}

fn directory(layout: &Layout) -> PathBuf {
    layout.root().join("reserve")
}

/// Makes as much of the reserve as there is space for: less of it is better than nothing.
fn fill(directory: &Path) {
    let made = fs_err::create_dir(directory).and_then(|()| {
        (0..FILES).try_for_each(|number| {
            let path = directory.join(number.to_string());
            let file = fs_err::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.into_file();
            take_space(&file)
        })
    });
    // Without a reserve everything works until the disk is full.
    drop(made);
}

/// Takes the file's blocks. A file system that cannot promise any gives none.
fn take_space(file: &File) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, BYTES) {
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}
