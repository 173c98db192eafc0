//! Looking for secrets in what a step changed.

use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fs_err as fs;
use lamina_store::LayerPath;
use memchr::memmem;
use rustix::io::Errno;

use super::Finding;
use super::packages::Packages;

/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// The kernel's limit for an extended attribute's value, and for all names of a file together.
const ATTRIBUTE_SIZE: usize = 64 << 10;

/// What is looked for.
#[derive(Debug)]
pub(super) struct Needle {
    /// The variable whose value it is.
    pub(super) variable: String,
    /// The texts that give it away.
    pub(super) texts: Vec<Vec<u8>>,
    /// Whether packages may contain it by accident.
    pub(super) is_word: bool,
}

/// A walk through everything that a step changed: paths, link targets, contents, extended attributes.
pub(super) struct Search<'a> {
    upper: LayerPath,
    /// Those that nothing contains by accident come first.
    needles: &'a [Needle],
    packages: Packages,
}

impl<'a> Search<'a> {
    /// A search of the changes in an upper. Sorts the needles.
    pub(super) fn new(upper: LayerPath, needles: &'a mut [Needle]) -> Self {
        needles.sort_by_key(|needle| needle.is_word);
        Self { packages: Packages::new(upper.clone()), upper, needles }
    }

    /// The first place where something is found.
    pub(super) fn run(&self) -> io::Result<Option<Finding>> {
        if let Some(variable) = in_attributes(self.needles, self.upper.on_disk())? {
            return Ok(Some(Finding { variable: variable.to_owned(), path: "/".to_owned() }));
        }
        self.directory(&self.upper)
    }

    fn directory(&self, directory: &LayerPath) -> io::Result<Option<Finding>> {
        for entry in fs::read_dir(directory.on_disk())? {
            let entry = entry?;
            let (path, kind) = (directory.join(entry.file_name()), entry.file_type()?);
            let below = path.on_disk().strip_prefix(self.upper.on_disk()).unwrap_or(path.on_disk());
            let inside = Path::new("/").join(below);
            if let Some(variable) = self.entry(&path, &inside, kind)? {
                return Ok(Some(Finding { variable: variable.to_owned(), path: inside.display().to_string() }));
            }
            if kind.is_dir()
                && let Some(finding) = self.directory(&path)?
            {
                return Ok(Some(finding));
            }
        }
        Ok(None)
    }

    /// The variable whose value is at one place. Words do not count in what packages brought.
    fn entry(&self, path: &LayerPath, inside: &Path, kind: std::fs::FileType) -> io::Result<Option<&str>> {
        let found = in_entry(self.needles, path, inside, kind)?;
        match found.and_then(|variable| self.needles.iter().find(|needle| needle.variable == variable)) {
            Some(needle) if needle.is_word && self.is_packaged(path, inside, kind) => {
                let others = self.needles.iter().take_while(|needle| !needle.is_word).count();
                in_entry(&self.needles[..others], path, inside, kind)
            }
            _ => Ok(found),
        }
    }

    /// Whether packages brought an entry; of a directory that is not empty, its contents say so.
    fn is_packaged(&self, path: &LayerPath, inside: &Path, kind: std::fs::FileType) -> bool {
        let is_full = kind.is_dir() && fs::read_dir(path.on_disk()).is_ok_and(|mut entries| entries.next().is_some());
        is_full && in_bytes(self.needles, inside.as_os_str().as_bytes()).is_some() || self.packages.brought(inside)
    }
}

fn in_entry<'a>(
    needles: &'a [Needle],
    path: &LayerPath,
    inside: &Path,
    kind: std::fs::FileType,
) -> io::Result<Option<&'a str>> {
    let mut found = in_bytes(needles, inside.as_os_str().as_bytes());
    if found.is_none() && kind.is_symlink() {
        found = in_bytes(needles, fs::read_link(path.on_disk())?.as_os_str().as_bytes());
    } else if found.is_none() && kind.is_file() {
        found = in_file(needles, path)?;
    }
    if found.is_none() {
        found = in_attributes(needles, path.on_disk())?;
    }
    Ok(found)
}

/// Searches a file piece by piece; the pieces overlap by the longest needle.
fn in_file<'a>(needles: &'a [Needle], path: &LayerPath) -> io::Result<Option<&'a str>> {
    let longest = needles.iter().flat_map(|needle| &needle.texts).map(Vec::len).max();
    let Some(overlap) = longest.map(|longest| longest - 1) else { return Ok(None) };
    let mut file = path.open().map_err(io::Error::other)?;
    let mut buffer = vec![0; CHUNK + overlap];
    let mut kept = 0;
    loop {
        let count = file.read(&mut buffer[kept..])?;
        if count == 0 {
            return Ok(None);
        }
        let filled = kept + count;
        if let Some(variable) = in_bytes(needles, &buffer[..filled]) {
            return Ok(Some(variable));
        }
        kept = filled.min(overlap);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

/// Searches the names and values of extended attributes.
fn in_attributes<'a>(needles: &'a [Needle], path: &Path) -> io::Result<Option<&'a str>> {
    let mut names = vec![0; ATTRIBUTE_SIZE];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Err(Errno::NOTSUP) => return Ok(None),
        result => result?,
    };
    let mut value = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        value.resize(ATTRIBUTE_SIZE, 0);
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        if let Some(variable) = in_bytes(needles, name).or_else(|| in_bytes(needles, &value[..length])) {
            return Ok(Some(variable));
        }
    }
    Ok(None)
}

fn in_bytes<'a>(needles: &'a [Needle], content: &[u8]) -> Option<&'a str> {
    let is_there = |needle: &&Needle| needle.texts.iter().any(|text| memmem::find(content, text).is_some());
    needles.iter().find(is_there).map(|needle| needle.variable.as_str())
}
