//! What the store remembers of an unpacked wheel: its files as objects, by path. Kept as JSON in `content/wheels`.
//!
//! A manifest is first written *pending*; it is published, after one synchronisation of the disk, when all wheels of a
//! step are unpacked. So a published manifest never names an object that a power cut could take away.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use lamina_image::Digest;
use lamina_store::{JobError, ObjectName, Package, WorkerContext};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::request::Target;
use crate::scripts::EntryPoint;

/// Kind of a [`JobError`]: a manifest names an object, or the caller a wheel, that is not in the store.
pub(crate) const MISSING: &str = "wheel-missing";

/// An unpacked wheel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Name of the metadata directory, `name-version.dist-info`.
    pub(crate) dist_info: String,
    /// The files, in the order of their paths.
    pub(crate) files: Vec<ManifestFile>,
    /// Directories without files, which `uv` makes and pip does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) empty_directories: Vec<String>,
    /// The programs to make.
    pub(crate) entry_points: Vec<EntryPoint>,
}

/// A file of an unpacked wheel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestFile {
    /// Its path in the wheel.
    pub(crate) path: String,
    /// The object that holds its bytes.
    pub(crate) digest: Digest,
    /// Its permission bits.
    pub(crate) mode: u32,
    /// Its length.
    pub(crate) size: u64,
    /// Its digest as `RECORD` writes it.
    pub(crate) record: String,
    /// The text of a `#!python` script, which has to be adapted to each interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) script: Option<Vec<u8>>,
}

/// The bytecode of a wheel for one interpreter and site directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bytecode {
    /// By the path of the source in the wheel: the object that holds the bytecode.
    pub(crate) files: BTreeMap<String, Digest>,
}

impl Manifest {
    /// Bytes of Python source: the measure of the work of compiling.
    pub(crate) fn source_bytes(&self) -> u64 {
        self.files.iter().filter(|file| self.is_module(&file.path)).map(|file| file.size).sum()
    }

    /// Whether a file is Python source below the site directory.
    pub(crate) fn is_module(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.strip_suffix(".py").is_some_and(|stem| !stem.is_empty())
            && matches!(self.place(path), Some((Place::Site, _)))
    }

    /// Which of the target's directories a file goes to, and the path below it; `None` for an unknown `.data` part.
    pub(crate) fn place<'a>(&self, path: &'a str) -> Option<(Place, &'a str)> {
        let stem = self.dist_info.strip_suffix(".dist-info").unwrap_or_default();
        let Some(rest) = path.strip_prefix(stem).and_then(|rest| rest.strip_prefix(".data/")) else {
            return Some((Place::Site, path));
        };
        let (part, rest) = rest.split_once('/')?;
        let place = match part {
            "purelib" | "platlib" => Place::Site,
            "scripts" => Place::Scripts,
            "headers" => Place::Headers,
            "data" => Place::Data,
            _ => return None,
        };
        Some((place, rest))
    }
}

/// One of the directories that a wheel's files go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Site,
    Scripts,
    Headers,
    Data,
}

impl Place {
    /// The directory on `target`.
    pub(crate) fn directory(self, target: &Target, distribution: &str) -> String {
        match self {
            Self::Site => target.site_packages.clone(),
            Self::Scripts => target.scripts.clone(),
            Self::Headers => {
                let (major, minor) = target.python_minor().unwrap_or_default();
                format!("{}/include/python{major}.{minor}/{distribution}", target.prefix.trim_end_matches('/'))
            }
            Self::Data => target.prefix.clone(),
        }
    }
}

/// Name of a manifest: of a wheel, or of its bytecode under a key.
pub(crate) fn file_name(sha256: &str, bytecode_key: Option<&str>) -> String {
    match bytecode_key {
        Some(key) => format!("{sha256}-{key}.json"),
        None => format!("{sha256}.json"),
    }
}

fn directory(context: &WorkerContext) -> PathBuf {
    context.content().join("wheels")
}

fn pending(context: &WorkerContext, name: &str) -> PathBuf {
    directory(context).join(format!("{name}.new"))
}

/// Reads a published manifest, or else a pending one; `None` if there is neither, or it is damaged.
pub(crate) fn load<T: DeserializeOwned>(context: &WorkerContext, name: &str) -> Option<T> {
    load_published(context, name).or_else(|| read(pending(context, name)))
}

/// Reads a published manifest.
pub(crate) fn load_published<T: DeserializeOwned>(context: &WorkerContext, name: &str) -> Option<T> {
    read(directory(context).join(name))
}

/// Whether a manifest is published.
pub(crate) fn is_published(context: &WorkerContext, name: &str) -> bool {
    directory(context).join(name).exists()
}

