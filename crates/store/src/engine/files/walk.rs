//! Walking local directories.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lamina_image::patterns::PatternMatcher;
use lamina_image::{FileEntry, FileKind, FileSet, Ignore};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::record::Status;
use super::{LocalFile, beneath, display, image_path};
use crate::StoreError;

/// More files than this are a mistake, or links that lead to one another.
const MAXIMUM_FILES: usize = 1_000_000;

/// Finds the files of a set, in the order of their paths in the image. Where several sources give the same path, the
/// last one wins.
pub(super) fn walk(set: &FileSet, warnings: &mut Vec<String>) -> Result<Vec<LocalFile>, StoreError> {
    let mut files: Vec<(usize, LocalFile)> = Vec::new();
    for (index, entry) in set.entries.iter().enumerate() {
        let mut found = Vec::new();
        walk_entry(entry, &mut found, warnings)?;
        if files.len() + found.len() > MAXIMUM_FILES {
            return Err(too_many(Path::new(&entry.source)));
        }
        files.extend(found.into_iter().map(|file| (index, file)));
    }
    files.sort_unstable_by(|left, right| (&left.1.target, right.0).cmp(&(&right.1.target, left.0)));
    files.dedup_by(|later, first| later.1.target == first.1.target);
    Ok(files.into_iter().map(|(_, file)| file).collect())
}

fn walk_entry(entry: &FileEntry, found: &mut Vec<LocalFile>, warnings: &mut Vec<String>) -> Result<(), StoreError> {
    let source = Path::new(&entry.source);
    let target = image_path(&entry.target)?;
    let stat = rustix::fs::stat(source).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => StoreError::NotFound(source.to_owned()),
        errno => StoreError::file("reading the status of", source)(errno),
    })?;
    match (entry.kind, FileType::from_raw_mode(stat.st_mode)) {
        (FileKind::File, FileType::RegularFile) if target.is_empty() => {
            Err(StoreError::InvalidFileSet("a file cannot take the place of `/` in the image".to_owned()))
        }
        (FileKind::File, FileType::RegularFile) => {
            found.push(LocalFile { target, source: source.to_owned(), status: Status::new(&stat) });
            Ok(())
        }
        (FileKind::File, _) => Err(StoreError::NotAFile(source.to_owned())),
        (FileKind::Directory, FileType::Directory) => {
            let mut walk = Walk { source, target, filter: Filter::new(entry)?, ancestors: Vec::new(), found, warnings };
            let before = walk.found.len();
            walk.start()?;
            if walk.found.len() == before {
                walk.warnings.push(format!("nothing was added from `{}`: it has no files", display(source)));
            }
            Ok(())
        }
        (FileKind::Directory, _) => Err(StoreError::NotADirectory(source.to_owned())),
    }
}

/// Which files of a directory are taken.
enum Filter {
    All,
    Patterns { matcher: PatternMatcher, inverted: bool },
    Only(HashSet<Vec<u8>>),
}

impl Filter {
    fn new(entry: &FileEntry) -> Result<Self, StoreError> {
        Ok(match &entry.ignore {
            None => Self::All,
            Some(Ignore::Patterns { patterns, invert: false }) if patterns.is_empty() => Self::All,
            Some(Ignore::Patterns { patterns, invert }) => Self::Patterns {
                matcher: PatternMatcher::new(patterns)
                    .map_err(|error| StoreError::InvalidFileSet(error.to_string()))?,
                inverted: *invert,
            },
            Some(Ignore::Only { only }) => {
                let clean = |path: &String| path.trim_start_matches("./").as_bytes().to_vec();
                Self::Only(only.iter().map(clean).collect())
            }
        })
    }

    fn takes_file(&self, path: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Patterns { matcher, inverted } => matcher.matches(&String::from_utf8_lossy(path)) == *inverted,
            Self::Only(paths) => paths.contains(path),
        }
    }

    /// Whether something below a directory may be taken.
    fn enters(&self, path: &[u8]) -> bool {
        match self {
            Self::Patterns { matcher, inverted: false } => {
                !matcher.prunes() || !matcher.matches(&String::from_utf8_lossy(path))
            }
            _ => true,
        }
    }
}

