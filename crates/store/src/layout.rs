//! The directory layout of a store, as the engine sees it.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::StoreError;

/// Version of the on-disk format.
pub const FORMAT_VERSION: u32 = 1;

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
        let path = self.root.join("format.json");
        match fs_err::read(&path) {
            Ok(bytes) => {
                let format: Format = serde_json::from_slice(&bytes)
                    .map_err(|error| StoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
                if format.format > FORMAT_VERSION {
                    return Err(StoreError::NewerFormat { path, found: format.format, known: FORMAT_VERSION });
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.check_empty()?;
                let text = format!("{{\"format\":{FORMAT_VERSION}}}\n");
                write_atomically(&path, text.as_bytes())
            }
            Err(error) => Err(error.into()),
        }
    }
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

fn make_directory(path: &Path) -> Result<(), StoreError> {
    match fs_err::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

/// Replaces a file as a whole: readers see the former or the new contents.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension(format!("tmp-{}", crate::engine::unique_id()));
    let written = fs_err::write(&temporary, bytes).and_then(|()| fs_err::rename(&temporary, path));
    if written.is_err() {
        // Nothing refers to it; the error that matters is the first one.
        let _ = fs_err::remove_file(&temporary);
    }
    Ok(written?)
}
