//! The files of a volume, of which no path leads out.
//!
//! What lies there was written by containers, and may be changed by them meanwhile. Every path is resolved by the kernel
//! beneath the volume's root: links that stay inside are followed, others are an error.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lamina_store::{JobError, WorkerContext};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, open, openat, openat2, statat};
use rustix::io::Errno;

use crate::catalogue::get;
use crate::error::{INVALID, NO_FILE};

/// The kernel asks to try again when something was renamed anywhere while it resolved `..`.
const MAXIMUM_ATTEMPTS: u32 = 64;
/// Directories below one another that are walked through.
pub(crate) const MAXIMUM_DEPTH: usize = 256;

/// The root of a volume's files.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
}

/// A path within a volume, without `.`, `..` or anything at its ends. Empty for the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inside(String);

impl fmt::Display for Inside {
    /// For messages: a container may have given a file any name, which must not speak to a terminal.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |letter: char| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter };
        formatter.write_str(&self.as_str().chars().map(shown).collect::<String>())
    }
}

impl Inside {
    /// The path that somebody has written, with or without a slash in front.
    pub(crate) fn new(path: &str) -> Result<Self, JobError> {
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") || path.contains('\0') {
            return Err(JobError::new(INVALID, format!("`{path}` leads out of the volume: write a path without `..`")));
        }
        Ok(Self(parts.join("/")))
    }

    /// The path, with a dot for the root.
    pub(crate) fn as_str(&self) -> &str {
        if self.0.is_empty() { "." } else { &self.0 }
    }

    /// The directory that it is in, and its name there; none for the root.
    pub(crate) fn split(&self) -> Option<(Self, &str)> {
        if self.0.is_empty() {
            return None;
        }
        Some(
            self.0
                .rsplit_once('/')
                .map_or_else(|| (Self(String::new()), &*self.0), |(parent, name)| (Self(parent.to_owned()), name)),
        )
    }

    /// A path below it.
    pub(crate) fn join(&self, name: &str) -> Self {
        Self(if self.0.is_empty() { name.to_owned() } else { format!("{}/{name}", self.0) })
    }
}

impl Tree {
    /// The files of the volume with this id.
    pub(crate) fn open(context: &WorkerContext, id: &str) -> Result<Self, JobError> {
        let (_, path) = get(context.content(), id)?;
        Self::at(&path.join("files"))
    }

    /// The files below a directory.
    pub(crate) fn at(path: &Path) -> Result<Self, JobError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: open(path, flags, Mode::empty()).map_err(JobError::file("opening", path))? })
    }

    /// Opens what is at a path.
    pub(crate) fn get(&self, path: &Inside, flags: OFlags) -> Result<OwnedFd, JobError> {
        self.resolve(path, flags).map_err(|errno| refused(path, errno))
    }

    /// A directory, which is made with those above it where it is missing.
    pub(crate) fn ensure_directory(&self, path: &Inside) -> Result<OwnedFd, JobError> {
        match self.resolve(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            found => return found.map_err(|errno| refused(path, errno)),
        }
        let Some((parent, name)) = path.split() else { return Err(refused(path, Errno::NOENT)) };
        let parent = self.ensure_directory(&parent)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => self.get(path, OFlags::PATH | OFlags::DIRECTORY),
            Err(errno) => Err(refused(path, errno)),
        }
    }

    /// What is at a path, links followed; `None` if there is nothing.
    pub(crate) fn look(&self, path: &Inside) -> Result<Option<Stat>, JobError> {
        match self.resolve(path, OFlags::PATH) {
            Err(Errno::NOENT) => Ok(None),
            found => found.and_then(|found| fstat(&found)).map(Some).map_err(|errno| refused(path, errno)),
        }
    }

    fn resolve(&self, path: &Inside, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // Nothing that a container has put there may keep anybody waiting, as a pipe would.
        let flags =
            flags | OFlags::CLOEXEC | if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK };
        let mut result = Err(Errno::AGAIN);
        for _ in 0..MAXIMUM_ATTEMPTS {
            result = openat2(&self.root, path.as_str(), flags, Mode::empty(), resolve);
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        result
    }
}

