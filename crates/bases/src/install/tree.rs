//! Writing into a root directory without ever leaving it.
//!
//! Parents are opened with the root as root (`RESOLVE_IN_ROOT`), so a symbolic link inside, hostile or merely absolute,
//! leads back inside; last components are never followed. Several threads may write into one root.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lamina_store::{JobError, Timestamp};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chmodat, chownat, fchmod,
    fchown, futimens, linkat, mkdirat, openat, openat2, readlinkat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::malformed;

/// Everything has the time that layers give to packages, so that times written into bytecode stay right.
const TIMES: Timestamps = {
    let time = Timespec { tv_sec: Timestamp::PACKAGE.seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
};

/// Mode of directories that nothing else is said about.
const DIRECTORY_MODE: u32 = 0o755;

/// Mode and owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Attributes {
    /// Of container root.
    pub(crate) fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }
}

/// A root directory. Remembers the parents it opened.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Arc<OwnedFd>,
    path: PathBuf,
    parents: HashMap<PathBuf, Arc<OwnedFd>>,
}

impl Tree {
    /// Opens a root directory.
    pub(crate) fn open(path: &Path) -> Result<Self, JobError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(JobError::file("opening", path))?;
        Ok(Self { root: Arc::new(root), path: path.to_owned(), parents: HashMap::new() })
    }

    /// Writes a file that is not there yet.
    pub(crate) fn write(
        &mut self,
        path: &Path,
        attributes: Attributes,
        contents: &mut dyn Read,
    ) -> Result<(), JobError> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&*parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(self.failed("creating", path))?;
        let mut file = File::from(file);
        std::io::copy(contents, &mut file).map_err(self.failed("writing", path))?;
        // Changing the owner clears set-id bits, so the mode comes second.
        fchown(&file, Some(owner(attributes)), Some(group(attributes))).map_err(self.failed("giving away", path))?;
        fchmod(&file, Mode::from_raw_mode(attributes.mode)).map_err(self.failed("changing the mode of", path))?;
        futimens(&file, &TIMES).map_err(self.failed("dating", path))
    }

    /// Writes a file as a whole, replacing one that is there.
    pub(crate) fn replace(&mut self, path: &Path, mode: u32, contents: &[u8]) -> Result<(), JobError> {
        self.remove(path)?;
        self.write(path, Attributes::root(mode), &mut &contents[..])
    }

    /// Makes a directory and its parents, unless something that leads to a directory is there.
    pub(crate) fn directory(&mut self, path: &Path) -> Result<(), JobError> {
        self.open_directory(path).map(drop)
    }

    /// Gives an existing directory its mode and owner.
    pub(crate) fn set_directory(&mut self, path: &Path, attributes: Attributes) -> Result<(), JobError> {
        let directory = self.open_directory(path)?;
        fchown(&*directory, Some(owner(attributes)), Some(group(attributes)))
            .map_err(self.failed("giving away", path))?;
        fchmod(&*directory, Mode::from_raw_mode(attributes.mode)).map_err(self.failed("changing the mode of", path))
    }

    /// Makes a symbolic link. The same link being there already is fine.
    pub(crate) fn symlink(&mut self, path: &Path, target: &OsStr, attributes: Attributes) -> Result<(), JobError> {
        let (parent, name) = self.parent(path)?;
        match symlinkat(target, &*parent, name) {
            Err(Errno::EXIST)
                if readlinkat(&*parent, name, Vec::new()).is_ok_and(|link| link.as_bytes() == target.as_bytes()) =>
            {
                return Ok(());
            }
            other => other.map_err(self.failed("linking", path))?,
        }
        chownat(&*parent, name, Some(owner(attributes)), Some(group(attributes)), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.failed("giving away", path))
    }

    /// Makes another name for a regular file.
    pub(crate) fn hard_link(&mut self, path: &Path, existing: &Path) -> Result<(), JobError> {
        let (from, from_name) = self.parent(existing)?;
        let status = statat(&*from, from_name, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed("finding", existing))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(malformed(
                &path.display().to_string(),
                format!("it is a hard link to `{}`, which is no regular file", existing.display()),
            ));
        }
        let (parent, name) = self.parent(path)?;
        linkat(&*from, from_name, &*parent, name, AtFlags::empty()).map_err(self.failed("linking", path))
    }

    /// The contents of a regular file; `None` if there is none.
    pub(crate) fn read(&mut self, path: &Path) -> Result<Option<Vec<u8>>, JobError> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match openat2(&*self.root, path, flags, Mode::empty(), how) {
            Ok(file) => {
                let mut contents = Vec::new();
                File::from(file).read_to_end(&mut contents).map_err(self.failed("reading", path))?;
                Ok(Some(contents))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("opening", path)(error)),
        }
    }

    /// Removes a file or link; none being there is fine.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), JobError> {
        let (parent, name) = self.parent(path)?;
        match unlinkat(&*parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("removing", path)(error)),
        }
    }

    /// The directory that something is in, and its name there.
    fn parent<'p>(&mut self, path: &'p Path) -> Result<(Arc<OwnedFd>, &'p OsStr), JobError> {
        let name = path.file_name().ok_or_else(|| malformed(&path.display().to_string(), "it has no name"))?;
        Ok((self.open_directory(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// Opens a directory, making what is missing of it.
    fn open_directory(&mut self, path: &Path) -> Result<Arc<OwnedFd>, JobError> {
        if path.as_os_str().is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(open) = self.parents.get(path) {
            return Ok(Arc::clone(open));
        }
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = match openat2(&*self.root, path, flags, Mode::empty(), how) {
            Err(Errno::NOENT) => {
                let (parent, name) = self.parent(path)?;
                match mkdirat(&*parent, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
                    // The umask is whatever the user's is.
                    Ok(()) => chmodat(&*parent, name, Mode::from_raw_mode(DIRECTORY_MODE), AtFlags::empty()),
                    Err(Errno::EXIST) => Ok(()),
                    Err(error) => Err(error),
                }
                .map_err(self.failed("making the directory", path))?;
                openat2(&*self.root, path, flags, Mode::empty(), how)
            }
            other => other,
        };
        let open = Arc::new(opened.map_err(self.failed("opening", path))?);
        self.parents.insert(path.to_owned(), Arc::clone(&open));
        Ok(open)
    }

    fn failed<E: Into<std::io::Error>>(&self, what: &str, path: &Path) -> impl FnOnce(E) -> JobError + use<E> {
        let (what, path) = (what.to_owned(), self.path.join(path));
        move |error| JobError::image_file(&what, &path)(error)
    }
}

fn owner(attributes: Attributes) -> Uid {
    Uid::from_raw(attributes.uid)
}

fn group(attributes: Attributes) -> Gid {
    Gid::from_raw(attributes.gid)
}

/// A path of an archive, relative to the root: without `./` at its start and slashes at its end.
pub(crate) fn relative(name: &[u8], archive: &str) -> Result<PathBuf, JobError> {
    let shown = || String::from_utf8_lossy(name).into_owned();
    if name.starts_with(b"/") {
        return Err(malformed(archive, format!("its entry `{}` has an absolute path", shown())));
    }
    let mut path = PathBuf::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                return Err(malformed(archive, format!("its entry `{}` leads out of the image", shown())));
            }
            _ if part.contains(&0) => {
                return Err(malformed(archive, format!("its entry `{}` has a zero byte", shown())));
            }
            _ => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}
