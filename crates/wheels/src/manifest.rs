//! What the store remembers of an unpacked wheel: its files as objects, by path. Kept in `content/wheels`.

use std::collections::BTreeMap;

use lamina_image::Digest;
use lamina_packages::{Descriptions, file_name};
use lamina_store::{JobError, KeptPackage, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::request::Target;
use crate::scripts::EntryPoint;

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
    /// Bytes of Python source, the measure of the work of compiling; of an empty module there is some to do as well.
    pub(crate) fn source_bytes(&self) -> u64 {
        self.files.iter().filter(|file| self.is_module(&file.path)).map(|file| file.size.max(1)).sum()
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

    /// The names of the programs that it installs.
    pub(crate) fn scripts(&self) -> impl Iterator<Item = &str> {
        let shipped = self.files.iter().filter_map(|file| match self.place(&file.path) {
            Some((Place::Scripts, name)) => Some(name),
            _ => None,
        });
        shipped.chain(self.entry_points.iter().map(|point| point.name.as_str()))
    }

    /// The absolute path of a file on `target`.
    pub(crate) fn path_on(&self, path: &str, target: &Target, distribution: &str) -> Option<String> {
        let (place, rest) = self.place(path)?;
        Some(format!("{}/{rest}", place.directory(target, distribution)))
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
                let (prefix, place) = if target.is_environment {
                    (target.prefix.as_str(), "include/site")
                } else {
                    (target.base_prefix(), "include")
                };
                format!("{prefix}/{place}/python{major}.{minor}/{distribution}")
            }
            Self::Data => target.prefix.clone(),
        }
    }
}

/// What unpacking makes of a wheel: with 2, scripts have the permission bits of the wheel; those of 1, whose names do not
/// say so, could all be executed.
const VERSION: u32 = 2;

/// Name of the manifest of the wheel with this digest. One of another version has another name, so that programs of
/// several versions use one store.
pub(crate) fn manifest_name(sha256: &str) -> String {
    file_name(&format!("{sha256}.{VERSION}"), None)
}

/// The manifests, and what was made of wheels later.
pub(crate) fn descriptions(context: &WorkerContext) -> Descriptions<'_> {
    Descriptions::new(context, "wheels")
}

/// All unpacked wheels, for those who collect what nobody uses.
pub(crate) fn packages(context: &WorkerContext) -> Result<Vec<KeptPackage>, JobError> {
    descriptions(context).packages(|is_part, bytes| {
        if is_part {
            let bytecode: Bytecode = serde_json::from_slice(bytes)?;
            return Ok(bytecode.files.into_values().collect());
        }
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        Ok(manifest.files.iter().filter(|file| file.size > 0).map(|file| file.digest).collect())
    })
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
    fn empty_modules_are_compiled_as_well() {
        let file = |path: &str| ManifestFile {
            path: path.to_owned(),
            digest: Digest::of(b""),
            mode: 0o644,
            size: 0,
            record: String::new(),
            script: None,
        };
        let manifest = |path| Manifest {
            dist_info: "a-1.0.dist-info".to_owned(),
            files: vec![file(path)],
            empty_directories: Vec::new(),
            entry_points: Vec::new(),
        };
        assert_eq!(manifest("a/__init__.py").source_bytes(), 1);
        assert_eq!(manifest("a/py.typed").source_bytes(), 0);
    }

    #[test]
    fn files_go_where_the_standard_says() {
        let manifest = Manifest {
            dist_info: "a_b-1.0.dist-info".into(),
            files: Vec::new(),
            empty_directories: Vec::new(),
            entry_points: Vec::new(),
        };
        let place = |path: &str| manifest.path_on(path, &target(), "a-b");
        assert_eq!(place("a_b/x.py").unwrap(), "/usr/local/lib/python3.11/dist-packages/a_b/x.py");
        assert_eq!(place("a_b-1.0.data/platlib/x.so").unwrap(), "/usr/local/lib/python3.11/dist-packages/x.so");
        assert_eq!(place("a_b-1.0.data/scripts/x").unwrap(), "/usr/local/bin/x");
        assert_eq!(place("a_b-1.0.data/headers/x.h").unwrap(), "/usr/include/python3.11/a-b/x.h");
        assert_eq!(place("a_b-1.0.data/data/etc/x").unwrap(), "/usr/local/etc/x");
        assert_eq!(place("a_b-1.0.data/other/x"), None);
        let environment = target().in_environment("/venv");
        let place = |path: &str| manifest.path_on(path, &environment, "a-b").unwrap();
        assert_eq!(place("a_b/x.py"), "/venv/lib/python3.11/site-packages/a_b/x.py");
        assert_eq!(place("a_b-1.0.data/headers/x.h"), "/venv/include/site/python3.11/a-b/x.h");
        assert_eq!(place("a_b-1.0.data/data/etc/x"), "/venv/etc/x");
        assert!(manifest.is_module("a_b-1.0.data/purelib/x.py") && !manifest.is_module("a_b-1.0.data/scripts/x.py"));
    }
}
