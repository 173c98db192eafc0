//! Looking at an image's layers without mounting them; runs in the store worker.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fs_err as fs;
use lamina_ground::{Stack, StorePath};
use lamina_store::{JobError, LayerPath};

/// The views of an image's layers.
pub struct Layers {
    roots: Stack<LayerPath>,
    /// How many of the lowest are the base.
    base: usize,
    known: HashMap<OsString, Directory>,
}

/// What an image has at a path where a directory is looked for.
#[derive(Debug, Clone)]
pub enum Directory {
    /// Nothing.
    Absent,
    /// Something else than a directory.
    Other,
    /// A directory, merged from these.
    Present(Stack<LayerPath>),
}

impl Layers {
    /// The layers with these views.
    #[must_use]
    pub fn new(content: &Path, views: &Stack<StorePath>) -> Self {
        Self { roots: views.map(|view| LayerPath::view(content, view)), base: 1, known: HashMap::new() }
    }

    /// The same with this many of the lowest layers as the base.
    #[must_use]
    pub fn with_base(self, layers: usize) -> Self {
        Self { base: layers, ..self }
    }

    /// Finds the directory at an absolute path. Symbolic links are not followed: they count as something else.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn directory(&mut self, path: &(impl AsRef<OsStr> + ?Sized)) -> Result<Directory, JobError> {
        self.directory_at(path.as_ref().as_bytes())
    }

    fn directory_at(&mut self, path: &[u8]) -> Result<Directory, JobError> {
        let path = trimmed(path);
        if path.is_empty() {
            return Ok(Directory::Present(self.roots.clone()));
        }
        if let Some(known) = self.known.get(OsStr::from_bytes(path)) {
            return Ok(known.clone());
        }
        let (parent, name) = parted(path);
        let found = match self.directory_at(parent)? {
            Directory::Present(parents) => merge(&parents, name)?,
            absent_or_other => absent_or_other,
        };
        self.known.insert(OsStr::from_bytes(path).to_owned(), found.clone());
        Ok(found)
    }
}

/// What an image has at a path where a file is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// Something of the base: of the lowest layer, unless that is said to be more or less.
    OfBase(LayerPath),
    /// Something of a layer above it.
    Above(LayerPath),
    /// What only following a link would tell.
    Elsewhere,
}

impl Layers {
    /// Finds what is at an absolute path. Symbolic links are not followed.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn entry(&mut self, path: &(impl AsRef<OsStr> + ?Sized)) -> Result<Entry, JobError> {
        let (parent, name) = parted(trimmed(path.as_ref().as_bytes()));
        let directories = match self.directory_at(parent)? {
            Directory::Absent => return Ok(Entry::Absent),
            Directory::Other => return Ok(Entry::Elsewhere),
            Directory::Present(directories) => directories,
        };
        for directory in directories.top_down() {
            let path = directory.join(name);
            if path.is_deleted()? {
                return Ok(Entry::Absent);
            }
            match fs::symlink_metadata(path.on_disk()) {
                Ok(_) if self.is_of_base(&path) => return Ok(Entry::OfBase(path)),
                Ok(_) => return Ok(Entry::Above(path)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Entry::Absent)
    }

    /// Whether something is of the base.
    #[must_use]
    pub fn is_of_base(&self, path: &LayerPath) -> bool {
        self.roots.bottom_up().iter().take(self.base).any(|layer| path.is_of_layer(layer))
    }
}

/// A path without slashes at its ends.
fn trimmed(mut path: &[u8]) -> &[u8] {
    while let [b'/', rest @ ..] | [rest @ .., b'/'] = path {
        path = rest;
    }
    path
}

/// The path of the directory that something is in, and its name there.
fn parted(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], OsStr::from_bytes(&path[slash + 1..])),
        None => (&[], OsStr::from_bytes(path)),
    }
}

/// The directory `name` in the directory that `parents` make together.
fn merge(parents: &Stack<LayerPath>, name: &OsStr) -> Result<Directory, JobError> {
    let mut found = Vec::new();
    for parent in parents.top_down() {
        let path = parent.join(name);
        if path.is_deleted()? {
            break;
        }
        let metadata = match fs::symlink_metadata(path.on_disk()) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        if !metadata.is_dir() {
            if found.is_empty() {
                return Ok(Directory::Other);
            }
            break;
        }
        let opaque = path.is_opaque()?;
        found.push(path);
        if opaque {
            break;
        }
    }
    Ok(if found.is_empty() { Directory::Absent } else { Directory::Present(Stack::from_top_down(found)) })
}

/// The text of a file of a layer; bytes that are no UTF-8 are replaced.
///
/// # Errors
/// When it cannot be read.
pub fn read_text(path: &LayerPath) -> Result<String, JobError> {
    let mut bytes = Vec::new();
    path.open()?.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_layers_hide_lower_ones() {
        let content = tempfile::tempdir().unwrap();
        let make = |path: &str| fs::create_dir_all(content.path().join(path)).unwrap();
        ["low/usr/lib", "low/etc", "low/opt", "top/usr/lib", "top/etc"].into_iter().for_each(make);
        fs::os::unix::fs::symlink("/etc", content.path().join("top/opt")).unwrap();
        let etc = content.path().join("top/etc");
        rustix::fs::setxattr(&etc, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
        let mut layers = Layers::new(content.path(), &Stack::from_top_down(["top".into(), "low".into()]));
        let count = |found: Result<Directory, JobError>| match found.unwrap() {
            Directory::Present(found) => i32::try_from(found.len()).unwrap(),
            Directory::Absent => 0,
            Directory::Other => -1,
        };
        assert_eq!(count(layers.directory("/usr/lib")), 2);
        assert_eq!(count(layers.directory("/etc")), 1);
        assert_eq!(count(layers.directory("/opt/x")), -1);
        assert_eq!(count(layers.directory("/nowhere/x")), 0);
    }

    #[test]
    fn entries_are_told_from_those_of_the_base() {
        let content = tempfile::tempdir().unwrap();
        for directory in ["low/etc", "top/etc"] {
            fs::create_dir_all(content.path().join(directory)).unwrap();
        }
        for file in ["low/etc/a", "low/etc/b", "top/etc/b", "low/etc/gone"] {
            fs::write(content.path().join(file), "").unwrap();
        }
        fs::os::unix::fs::symlink("/etc", content.path().join("top/link")).unwrap();
        let gone = content.path().join("top/etc/gone");
        let device = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, &gone, device, rustix::fs::Mode::RUSR, 0).unwrap();
        let mut layers = Layers::new(content.path(), &Stack::from_top_down(["top".into(), "low".into()]));
        let at = |layer: &str, path: &str| LayerPath::view(content.path(), &layer.into()).join(path);
        for (path, expected) in [
            ("/etc/a", Entry::OfBase(at("low", "etc/a"))),
            ("/etc/b", Entry::Above(at("top", "etc/b"))),
            ("/etc/gone", Entry::Absent),
            ("/etc/none", Entry::Absent),
            ("/none/x", Entry::Absent),
            ("/link/a", Entry::Elsewhere),
            ("/link", Entry::Above(at("top", "link"))),
        ] {
            assert_eq!(layers.entry(path).unwrap(), expected, "{path}");
        }
        for (base, is_of_base) in [(0, false), (1, true), (2, true)] {
            layers = layers.with_base(base);
            assert_eq!(layers.is_of_base(&at("low", "etc/a")), is_of_base);
            assert_eq!(layers.is_of_base(&at("top", "etc/b")), base == 2);
        }
    }
}