/// The entries of a directory by name, each as it is, links too.
pub(crate) fn entries(directory: impl AsFd) -> io::Result<Vec<(Vec<u8>, Stat)>> {
    let readable = openat(&directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut found = Vec::new();
    for entry in Dir::read_from(&readable)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        match statat(&readable, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => found.push((name.to_vec(), status)),
            // It was removed meanwhile.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

/// Makes sure that what is written reaches the disk.
pub(crate) fn synchronise(directory: &Path) -> Result<(), JobError> {
    let opened = rustix::fs::openat(CWD, directory, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(JobError::file("opening", directory))?;
    rustix::fs::syncfs(&opened).map_err(JobError::file("writing to the disk of", directory))
}

/// Why a path of a volume cannot be used.
pub(crate) fn refused(path: &Inside, errno: Errno) -> JobError {
    match errno {
        Errno::NOENT => JobError::new(NO_FILE, format!("there is no `{path}` in the volume")),
        Errno::XDEV => {
            JobError::new(INVALID, format!("`{path}` is or goes through a link that leads out of the volume"))
        }
        Errno::LOOP => JobError::new(INVALID, format!("the links at `{path}` lead in a circle")),
        Errno::NOTDIR => JobError::new(INVALID, format!("`{path}` is, or goes through, a file and not a directory")),
        Errno::NAMETOOLONG => JobError::new(INVALID, format!("`{path}` is longer than a path can be")),
        _ => JobError::image_file("using the volume's", Path::new(&path.to_string()))(errno),
    }
}

/// That a walk went deeper than is sensible.
pub(crate) fn too_deep(path: &Inside) -> JobError {
    JobError::new(
        INVALID,
        format!("`{path}` lies deeper than {MAXIMUM_DEPTH} directories: name one that is nearer to it"),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_are_taken_from_the_root_and_stay_there() {
        for (written, path) in [("", "."), ("/", "."), ("a", "a"), ("/a//b/./c/", "a/b/c")] {
            assert_eq!(Inside::new(written).unwrap().as_str(), path);
        }
        for written in ["..", "a/../b", "/../etc", "a\0"] {
            assert_eq!(Inside::new(written).unwrap_err().kind, INVALID);
        }
        assert_eq!(Inside::new("a/b").unwrap().split(), Some((Inside::new("a").unwrap(), "b")));
        assert_eq!(Inside::new("/").unwrap().split(), None);
        assert_eq!(Inside::new("a\u{1b}[2J").unwrap().to_string(), "a\u{fffd}[2J");
    }

    #[test]
    fn links_that_lead_out_are_refused_and_others_followed() {
        let directory = tempfile::tempdir().unwrap();
        let files = directory.path().join("files");
        fs_err::create_dir_all(files.join("deep/er")).unwrap();
        fs_err::write(directory.path().join("outside"), "secret").unwrap();
        fs_err::write(files.join("inside"), "x").unwrap();
        for (link, target) in [
            ("up", "../outside"),
            ("absolute", "/etc"),
            ("circle", "circle"),
            ("good", "deep/er"),
            ("proc", "/proc/self/root"),
        ] {
            symlink(target, files.join(link)).unwrap();
        }
        symlink("../../inside", files.join("deep/er/back")).unwrap();
        let tree = Tree::at(&files).unwrap();
        let kind = |path: &str| tree.get(&Inside::new(path).unwrap(), OFlags::RDONLY).err().map(|error| error.kind);
        for path in ["up", "absolute", "absolute/passwd", "circle", "proc/etc", "inside/x"] {
            assert_eq!(kind(path), Some(INVALID), "{path}");
        }
        assert_eq!(kind("nothing"), Some(NO_FILE));
        for path in ["inside", "good", "good/back", "deep/er/back"] {
            assert_eq!(kind(path), None, "{path}");
        }
        for path in ["up/x", "absolute/x"] {
            assert!(tree.ensure_directory(&Inside::new(path).unwrap()).is_err());
        }
        tree.ensure_directory(&Inside::new("good/new/one").unwrap()).unwrap();
        assert!(files.join("deep/er/new/one").is_dir());
    }
}
