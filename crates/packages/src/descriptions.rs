//! What the store remembers of unpacked packages: JSON files in a directory of each kind of package below `content`.
//!
//! The first field is a digest of all that follows it, so that damage is noticed: a description that is damaged is as good
//! as not there.
//!
//! A description is first written *pending*; it is published, after one synchronisation of the disk, when all packages of
//! a step are unpacked. So a published description never names an object that a power cut could take away.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use lamina_ground::causes;
use lamina_image::Digest;
use lamina_store::{Description, JobError, KeptPackage, ObjectName, WorkerContext};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::MISSING;

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
        self.directory.join(format!("{name}{PENDING}"))
    }

    /// Reads a published description, or else a pending one; `None` if there is neither.
    ///
    /// # Errors
    /// [`MISSING`] when there is none but a damaged one.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, JobError> {
        let published = self.load_published(name);
        if matches!(published, Ok(Some(_))) {
            return published;
        }
        match read(&self.pending(name)) {
            Ok(Some(pending)) => Ok(Some(pending)),
            // It may have been published between the two looks.
            _ => self.load_published(name),
        }
    }

    /// Reads a published description; `None` if there is none.
    ///
    /// # Errors
    /// [`MISSING`] when it is damaged.
    pub fn load_published<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, JobError> {
        let damaged = |problem| JobError::new(MISSING, format!("the description `{name}` {problem}"));
        read(&self.published(name)).map_err(damaged)
    }

    /// Whether a description is published.
    #[must_use]
    pub fn is_published(&self, name: &str) -> bool {
        self.published(name).exists()
    }

    /// Writes a pending description, which has to be a structure.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save<T: Serialize>(&self, name: &str, description: &T) -> Result<(), JobError> {
        fs::create_dir_all(&self.directory)?;
        let json = serde_json::to_vec(description);
        let json = json.map_err(|error| JobError::new(JobError::STORE, error.to_string()))?;
        let temporary = self.context.temporary_path();
        fs::write(&temporary, with_checksum(json))?;
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

    /// All packages, for those who check them or collect what nobody uses. `objects` reads what a description names: that
    /// of a package, or of a part of it.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn packages(
        &self,
        objects: impl Fn(bool, &[u8]) -> serde_json::Result<Vec<Digest>>,
    ) -> Result<Vec<KeptPackage>, JobError> {
        let mut packages: BTreeMap<String, KeptPackage> = BTreeMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let digest = name.split(['-', '.']).next().unwrap_or_default().to_owned();
            let read = fs::metadata(&path).and_then(|metadata| Ok((metadata.mtime(), fs::read(&path)?)));
            let (last_used, objects) = match read {
                Ok((last_used, bytes)) => (last_used, parse(&bytes, |bytes| objects(name.contains('-'), bytes))),
                // It was published or forgotten just now.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => (0, Err(unreadable(&error))),
            };
            let objects = objects.map(|digests| digests.iter().map(ObjectName::new).collect());
            let is_published = !name.ends_with(PENDING);
            let package = packages.entry(digest).or_insert_with(|| KeptPackage { descriptions: Vec::new(), last_used });
            package.last_used = package.last_used.max(last_used);
            package.descriptions.push(Description { path, is_published, objects });
        }
        Ok(packages.into_values().collect())
    }
}

/// Ending of the names of pending descriptions.
const PENDING: &str = ".new";
/// What a description begins with, before the checksum and before all that it covers.
const CHECKSUM: (&[u8], &[u8]) = (b"{\"checksum\":\"", b"\",");

fn with_checksum(json: Vec<u8>) -> Vec<u8> {
    match json.strip_prefix(b"{") {
        Some(fields) if fields != b"}" => {
            [CHECKSUM.0, Digest::of(fields).hex().as_bytes(), CHECKSUM.1, fields].concat()
        }
        _ => json,
    }
}

/// The checksum of a description, and what it covers; `None` if an earlier program wrote it.
fn split_checksum(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (checksum, rest) = bytes.strip_prefix(CHECKSUM.0)?.split_at_checked(Digest::of(b"").hex().len())?;
    Some((checksum, rest.strip_prefix(CHECKSUM.1)?))
}

/// Reads a description, or says what is wrong with it.
fn parse<T>(bytes: &[u8], read: impl Fn(&[u8]) -> serde_json::Result<T>) -> Result<T, String> {
    match split_checksum(bytes) {
        Some((checksum, fields)) if Digest::of(fields).hex().as_bytes() != checksum => {
            Err("holds other bytes than were written".to_owned())
        }
        _ => read(bytes).map_err(|error| format!("cannot be understood: {error}")),
    }
}

fn unreadable(error: &std::io::Error) -> String {
    format!("cannot be read: {}", causes(error))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    match fs::read(path) {
        Ok(bytes) => parse(&bytes, |bytes| serde_json::from_slice(bytes)).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Demo {
        name: String,
    }

    fn read_demo(bytes: &[u8]) -> Result<Demo, String> {
        parse(bytes, |bytes| serde_json::from_slice(bytes))
    }

    #[test]
    fn every_flipped_byte_of_a_description_is_noticed() {
        let demo = Demo { name: "demo".to_owned() };
        let json = serde_json::to_vec(&demo).unwrap();
        let written = with_checksum(json.clone());
        let checksum = Digest::of(br#""name":"demo"}"#);
        assert_eq!(String::from_utf8_lossy(&written), format!(r#"{{"checksum":"{checksum}","name":"demo"}}"#));
        assert_eq!(read_demo(&written), Ok(Demo { name: "demo".to_owned() }));
        for position in 0..written.len() {
            let mut damaged = written.clone();
            damaged[position] ^= 1;
            // In the name of the field it leaves the rest as it was.
            assert!(read_demo(&damaged).map_or(true, |read| read == demo), "{position}");
            assert!(read_demo(&damaged).is_err() || position < CHECKSUM.0.len(), "{position}");
        }
        assert!(read_demo(&written[..written.len() - 1]).is_err());
        assert_eq!(read_demo(&json), Ok(demo), "earlier programs wrote no checksum");
    }
}
