//! What the store remembers of unpacked packages: JSON files in a directory of each kind of package below `content`.
//!
//! A description is first written *pending*; it is published, after one synchronisation of the disk, when all packages of
//! a step are unpacked. So a published description never names an object that a power cut could take away.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use fs_err as fs;
use lamina_image::Digest;
use lamina_store::{JobError, ObjectName, Package, WorkerContext};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The descriptions of one kind of package.
#[derive(Debug)]
pub struct Descriptions<'a> {
    context: &'a WorkerContext,
    directory: PathBuf,
}

/// Name of a description: of the package with this digest, or of a part that was made of it later.
#[must_use]
pub fn file_name(package: &str, part: Option<&str>) -> String {
    match part {
        Some(part) => format!("{package}-{part}.json"),
        None => format!("{package}.json"),
    }
}

impl<'a> Descriptions<'a> {
    /// Those in a directory of `content`.
    #[must_use]
    pub fn new(context: &'a WorkerContext, directory: &str) -> Self {
        Self { context, directory: context.content().join(directory) }
    }

    fn published(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn pending(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.new"))
    }

    /// Reads a published description, or else a pending one; `None` if there is neither, or it is damaged.
    #[must_use]
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.load_published(name).or_else(|| read(self.pending(name)))
    }

    /// Reads a published description.
    #[must_use]
    pub fn load_published<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        read(self.published(name))
    }

    /// Whether a description is published.
    #[must_use]
    pub fn is_published(&self, name: &str) -> bool {
        self.published(name).exists()
    }

    /// Writes a pending description.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save<T: Serialize>(&self, name: &str, description: &T) -> Result<(), JobError> {
        fs::create_dir_all(&self.directory)?;
        let bytes = serde_json::to_vec(description);
        let bytes = bytes.map_err(|error| JobError::new(JobError::STORE, error.to_string()))?;
        let temporary = self.context.temporary_path();
        fs::write(&temporary, bytes)?;
        Ok(fs::rename(temporary, self.pending(name))?)
    }

    /// Publishes pending descriptions: everything they refer to is on the disk first.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn publish(&self, names: &[String]) -> Result<(), JobError> {
        let waiting: Vec<_> = names.iter().filter(|name| self.pending(name).exists()).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        self.context.sync()?;
        for name in waiting {
            match fs::rename(self.pending(name), self.published(name)) {
                // Another process published the same description in the meantime.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Notes that a package was asked for: the time of its description is how long nobody has.
    pub fn touch(&self, name: &str) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        // At worst the package is unpacked again some day.
        let _ = rustix::fs::utimensat(CWD, self.published(name), &times, AtFlags::empty());
    }

    /// Removes descriptions that turned out to be of no use.
    pub fn forget(&self, names: &[String]) {
        for name in names {
            // Whatever cannot be removed is overwritten by the next description.
            let _ = fs::remove_file(self.published(name));
            let _ = fs::remove_file(self.pending(name));
        }
    }

    /// All packages, for those who collect what nobody uses. `objects` reads what a description names: that of a package,
    /// or of a part of it.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn packages(
        &self,
        objects: impl Fn(bool, &[u8]) -> serde_json::Result<Vec<Digest>>,
    ) -> Result<Vec<Package>, JobError> {
        let mut packages: BTreeMap<String, Package> = BTreeMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let digest = name.split(['-', '.']).next().unwrap_or_default().to_owned();
            let Ok(metadata) = fs::metadata(&path) else { continue };
            // A damaged description names nothing.
            let named = fs::read(&path).ok().and_then(|bytes| objects(name.contains('-'), &bytes).ok());
            let last_used = metadata.mtime();
            let package =
                packages.entry(digest).or_insert_with(|| Package { files: Vec::new(), last_used, objects: Vec::new() });
            package.last_used = package.last_used.max(last_used);
            package.objects.extend(named.iter().flatten().map(ObjectName::new));
            package.files.push(path);
        }
        Ok(packages.into_values().collect())
    }
}

fn read<T: DeserializeOwned>(path: PathBuf) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