fn read<T: DeserializeOwned>(path: PathBuf) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a pending manifest.
pub(crate) fn save<T: Serialize>(context: &WorkerContext, name: &str, manifest: &T) -> Result<(), JobError> {
    fs::create_dir_all(directory(context))?;
    let bytes = serde_json::to_vec(manifest).map_err(|error| JobError::new(JobError::STORE, error.to_string()))?;
    let temporary = context.temporary_path();
    fs::write(&temporary, bytes)?;
    Ok(fs::rename(temporary, pending(context, name))?)
}

/// Publishes pending manifests: everything they refer to is on the disk first.
pub(crate) fn publish(context: &WorkerContext, names: &[String]) -> Result<(), JobError> {
    let waiting: Vec<_> = names.iter().filter(|name| pending(context, name).exists()).collect();
    if waiting.is_empty() {
        return Ok(());
    }
    context.sync()?;
    for name in waiting {
        match fs::rename(pending(context, name), directory(context).join(name)) {
            // Another process published the same manifest in the meantime.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Notes that a wheel was asked for: the time of its manifest is how long nobody has.
pub(crate) fn touch(context: &WorkerContext, name: &str) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    // At worst the wheel is unpacked again some day.
    let _ = rustix::fs::utimensat(CWD, directory(context).join(name), &times, AtFlags::empty());
}

/// All unpacked wheels, for those who collect what nobody uses.
pub(crate) fn packages(context: &WorkerContext) -> Result<Vec<Package>, JobError> {
    let mut packages: BTreeMap<String, Package> = BTreeMap::new();
    for entry in fs::read_dir(directory(context))? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let wheel = name.split(['-', '.']).next().unwrap_or_default().to_owned();
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let (objects, last_used) = (objects_of(&path, name), metadata.mtime());
        let package =
            packages.entry(wheel).or_insert_with(|| Package { files: Vec::new(), last_used, objects: Vec::new() });
        package.last_used = package.last_used.max(last_used);
        package.objects.extend(objects);
        package.files.push(path);
    }
    Ok(packages.into_values().collect())
}

/// What a manifest names; a damaged one names nothing.
fn objects_of(path: &Path, name: &str) -> Vec<ObjectName> {
    if name.contains('-') {
        let bytecode: Bytecode = read(path.to_owned()).unwrap_or_default();
        return bytecode.files.values().map(ObjectName::new).collect();
    }
    let manifest: Option<Manifest> = read(path.to_owned());
    let files = manifest.into_iter().flat_map(|manifest| manifest.files);
    files.filter(|file| file.size > 0).map(|file| ObjectName::new(&file.digest)).collect()
}

/// Removes manifests that turned out to be of no use.
pub(crate) fn forget(context: &WorkerContext, names: &[String]) {
    for name in names {
        // Whatever cannot be removed is overwritten by the next manifest.
        let _ = fs::remove_file(directory(context).join(name));
        let _ = fs::remove_file(pending(context, name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::target;

    /// What a program of format 2 kept is in the fixture of the store's tests.
    #[test]
    fn manifests_of_earlier_programs_are_read() {
        let listing = include_str!("../../store/tests/data/format-2/files.jsonl");
        let texts: Vec<String> = listing
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|file: &serde_json::Value| file["path"].as_str().unwrap().starts_with("content/wheels/"))
            .filter_map(|file| file["text"].as_str().map(str::to_owned))
            .collect();
        let [bytecode, manifest] = texts.try_into().unwrap();
        let bytecode: Bytecode = serde_json::from_str(&bytecode).unwrap();
        let manifest: Manifest = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest.dist_info, "demo-1.0.dist-info");
        assert_eq!((manifest.files.len(), manifest.entry_points[0].function.as_str()), (2, "main"));
        assert_eq!(bytecode.files["demo.py"], manifest.files[1].digest);
    }

    #[test]
    fn files_go_where_the_standard_says() {
        let manifest = Manifest {
            dist_info: "a_b-1.0.dist-info".into(),
            files: Vec::new(),
            empty_directories: Vec::new(),
            entry_points: Vec::new(),
        };
        let place = |path: &str| {
            manifest.place(path).map(|(place, rest)| format!("{}/{rest}", place.directory(&target(), "a-b")))
        };
        assert_eq!(place("a_b/x.py").unwrap(), "/usr/local/lib/python3.11/dist-packages/a_b/x.py");
        assert_eq!(place("a_b-1.0.data/platlib/x.so").unwrap(), "/usr/local/lib/python3.11/dist-packages/x.so");
        assert_eq!(place("a_b-1.0.data/scripts/x").unwrap(), "/usr/local/bin/x");
        assert_eq!(place("a_b-1.0.data/headers/x.h").unwrap(), "/usr/local/include/python3.11/a-b/x.h");
        assert_eq!(place("a_b-1.0.data/data/etc/x").unwrap(), "/usr/local/etc/x");
        assert_eq!(place("a_b-1.0.data/other/x"), None);
        assert!(manifest.is_module("a_b-1.0.data/purelib/x.py") && !manifest.is_module("a_b-1.0.data/scripts/x.py"));
    }
}
