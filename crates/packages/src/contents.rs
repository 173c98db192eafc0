//! What several packages put into an image together, and placing it into a step's upper.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fs_err as fs;
use lamina_image::Digest;
use lamina_store::{JobError, JobErrorKind, LayerPath, Metadata, UpperDirectory, WorkerContext};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::MISSING;
use crate::layers::{Directory, Layers};

/// Kind of a [`JobError`]: packages or image are laid out in a way that only a real installer copes with.
pub const NOT_LINKABLE: JobErrorKind = JobErrorKind::new("package-not-linkable");

/// A package to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its files.
    pub files: Vec<File>,
    /// Absolute paths of directories to make although no file goes there.
    pub empty_directories: Vec<String>,
}

/// A file at its final place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its absolute path in the image.
    pub path: String,
    /// What it holds.
    pub content: Content,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The bytes of an object.
    Object {
        /// Its digest.
        digest: Digest,
        /// The permission bits.
        mode: u32,
        /// How many bytes of it count as installed.
        size: u64,
    },
    /// Bytes made for this image.
    Text {
        /// The bytes.
        bytes: Vec<u8>,
        /// The permission bits.
        mode: u32,
    },
    /// A symbolic link to this.
    Link(String),
}

/// What was installed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Linked {
    /// Files put in place.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What the user should know, in sentences.
    pub warnings: Vec<String>,
}

/// Everything that goes into the upper, each path once.
#[derive(Debug)]
pub struct Contents {
    /// By path: the position of the package that it is from, and what is there.
    files: HashMap<String, (usize, Content)>,
    empty_directories: Vec<String>,
    warnings: Vec<String>,
}

impl Contents {
    /// Decides who owns each path: of several packages, the last.
    ///
    /// # Errors
    /// [`NOT_LINKABLE`] when a file of one package is where another one has a directory, or has a path that may lead elsewhere.
    pub fn new(packages: Vec<Package>) -> Result<Self, JobError> {
        let files = packages.iter().flat_map(|package| &package.files).map(|file| &file.path);
        let directories = packages.iter().flat_map(|package| &package.empty_directories);
        if let Some(path) = files.chain(directories).find(|path| !is_plain(path)) {
            return Err(JobError::new(NOT_LINKABLE, format!("`{path}` is no path of a file")));
        }
        let mut files = HashMap::with_capacity(packages.iter().map(|package| package.files.len()).sum::<usize>() * 2);
        let mut conflicts: BTreeMap<(usize, usize), (u64, String)> = BTreeMap::new();
        let mut names = Vec::with_capacity(packages.len());
        let mut empty_directories = Vec::new();
        for (position, package) in packages.into_iter().enumerate() {
            names.push(package.name);
            empty_directories.extend(package.empty_directories);
            for file in package.files {
                match files.entry(file.path) {
                    Entry::Vacant(free) => drop(free.insert((position, file.content))),
                    Entry::Occupied(mut taken) => {
                        let (other, content) = taken.insert((position, file.content));
                        if other != position && content != taken.get().1 {
                            conflicts.entry((other, position)).or_insert_with(|| (0, taken.key().clone())).0 += 1;
                        }
                    }
                }
            }
        }
        if let Some(file) = directories_above(files.keys()).into_iter().find(|directory| files.contains_key(*directory))
        {
            let path = files.keys().filter(|path| ancestors(path).any(|parent| parent == file)).min();
            let path = path.map_or(file, String::as_str);
            return Err(JobError::new(NOT_LINKABLE, format!("`{path}` lies below a file of another package")));
        }
        let warning = |((loser, winner), (count, path)): ((usize, usize), (u64, String))| {
            let (loser, winner) = (&names[loser], &names[winner]);
            let others = if count > 1 { format!(" and {} more files", count - 1) } else { String::new() };
            format!("`{loser}` and `{winner}` both install `{path}`{others}; the files of `{winner}` stay")
        };
        Ok(Self { files, empty_directories, warnings: conflicts.into_iter().map(warning).collect() })
    }

