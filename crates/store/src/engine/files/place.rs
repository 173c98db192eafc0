//! Where the files of a set come to be in an image.
//!
//! As with `COPY`: links of the image on the way are followed inside it and stay, directories that are there already
//! keep their owner, mode and attributes, and nothing takes the place of a directory, or a directory that of a file.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::links::{self, LocalLink};
use super::{LocalFile, beneath};
use crate::engine::image_tree::{ImageTree, Place};
use crate::tree::{lossy, parent};
use crate::{Metadata, StoreError, Timestamp};

/// The paths that a set takes in an image.
#[derive(Debug, Default)]
pub(super) struct Placement {
    /// What is added and its path in the image, in the order of these.
    pub(super) items: Vec<(Vec<u8>, Item)>,
    /// The directories above them.
    pub(super) directories: BTreeMap<Vec<u8>, Metadata>,
}

/// Something that a set adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A file, by its number in the set.
    File(usize),
    /// A link to a directory that the set adds as well, by its target.
    Link(Vec<u8>),
}

impl Placement {
    /// Places files and links, which come in the order of the paths that were asked for, in an image.
    pub(super) fn new<'a>(
        files: impl Iterator<Item = &'a LocalFile>,
        links: &[LocalLink],
        image: &mut ImageTree,
    ) -> Result<Self, StoreError> {
        let mut placer = Placer { image, led: HashMap::new(), latest: None };
        let mut taken: Vec<(Vec<u8>, usize, Item)> = Vec::with_capacity(files.size_hint().0 + links.len());
        for (index, file) in files.enumerate() {
            taken.push((placer.path(file)?, file.entry, Item::File(index)));
        }
        for link in links {
            let path = placer.path(link)?;
            let target = links::relative(&path, &placer.directory(&link.leads_to, link)?.path);
            taken.push((path, link.entry, Item::Link(target)));
        }
        // Where several paths lead to the same place, the last source wins, as it does for equal paths.
        taken.sort_by(|left, right| (&left.0, left.1).cmp(&(&right.0, right.1)));
        let mut placement = Self::default();
        let mut taken = taken.into_iter().peekable();
        while let Some((path, _, item)) = taken.next() {
            if taken.peek().is_some_and(|(next, ..)| *next == path) {
                continue;
            }
            if let Some(hidden) = HIDDEN.iter().find(|directory| is_below(&path, directory)) {
                let (path, hidden) = (lossy(&path), lossy(hidden));
                return Err(StoreError::InvalidFileSet(format!(
                    "`{path}` could never be seen: every container has a `{hidden}` of its own; choose another path"
                )));
            }
            placement.add_directories(parent(&path), placer.image);
            placement.items.push((path, item));
        }
        placement.add_directories(b"", placer.image);
        Ok(placement)
    }

    /// Adds a directory and those above it.
    fn add_directories(&mut self, path: &[u8], image: &mut ImageTree) {
        let mut path = path;
        while !self.directories.contains_key(path) {
            let mut meta = match image.at(path) {
                Place::Directory(meta) => meta,
                _ => new_directory(path),
            };
            // Commands in a sandbox always change the time of `/`, and a container has its own: so images that differ in
            // nothing else can share views, and what is made for them.
            if path.is_empty() {
                meta.modified = Timestamp::PACKAGE;
            }
            self.directories.insert(path.to_vec(), meta);
            path = parent(path);
        }
    }
}

/// What the kernel's file systems are mounted over.
const HIDDEN: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Directories take the mode that every distribution gives them; all others are open to every user.
fn new_directory(path: &[u8]) -> Metadata {
    Metadata::root_owned(match path {
        b"root" => 0o700,
        b"tmp" | b"var/tmp" => 0o1777,
        _ => 0o755,
    })
}

/// What is to be placed.
trait Placed {
    /// The path in the image that was asked for, without leading slash.
    fn target(&self) -> &[u8];
    /// Whether it was given by its own name, not as a part of a directory.
    fn is_single(&self) -> bool;
    /// What it is called in messages.
    fn name(&self) -> String;
}

impl Placed for LocalFile {
    fn target(&self) -> &[u8] {
        &self.target
    }

    fn is_single(&self) -> bool {
        self.below == self.target.len()
    }

    fn name(&self) -> String {
        format!("`{}`", super::display(&self.source()))
    }
}

impl Placed for LocalLink {
    fn target(&self) -> &[u8] {
        &self.target
    }

    fn is_single(&self) -> bool {
        false
    }

    fn name(&self) -> String {
        "a link to a directory".to_owned()
    }
}

struct Placer<'a> {
    image: &'a mut ImageTree,
    /// Where directories that were asked for are in the image.
    led: HashMap<Vec<u8>, Rc<Led>>,
    /// The latest of them, which most files share with the one before.
    latest: Option<(Vec<u8>, Rc<Led>)>,
}

/// Where a directory that was asked for is in the image.
struct Led {
    path: Vec<u8>,
    /// Whether the image has it: otherwise it has nothing below, either.
    is_there: bool,
}

impl Placer<'_> {
    /// Where a file or a link goes.
    fn path(&mut self, file: &impl Placed) -> Result<Vec<u8>, StoreError> {
        let name = file.target().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let directory = self.directory(parent(file.target()), file)?;
        let path = beneath(&directory.path, name);
        if !directory.is_there {
            return Ok(path);
        }
        let there = match self.image.at(&path) {
            // A file given by name goes where the link leads. Of a directory's files, each replaces what has its name.
            Place::Link(_) => self.image.resolve(&path).map_err(|impasse| refused(file, &impasse.to_string())),
            place => Ok((path.clone(), place)),
        };
        match there {
            Ok((_, Place::Directory(_))) if file.is_single() => Err(refused(
                file,
                &format!("the image has a directory there; write `{}/` to put the file into it", lossy(file.target())),
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
    fn directory(&mut self, path: &[u8], file: &impl Placed) -> Result<Rc<Led>, StoreError> {
        if let Some((latest, led)) = &self.latest
            && latest == path
        {
            return Ok(Rc::clone(led));
        }
        let led = if let Some(led) = self.led.get(path) {
            Rc::clone(led)
        } else {
            let led = Rc::new(self.follow(path).map_err(|why| refused(file, &why))?);
            self.led.insert(path.to_vec(), Rc::clone(&led));
            led
        };
        self.latest = Some((path.to_vec(), Rc::clone(&led)));
        Ok(led)
    }

    fn follow(&mut self, path: &[u8]) -> Result<Led, String> {
        match self.image.resolve(path) {
            Ok((end, Place::File)) => Err(format!("`{}` is a file in the image, not a directory", lossy(&end))),
            Ok((path, place)) => Ok(Led { path, is_there: place != Place::Absent }),
            Err(impasse) => Err(impasse.to_string()),
        }
    }
}

fn refused(file: &impl Placed, why: &str) -> StoreError {
    StoreError::InvalidFileSet(format!("{} cannot be added as `{}`: {why}", file.name(), lossy(file.target())))
}
