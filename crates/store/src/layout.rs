//! The directory layout of a store.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lamina_ground::StorePath;
use serde::{Deserialize, Serialize};

use crate::{DamagedFile, StoreError};

/// Version of the on-disk format.
pub const FORMAT_VERSION: u32 = 3;
/// The first format of which everything that was built is kept.
const FIRST_KEPT: u32 = 2;

/// What the kernel calls an overlay, in the type that it says so in.
const OVERLAY: i64 = 0x794c_7630;
/// With less, a disk is as good as full.
const SPARE_BYTES: u64 = 64 << 20;
const SPARE_FILES: u64 = 100;

/// Contents of `format.json`.
#[derive(Serialize, Deserialize)]
struct Format {
    format: u32,
}

/// Paths of a prepared store directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Creates the store directory, or checks that an existing one is the caller's own, private and of a known format.
    ///
    /// # Errors
    /// When the directory belongs to somebody else, is open to others, has a newer format or cannot be made.
    pub fn prepare(root: &Path) -> Result<Self, StoreError> {
        let layout = Self { root: make_private(root)? };
        layout.check_format()?;
        for directory in ["content", "locks", "logs", "downloads", "contexts"] {
            make_directory(&layout.root.join(directory))?;
        }
        Ok(layout)
    }

    /// Where a store would be that there is not.
    #[must_use]
    pub fn of_no_store(root: PathBuf) -> Self {
        Self { root }
    }

    /// The store directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Layer content; everything below belongs to the worker and the sandboxes.
    #[must_use]
    pub fn content(&self) -> PathBuf {
        self.root.join("content")
    }

    /// Full logs of steps.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Verified downloads, named by SHA-256.
    #[must_use]
    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// The resolver's own cache of index pages.
    #[must_use]
    pub fn uv_cache(&self) -> PathBuf {
        self.root.join("uv-cache")
    }

    /// Indexes of conda channels.
    #[must_use]
    pub fn conda_indexes(&self) -> PathBuf {
        self.root.join("conda-indexes")
    }

    /// Lock files.
    #[must_use]
    pub fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// What is known about local files.
    #[must_use]
    pub fn contexts(&self) -> PathBuf {
        self.root.join("contexts")
    }

    /// Records of detached apps. Made with the first of them.
    #[must_use]
    pub fn apps(&self) -> PathBuf {
        self.root.join("apps")
    }

    /// Deployed apps. Made with the first of them.
    #[must_use]
    pub fn deployments(&self) -> PathBuf {
        self.root.join("deployments")
    }

    /// Sockets of the processes that run containers. Made with the first of them.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Named secrets, which their owner alone may read. Made with the first of them.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// Dictionaries and queues, which their owner alone may read. Made with the first of them.
    #[must_use]
    pub fn collections(&self) -> PathBuf {
        self.root.join("collections")
    }

    /// The index database.
    #[must_use]
    pub fn index_file(&self) -> PathBuf {
        self.root.join("index.db")
    }

    /// The recorded id map.
    #[must_use]
    pub fn id_map_file(&self) -> PathBuf {
        self.root.join("idmap.json")
    }

    /// Refuses a file system that no overlay can be written to: nothing can be built or run there.
    ///
    /// # Errors
    /// When the store is on an overlay itself.
    pub fn check_filesystem(&self) -> Result<(), StoreError> {
        let found =
            rustix::fs::statfs(&self.root).map_err(StoreError::file("looking at the file system of", &self.root))?;
        if found.f_type == OVERLAY { Err(StoreError::Overlay(self.root.clone())) } else { Ok(()) }
    }

    /// Whether the store's disk has space, so that something else is full where a program says that there is none.
    #[must_use]
    pub fn has_space(&self) -> bool {
        rustix::fs::statvfs(&self.root).is_ok_and(|disk| {
            // Some file systems count no inodes.
            disk.f_bavail.saturating_mul(disk.f_frsize) > SPARE_BYTES
                && (disk.f_files == 0 || disk.f_favail > SPARE_FILES)
        })
    }

    /// Refuses a directory that holds something else: `modal store remove` would delete it.
    fn check_empty(&self) -> Result<(), StoreError> {
        for entry in fs_err::read_dir(&self.root)? {
            let name = entry?.file_name();
            // The former is another process that makes the store just now, the latter a fresh filesystem.
            if !name.as_encoded_bytes().starts_with(b"format.") && name != "lost+found" {
                return Err(StoreError::NotAStore { path: self.root.clone(), holds: name.display().to_string() });
            }
        }
        Ok(())
    }

    /// Refuses formats of the future, records the present one in a new store.
    fn check_format(&self) -> Result<(), StoreError> {
        match self.format()? {
            Some(found) if found > FORMAT_VERSION => {
                let path = self.format_file();
                Err(StoreError::NewerFormat { path, found, known: FORMAT_VERSION })
            }
            Some(_) => Ok(()),
            None => {
                self.check_empty()?;
                self.record_format()
            }
        }
    }

    /// Whether the store is of the present format.
    pub(crate) fn is_current(&self) -> Result<bool, StoreError> {
        Ok(self.format()? == Some(FORMAT_VERSION))
    }

    /// Whether what was built is of use to this program, once the store says that it is of the present format.
    pub(crate) fn keeps_what_was_built(&self) -> Result<bool, StoreError> {
        Ok(self.format()?.is_some_and(|found| found >= FIRST_KEPT))
    }

    /// Says that the store is of the present format.
    pub(crate) fn record_format(&self) -> Result<(), StoreError> {
        let text = format!("{{\"format\":{FORMAT_VERSION}}}\n");
        write_atomically(&self.format_file(), text.as_bytes())
    }

    fn format_file(&self) -> PathBuf {
        self.root.join("format.json")
    }

    /// The format that the store says it has; `None` for a new store.
    pub(crate) fn format(&self) -> Result<Option<u32>, StoreError> {
        let path = self.format_file();
        let bytes = match fs_err::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let format: Format = serde_json::from_slice(&bytes)
            .map_err(|error| StoreError::Damaged { path, file: DamagedFile::Format(error) })?;
        Ok(Some(format.format))
    }
}

