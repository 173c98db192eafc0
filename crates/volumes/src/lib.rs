//! Volumes: directories that outlive the containers which write to them.
//!
//! A volume is a directory of the store's content, `volumes/<id>`, with what is known about it and `files`, which is mounted
//! into containers. It belongs to container root, so that owners of files are what containers make them. All work on it is
//! done by the store worker ([`jobs`]), which has the rights for that, and never leaves `files`, whatever links lie there
//! (`tree`). What is uploaded is written elsewhere on the same file system and renamed into place (`upload`).

mod catalogue;
mod copy;
mod error;
mod files;
mod sparse;
mod tree;
mod upload;
mod volumes;

pub use catalogue::{Volume, VolumeName};
pub use error::VolumeError;
pub use files::{Entry, EntryKind};
pub use upload::{Staged, Upload};
pub use volumes::Volumes;

use lamina_store::JobTable;

/// Adds the jobs of this crate.
#[must_use]
pub fn jobs(table: JobTable) -> JobTable {
    upload::jobs(files::jobs(copy::jobs(catalogue::jobs(table))))
}

#[cfg(test)]
mod tests;