    /// The first sentence about packages with different files at one path, if there are any.
    #[must_use]
    pub fn conflict(&self) -> Option<&str> {
        self.warnings.first().map(String::as_str)
    }

    /// Whether the file at a path is that of the package at this position.
    #[must_use]
    pub fn is_of(&self, position: usize, path: &str) -> bool {
        self.files.get(path).is_some_and(|(owner, _)| *owner == position)
    }

    /// Adds a file that was made for one of the package at this position.
    pub fn add(&mut self, position: usize, file: File) {
        self.files.insert(file.path, (position, file.content));
    }

    /// Places everything into the upper of a step over these layers. Files that the step has made there are replaced.
    ///
    /// # Errors
    /// [`MISSING`] when the store lacks an object; [`NOT_LINKABLE`] when the image has something else than a directory where
    /// one is needed.
    pub fn link(self, context: &WorkerContext, work: &str, layers: &mut Layers) -> Result<Linked, JobError> {
        let upper = context.upper(work);
        self.make_directories(&upper, layers)?;
        let mut groups: HashMap<&str, Vec<(&str, &Content)>> = HashMap::new();
        for (path, (_, content)) in &self.files {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            groups.entry(parent).or_default().push((name, content));
        }
        let groups: Vec<_> = groups.into_iter().collect();
        let filled = groups.par_iter().map(|(directory, files)| fill(context, work, directory, files));
        let bytes = filled.try_reduce(|| 0, |one, other| Ok(one + other))?;
        Ok(Linked { files: self.files.len() as u64, bytes, warnings: self.warnings })
    }

    /// Makes all directories, like the image's own where it has them.
    fn make_directories(&self, upper: &Path, layers: &mut Layers) -> Result<(), JobError> {
        let empty = self.empty_directories.iter().filter(|path| !self.files.contains_key(*path));
        let mut directories = directories_above(self.files.keys().chain(empty.clone()));
        directories.extend(empty.map(String::as_str));
        // Those of one depth do not need one another.
        let mut depths: BTreeMap<usize, Vec<(PathBuf, Directory)>> = BTreeMap::new();
        for directory in directories {
            let relative = directory.trim_start_matches('/');
            let made = (upper.join(relative), layers.directory(directory)?);
            depths.entry(relative.matches('/').count()).or_default().push(made);
        }
        depths
            .values()
            .try_for_each(|made| made.par_iter().try_for_each(|(path, like)| make_directory(path, like, upper)))
    }
}

/// Whether a path is absolute and leads where it says.
fn is_plain(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|path| path.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

/// The directories above these paths.
fn directories_above<'a>(paths: impl Iterator<Item = &'a String>) -> BTreeSet<&'a str> {
    // Most files have neighbours: each directory is taken apart once.
    let parents: HashSet<&str> = paths.filter_map(|path| ancestors(path).next()).collect();
    parents.into_iter().flat_map(|parent| ancestors(parent).chain([parent])).collect()
}

/// The directories above a path, nearest first.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(path.rsplit_once('/'), |(parent, _)| parent.rsplit_once('/'))
        .map(|(parent, _)| parent)
        .filter(|parent| !parent.is_empty())
}

/// Makes a directory of the upper, unless it is there, like the one of the image.
fn make_directory(path: &Path, like: &Directory, upper: &Path) -> Result<(), JobError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let is_directory = fs::symlink_metadata(path)?.is_dir();
            return if is_directory { Ok(()) } else { Err(no_directory(path, upper)) };
        }
        other => other?,
    }
    match like {
        Directory::Absent => set_mode(path, 0o755),
        Directory::Present(like) => copy_owner_and_mode(like.top().map_or(upper, LayerPath::on_disk), path),
        Directory::Other => Err(no_directory(path, upper)),
    }
}

/// That something else is where a directory is needed.
fn no_directory(path: &Path, upper: &Path) -> JobError {
    let directory = path.strip_prefix(upper).unwrap_or(path).display();
    JobError::new(NOT_LINKABLE, format!("`/{directory}` of the image is not a plain directory"))
}