/// What the names of caches begin with that begin as a copy.
pub(crate) const SEEDED: &str = "seeded-";
/// Where the copy is in such a cache, and in the layer that it is a copy of.
pub(crate) const BEGINNING: &str = "beginning";

/// Where a step's writes to a cache go: the upper and the work directory of an overlay.
pub(crate) fn cache_upper_paths(work_id: &str, cache: &str) -> (StorePath, StorePath) {
    let directory = format!("work/{work_id}/cache-{cache}");
    (format!("{directory}/upper").into(), format!("{directory}/work").into())
}

/// Makes the root with mode 0700, or checks it.
fn make_private(root: &Path) -> Result<PathBuf, StoreError> {
    match fs_err::symlink_metadata(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(root).map_err(StoreError::file("creating", root))?;
        }
        Err(error) => return Err(error.into()),
        Ok(_) => {}
    }
    let root = fs_err::canonicalize(root)?;
    let metadata = fs_err::metadata(&root)?;
    if !metadata.is_dir() {
        return Err(StoreError::NoStore(root));
    }
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        return Err(StoreError::Owner { path: root, owner: metadata.uid() });
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Mode { path: root, mode });
    }
    Ok(root)
}

pub(crate) fn make_directory(path: &Path) -> Result<(), StoreError> {
    match fs_err::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

/// Replaces a file as a whole: readers see the former or the new contents.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension(format!("tmp-{}", lamina_ground::random_name()));
    let written = fs_err::write(&temporary, bytes).and_then(|()| fs_err::rename(&temporary, path));
    if written.is_err() {
        // Nothing refers to it; the error that matters is the first one.
        let _ = fs_err::remove_file(&temporary);
    }
    Ok(written?)
}
