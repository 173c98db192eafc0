//! Where the files of a set come to be in an image.
//!
//! As with `COPY`: links of the image on the way are followed inside it and stay, directories that are there already
//! keep their owner, mode and attributes, and nothing takes the place of a directory, or a directory that of a file.

use std::collections::{BTreeMap, HashMap};

use super::{LocalFile, beneath};
use crate::engine::image_tree::{ImageTree, Place};
use crate::tree::{lossy, parent};
use crate::{ObjectMeta, StoreError};

/// The paths that a set takes in an image.
#[derive(Debug, Default)]
pub(super) struct Placement {
    /// The files' numbers in the set, by their paths in the image.
    pub(super) files: BTreeMap<Vec<u8>, usize>,
    /// The directories above them.
    pub(super) directories: BTreeMap<Vec<u8>, ObjectMeta>,
}

impl Placement {
    /// Places files, which come in the order of the paths that were asked for, in an image.
    pub(super) fn new<'a>(
        files: impl Iterator<Item = &'a LocalFile>,
        image: &mut ImageTree,
    ) -> Result<Self, StoreError> {
        let mut placer = Placer { image, led: HashMap::new() };
        let mut taken: BTreeMap<Vec<u8>, (usize, usize)> = BTreeMap::new();
        for (index, file) in files.enumerate() {
            let place = (file.entry, index);
            let path = placer.file(file)?;
            // Where several paths lead to the same place, the last source wins, as it does for equal paths.
            taken.entry(path).and_modify(|former| *former = place.max(*former)).or_insert(place);
        }
        let mut placement = Self::default();
        for (path, (_, index)) in taken {
            placement.add_directories(parent(&path), placer.image);
            placement.files.insert(path, index);
        }
        placement.add_directories(b"", placer.image);
        Ok(placement)
    }

    /// Adds a directory and those above it.
    fn add_directories(&mut self, path: &[u8], image: &mut ImageTree) {
        let mut path = path;
        while !self.directories.contains_key(path) {
            let meta = match image.at(path) {
                Place::Directory(meta) => meta,
                _ => new_directory(path),
            };
            self.directories.insert(path.to_vec(), meta);
            path = parent(path);
        }
    }
}

/// Directories take the mode that every Debian gives them; all others are open to every user.
fn new_directory(path: &[u8]) -> ObjectMeta {
    ObjectMeta::root_owned(match path {
        b"root" => 0o700,
        b"tmp" | b"var/tmp" => 0o1777,
        _ => 0o755,
    })
}

struct Placer<'a> {
    image: &'a mut ImageTree,
    /// Where directories that were asked for are in the image.
    led: HashMap<Vec<u8>, Vec<u8>>,
}

impl Placer<'_> {
    fn file(&mut self, file: &LocalFile) -> Result<Vec<u8>, StoreError> {
        let name = file.target.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let path = beneath(&self.directory(parent(&file.target), file)?, name);
        let there = match self.image.at(&path) {
            // A file given by name goes where the link leads. Of a directory's files, each replaces what has its name.
            Place::Link(_) => self.image.resolve(&path).map_err(|impasse| refused(file, &impasse.to_string())),
            place => Ok((path.clone(), place)),
        };
        match there {
            Ok((_, Place::Directory(_))) if file.is_single() => Err(refused(
                file,
                &format!("the image has a directory there; write `{}/` to put the file into it", lossy(&file.target)),
            )),
            Ok((_, Place::Directory(_))) => {
                Err(refused(file, "the image has a directory there; rename the file, or leave it out with `ignore`"))
            }
            Ok((end, _)) if file.is_single() => Ok(end),
            Err(error) if file.is_single() => Err(error),
            _ => Ok(path),
        }
    }

    /// Where the directory at `path` is.
    fn directory(&mut self, path: &[u8], file: &LocalFile) -> Result<Vec<u8>, StoreError> {
        if let Some(led) = self.led.get(path) {
            return Ok(led.clone());
        }
        let end = match self.image.resolve(path) {
            Ok((end, Place::File)) => Err(format!("`{}` is a file in the image, not a directory", lossy(&end))),
            Ok((end, _)) => Ok(end),
            Err(impasse) => Err(impasse.to_string()),
        };
        let end = end.map_err(|why| refused(file, &why))?;
        self.led.insert(path.to_vec(), end.clone());
        Ok(end)
    }
}

fn refused(file: &LocalFile, why: &str) -> StoreError {
    let source = super::display(&file.source());
    StoreError::InvalidFileSet(format!("`{source}` cannot be added as `{}`: {why}", lossy(&file.target)))
}