/// A walk through one source directory.
struct Walk<'a> {
    source: &'a Path,
    target: Vec<u8>,
    filter: Filter,
    /// Device and inode of the directories that lead to the present one: a link to one of them is a loop.
    ancestors: Vec<(u64, u64)>,
    found: &'a mut Vec<LocalFile>,
    warnings: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn start(&mut self) -> Result<(), StoreError> {
        if let Filter::Only(paths) = &self.filter {
            let mut paths: Vec<Vec<u8>> = paths.iter().cloned().collect();
            paths.sort_unstable();
            return paths.into_iter().try_for_each(|path| self.take_listed(&path));
        }
        let directory = self.open(CWD, self.source.as_os_str().as_bytes(), b"")?;
        self.directory(&directory, b"")
    }

    /// Takes a file that was asked for by name.
    fn take_listed(&mut self, path: &[u8]) -> Result<(), StoreError> {
        let full = self.full(path);
        match rustix::fs::stat(&full) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => self.take(path, &stat),
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => Err(StoreError::NotFound(full)),
            Err(errno) => Err(StoreError::file("reading the status of", &full)(errno)),
        }
    }

    fn directory(&mut self, directory: &OwnedFd, path: &[u8]) -> Result<(), StoreError> {
        let stat = rustix::fs::fstat(directory).map_err(|errno| self.failed("reading the status of", path, errno))?;
        self.ancestors.push((stat.st_dev, stat.st_ino));
        let entries = Dir::read_from(directory).map_err(|errno| self.failed("listing", path, errno))?;
        for entry in entries {
            let entry = entry.map_err(|errno| self.failed("listing", path, errno))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                self.entry(directory, name, &beneath(path, name), entry.file_type())?;
            }
        }
        self.ancestors.pop();
        Ok(())
    }

    fn entry(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8], file_type: FileType) -> Result<(), StoreError> {
        if file_type == FileType::Directory {
            return self.enter(parent, name, path, false);
        }
        if file_type == FileType::RegularFile && !self.filter.takes_file(path) {
            return Ok(());
        }
        let flags = if file_type == FileType::RegularFile { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
        let stat = match rustix::fs::statat(parent, name, flags) {
            Ok(stat) => stat,
            // Gone since the directory was read, or a link to nowhere.
            Err(Errno::NOENT | Errno::LOOP) => {
                if file_type == FileType::Symlink && self.filter.takes_file(path) {
                    self.warn(path, "is a symbolic link to nothing");
                }
                return Ok(());
            }
            Err(errno) => return Err(self.failed("reading the status of", path, errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.enter(parent, name, path, file_type == FileType::Symlink),
            _ if !self.filter.takes_file(path) => Ok(()),
            FileType::RegularFile => self.take(path, &stat),
            _ => {
                self.warn(path, "is a pipe, socket or device");
                Ok(())
            }
        }
    }

    fn enter(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8], is_link: bool) -> Result<(), StoreError> {
        if !self.filter.enters(path) {
            return Ok(());
        }
        let directory = self.open(parent, name, path)?;
        if is_link {
            let stat =
                rustix::fs::fstat(&directory).map_err(|errno| self.failed("reading the status of", path, errno))?;
            if self.ancestors.contains(&(stat.st_dev, stat.st_ino)) {
                self.warn(path, "is a symbolic link to a directory that it is in");
                return Ok(());
            }
        }
        self.directory(&directory, path)
    }

    fn open(&self, parent: impl AsFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::empty())
            .map_err(|errno| self.failed("opening the directory", path, errno))
    }

    fn take(&mut self, path: &[u8], stat: &Stat) -> Result<(), StoreError> {
        if self.found.len() >= MAXIMUM_FILES {
            return Err(too_many(self.source));
        }
        let file =
            LocalFile { target: beneath(&self.target, path), source: self.full(path), status: Status::new(stat) };
        self.found.push(file);
        Ok(())
    }

    fn warn(&mut self, path: &[u8], why: &str) {
        let full = display(&self.full(path));
        self.warnings.push(format!("`{full}` was left out: it {why}"));
    }

    fn full(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.source.to_owned() } else { self.source.join(OsStr::from_bytes(path)) }
    }

    fn failed(&self, what: &'static str, path: &[u8], errno: Errno) -> StoreError {
        StoreError::file(what, &self.full(path))(errno)
    }
}

fn too_many(source: &Path) -> StoreError {
    let source = display(source);
    StoreError::InvalidFileSet(format!("`{source}` has more than {MAXIMUM_FILES} files: leave some out with `ignore`"))
}