/// Gives a directory of the upper the owner and mode that the image's directory has.
fn copy_owner_and_mode(from: &Path, to: &Path) -> Result<(), JobError> {
    let metadata = fs::symlink_metadata(from)?;
    if (metadata.uid(), metadata.gid()) != (0, 0) {
        fs::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    set_mode(to, metadata.mode() & 0o7777)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), JobError> {
    Ok(fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?)
}

/// Puts the files of one directory in place; answers how many bytes they have.
fn fill(context: &WorkerContext, work: &str, directory: &str, files: &[(&str, &Content)]) -> Result<u64, JobError> {
    let mut bytes_placed = 0;
    let mut upper = context.upper_directory(work, Path::new(if directory.is_empty() { "/" } else { directory }))?;
    let on_disk = context.upper(work).join(directory.trim_start_matches('/'));
    for (name, content) in files {
        match content {
            Content::Object { digest, mode, size } => {
                place(context, &mut upper, digest, *mode, name)?;
                bytes_placed += size;
            }
            Content::Text { bytes, mode } => {
                let path = on_disk.join(name);
                create(&path)?.write_all(bytes)?;
                set_mode(&path, *mode)?;
                bytes_placed += bytes.len() as u64;
            }
            Content::Link(target) => {
                fs::os::unix::fs::symlink(target, on_disk.join(name))?;
            }
        }
    }
    Ok(bytes_placed)
}

/// Makes a file. What is there is replaced, as objects replace it: a link that the step has made is not followed.
fn create(path: &Path) -> std::io::Result<fs::File> {
    match fs::File::create_new(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            fs::File::create_new(path)
        }
        made => made,
    }
}

fn place(
    context: &WorkerContext,
    directory: &mut UpperDirectory<'_>,
    digest: &Digest,
    mode: u32,
    name: &str,
) -> Result<(), JobError> {
    directory.place_object(digest, &Metadata::root_owned(mode), name).map_err(|error| {
        // Told apart only on failure: asking beforehand would cost as much as placing.
        if context.has_object(digest) { error } else { JobError::new(MISSING, error.message) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, files: &[(&str, &str)]) -> Package {
        let file = |(path, text): &(&str, &str)| File {
            path: (*path).to_owned(),
            content: Content::Text { bytes: text.as_bytes().to_vec(), mode: 0o644 },
        };
        Package { name: name.to_owned(), files: files.iter().map(file).collect(), empty_directories: Vec::new() }
    }

    #[test]
    fn of_several_packages_the_last_one_owns_a_path() {
        let contents = Contents::new(vec![
            package("one", &[("/a", "1"), ("/b", "1"), ("/same", ""), ("/own", "x"), ("/own", "y")]),
            package("two", &[("/a", "2"), ("/b", "2"), ("/same", "")]),
        ])
        .unwrap();
        assert!(contents.is_of(1, "/a") && contents.is_of(1, "/same") && contents.is_of(0, "/own"));
        assert_eq!(contents.warnings, ["`one` and `two` both install `/a` and 1 more files; the files of `two` stay"]);
    }

    #[test]
    fn paths_that_may_lead_elsewhere_are_refused() {
        for path in ["/a/../b", "a", "/a/./b", "/a//b", "/", "/a/..", ""] {
            let error = Contents::new(vec![package("one", &[("/a/b", ""), (path, "")])]).unwrap_err();
            assert_eq!((error.kind, error.message), (NOT_LINKABLE, format!("`{path}` is no path of a file")));
        }
        assert!(Contents::new(vec![package("one", &[("/a/..b", ""), ("/...", "")])]).is_ok());
    }

    #[test]
    fn a_path_below_a_file_is_for_the_installer() {
        let error = Contents::new(vec![package("one", &[("/a", "")]), package("two", &[("/a/x/y", "")])]).unwrap_err();
        assert_eq!((error.kind, error.message.contains("`/a/x/y`")), (NOT_LINKABLE, true));
    }
}
