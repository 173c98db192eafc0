//! Writing into an upper directory without ever leaving it, as overlays keep such directories.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use lamina_store::{JobError, JobErrorKind, Timestamp};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    fchmod, fchown, fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;

/// Kind of a [`JobError`]: something of the image belongs to somebody whom the store has no id for.
pub(crate) const STRANGER: JobErrorKind = JobErrorKind::new("registry-stranger");
/// Kind of a [`JobError`]: something of the image has no place where it is to be.
pub(crate) const MISPLACED: JobErrorKind = JobErrorKind::new("registry-misplaced");
/// Kind of a [`JobError`]: what a file is to hold cannot be read.
pub(crate) const UNREAD: JobErrorKind = JobErrorKind::new("registry-unread");
/// What the kernel says to what has no place, whatever the disk.
const NO_PLACE: [Errno; 6] = [Errno::NOTDIR, Errno::LOOP, Errno::NAMETOOLONG, Errno::EXIST, Errno::NOENT, Errno::ISDIR];
/// Most bytes of a path that are shown.
const SHOWN_LENGTH: usize = 300;
/// Mode of directories that nothing else is said about.
const DIRECTORY_MODE: u32 = 0o755;
/// Runs of zeros that are as long become holes.
const HOLE_LENGTH: usize = 64 << 10;
/// Bytes that are written at once: file systems keep a file's pages in groups of those that came together.
const WRITE_LENGTH: usize = 256 << 10;
/// The prefix of an overlay's own marks, and of attributes inside that look like them.
const MARK: &str = "user.overlay.";
const ESCAPED: &str = "user.overlay.overlay.";
const OPAQUE: &str = "user.overlay.opaque";

/// What a file has beside its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// When it was changed, in seconds since 1970, and nanoseconds.
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: i64,
    /// Extended attributes.
    pub(crate) extended: Vec<(String, Vec<u8>)>,
}

impl Attributes {
    /// Those of something on the disk, but for extended ones.
    pub(crate) fn of(status: &Metadata) -> Self {
        Self {
            mode: status.mode() & 0o7777,
            uid: status.uid(),
            gid: status.gid(),
            seconds: status.mtime(),
            nanoseconds: status.mtime_nsec(),
            extended: Vec::new(),
        }
    }

    /// Those of an image's root of which nothing is said: a fixed time, so that it does not depend on when it was made.
    pub(crate) fn of_root() -> Self {
        let Timestamp { seconds, nanoseconds } = Timestamp::PACKAGE;
        Self { mode: 0o755, uid: 0, gid: 0, seconds, nanoseconds: nanoseconds.into(), extended: Vec::new() }
    }

    fn mode(&self) -> Mode {
        Mode::from_raw_mode(self.mode)
    }

    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }

    fn times(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.seconds, tv_nsec: self.nanoseconds };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// What becomes of long runs of zeros in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holes {
    Written,
    Kept,
}

/// Copies what a file holds, in pieces of a buffer's length; zeros that fill one become a hole if `holes` says so. `wrote` says
/// why something cannot be written.
fn copy(
    contents: &mut dyn Read,
    file: &File,
    holes: Holes,
    buffer: &mut [u8],
    wrote: impl Fn(std::io::Error) -> JobError,
) -> Result<(), JobError> {
    let mut length = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match contents.read(&mut buffer[filled..]).map_err(|error| JobError::new(UNREAD, error.to_string()))? {
                0 => break,
                count => filled += count,
            }
        }
        if holes == Holes::Written || buffer[..filled].iter().any(|byte| *byte != 0) {
            file.write_all_at(&buffer[..filled], length).map_err(&wrote)?;
        }
        length += filled as u64;
        if filled < buffer.len() {
            return if holes == Holes::Kept { file.set_len(length).map_err(&wrote) } else { Ok(()) };
        }
    }
}

/// An upper directory.
pub(crate) struct Tree {
    root: OwnedFd,
    path: PathBuf,
    buffer: RefCell<Vec<u8>>,
    /// The directory of what was made last, by its path: the next is often beside it. It is another one only once something
    /// was removed.
    last: RefCell<Option<(PathBuf, Rc<OwnedFd>)>>,
}

impl Tree {
    /// Opens an upper directory.
    pub(crate) fn open(path: &Path) -> Result<Self, JobError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(JobError::file("opening", path))?;
        let buffer = RefCell::new(vec![0; WRITE_LENGTH]);
        Ok(Self { root, path: path.to_owned(), buffer, last: RefCell::default() })
    }

    /// Writes a file, in the place of whatever is there, and answers its inode.
    pub(crate) fn file(
        &self,
        path: &Path,
        attributes: &Attributes,
        contents: &mut dyn Read,
        holes: Holes,
    ) -> Result<u64, JobError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Mostly nothing is left to change then.
        let mode = Mode::from_raw_mode(attributes.mode & 0o777);
        let create = |parent: &OwnedFd, name: &OsStr| openat(parent, name, flags, mode);
        let file = File::from(self.make(path, "creating", create)?);
        let mut buffer = self.buffer.borrow_mut();
        let length = if holes == Holes::Kept { HOLE_LENGTH } else { buffer.len() };
        copy(contents, &file, holes, &mut buffer[..length], |error| self.failed("writing", path)(error))?;
        self.set(&file, path, attributes)
    }

    /// Makes a directory, in the place of whatever else is there.
    pub(crate) fn directory(&self, path: &Path) -> Result<(), JobError> {
        if path.as_os_str().is_empty() || self.is_directory(path)? {
            return Ok(());
        }
        self.make(path, "making the directory", Self::make_directory)
    }

    /// Gives a directory what it has beside its contents.
    pub(crate) fn set_directory(&self, path: &Path, attributes: &Attributes) -> Result<(), JobError> {
        let directory = self.open_directory(path)?;
        self.set(&directory, path, attributes).map(drop)
    }

    /// Makes a symbolic link, in the place of whatever is there.
    pub(crate) fn symlink(&self, path: &Path, target: &OsStr, attributes: &Attributes) -> Result<(), JobError> {
        self.make(path, "linking", |parent, name| symlinkat(target, parent, name))?;
        self.set_unopened(path, attributes)
    }

    /// Makes a named pipe, in the place of whatever is there.
    pub(crate) fn pipe(&self, path: &Path, attributes: &Attributes) -> Result<(), JobError> {
        self.make(path, "creating", |parent, name| mknodat(parent, name, FileType::Fifo, Mode::RUSR, 0))?;
        self.set_unopened(path, attributes)?;
        let (parent, name) = self.place(path)?;
        chmodat(&*parent, name, attributes.mode(), AtFlags::empty()).map_err(self.failed("changing the mode of", path))
    }

    /// Makes another name of what is at `existing`; false if nothing is there.
    pub(crate) fn hard_link(&self, path: &Path, existing: &Path) -> Result<bool, JobError> {
        let Some(existing_name) = existing.file_name() else { return Ok(false) };
        let from = self.open_directory(existing.parent().unwrap_or(Path::new("")))?;
        let Ok(status) = statat(&from, existing_name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(false) };
        if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
            return Ok(false);
        }
        if path == existing {
            return Ok(true);
        }
        let link = |parent: &OwnedFd, name: &OsStr| linkat(&from, existing_name, parent, name, AtFlags::empty());
        self.make(path, "linking", link)?;
        Ok(true)
    }

    /// Marks something as deleted.
    pub(crate) fn delete(&self, path: &Path) -> Result<(), JobError> {
        self.make(path, "deleting", |parent, name| mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0))
    }

    /// Marks a directory as one of which the layers below have nothing.
    pub(crate) fn set_opaque(&self, path: &Path) -> Result<(), JobError> {
        let directory = self.open_directory(path)?;
        fsetxattr(&directory, OPAQUE, b"y", XattrFlags::empty()).map_err(self.failed("marking", path))
    }

    /// Whether anything is there, be it a link.
    pub(crate) fn exists(&self, path: &Path) -> Result<bool, JobError> {
        Ok(self.kind(path)?.is_some())
    }

    /// Whether a directory is there.
    pub(crate) fn is_directory(&self, path: &Path) -> Result<bool, JobError> {
        Ok(self.kind(path)? == Some(FileType::Directory))
    }

    fn kind(&self, path: &Path) -> Result<Option<FileType>, JobError> {
        let Some(name) = path.file_name() else { return Ok(Some(FileType::Directory)) };
        let parent = self.open_directory(path.parent().unwrap_or(Path::new("")))?;
        match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => Ok(Some(FileType::from_raw_mode(status.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("looking at", path)(errno)),
        }
    }

    /// Removes whatever is at a path, and answers the directory that it was in.
    pub(crate) fn vacate(&self, path: &Path) -> Result<Rc<OwnedFd>, JobError> {
        let (parent, name) = self.place(path)?;
        match statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            _ => self.remove(&parent, name, path)?,
        }
        Ok(parent)
    }

    /// Makes something, in the place of whatever is there.
    fn make<T>(
        &self,
        path: &Path,
        what: &str,
        make: impl Fn(&OwnedFd, &OsStr) -> rustix::io::Result<T>,
    ) -> Result<T, JobError> {
        let (parent, name) = self.place(path)?;
        let made = match make(&parent, name) {
            Err(Errno::EXIST) => {
                self.remove(&parent, name, path)?;
                make(&parent, name)
            }
            made => made,
        };
        made.map_err(self.failed(what, path))
    }

    /// The directory that something is in, and its name there.
    fn place<'p>(&self, path: &'p Path) -> Result<(Rc<OwnedFd>, &'p OsStr), JobError> {
        let name = path.file_name().ok_or_else(|| self.failed("replacing", path)(Errno::INVAL))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Some((known, directory)) = &*self.last.borrow()
            && known.as_os_str() == parent.as_os_str()
        {
            return Ok((Rc::clone(directory), name));
        }
        let directory = Rc::new(self.open_directory(parent)?);
        *self.last.borrow_mut() = Some((parent.to_owned(), Rc::clone(&directory)));
        Ok((directory, name))
    }

    /// Removes what is in the way.
    fn remove(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), JobError> {
        *self.last.borrow_mut() = None;
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => self.clear(parent, name, path),
            Err(errno) => Err(self.failed("removing", path)(errno)),
        }
    }

    /// Removes a directory and what it holds.
    fn clear(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), JobError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(parent, name, flags, Mode::empty()).map_err(self.failed("opening", path))?;
        let entries = rustix::fs::Dir::read_from(&directory).map_err(self.failed("listing", path))?;
        for entry in entries {
            let entry = entry.map_err(self.failed("listing", path))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let name = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name.to_bytes());
            match unlinkat(&directory, name, AtFlags::empty()) {
                Ok(()) => {}
                Err(_) => self.clear(&directory, name, &path.join(name))?,
            }
        }
        unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(self.failed("removing", path))
    }

    /// Opens a directory, making what is missing of it.
    fn open_directory(&self, path: &Path) -> Result<OwnedFd, JobError> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let whole = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let opened = match openat2(&self.root, whole, flags, Mode::empty(), how) {
            Err(Errno::NOENT) => {
                let name = path.file_name().ok_or_else(|| self.failed("opening", path)(Errno::NOENT))?;
                let parent = self.open_directory(path.parent().unwrap_or(Path::new("")))?;
                Self::make_directory(&parent, name).map_err(self.failed("making the directory", path))?;
                openat2(&self.root, whole, flags, Mode::empty(), how)
            }
            other => other,
        };
        opened.map_err(self.failed("opening", path))
    }

    fn make_directory(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(DIRECTORY_MODE);
        mkdirat(parent, name, mode)?;
        // The umask is whatever the user's is.
        chmodat(parent, name, mode, AtFlags::empty())
    }

    /// Gives something what it has beside its contents, and answers its inode.
    fn set(&self, file: impl AsFd, path: &Path, attributes: &Attributes) -> Result<u64, JobError> {
        let status = fstat(&file).map_err(self.failed("reading the status of", path))?;
        // Each change is an inode to write. That of the owner clears set-id bits and capabilities, so these come later.
        if (status.st_uid, status.st_gid) != (attributes.uid, attributes.gid) {
            let (owner, group) = attributes.owner();
            fchown(&file, owner, group).map_err(self.not_given(path, attributes))?;
        }
        if status.st_mode & 0o7777 != attributes.mode {
            fchmod(&file, attributes.mode()).map_err(self.failed("changing the mode of", path))?;
        }
        for (name, value) in &attributes.extended {
            let name = name.strip_prefix(MARK).map_or_else(|| name.clone(), |rest| format!("{ESCAPED}{rest}"));
            match fsetxattr(&file, &*name, value, XattrFlags::empty()) {
                // Not every filesystem has them.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(self.failed("setting an attribute of", path)(errno)),
            }
        }
        futimens(&file, &attributes.times()).map_err(self.failed("dating", path))?;
        Ok(status.st_ino)
    }

    /// The same for what cannot be opened, but for its mode.
    fn set_unopened(&self, path: &Path, attributes: &Attributes) -> Result<(), JobError> {
        let (parent, name) = self.place(path)?;
        let (owner, group) = attributes.owner();
        chownat(&*parent, name, owner, group, AtFlags::SYMLINK_NOFOLLOW).map_err(self.not_given(path, attributes))?;
        utimensat(&*parent, name, &attributes.times(), AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed("dating", path))
    }

    /// Why something could not get its owner: the kernel knows no ids that the store does not have.
    fn not_given(&self, path: &Path, attributes: &Attributes) -> impl FnOnce(Errno) -> JobError + use<> {
        let failed = self.failed("giving away", path);
        let message = format!(
            "`/{}` belongs to user {} and group {}, and this store does not have both ids",
            path.display(),
            attributes.uid,
            attributes.gid
        );
        move |errno| if errno == Errno::INVAL { JobError::new(STRANGER, message) } else { failed(errno) }
    }

    fn failed<E: Into<std::io::Error>>(&self, what: &str, path: &Path) -> impl FnOnce(E) -> JobError + use<E> {
        let (what, entry, path) = (what.to_owned(), shown(path), self.path.join(path));
        move |error| {
            let error = error.into();
            if Errno::from_io_error(&error).is_some_and(|errno| NO_PLACE.contains(&errno)) {
                return JobError::new(MISPLACED, format!("{what} `/{entry}` failed: {error}"));
            }
            JobError::image_file(&what, &path)(error)
        }
    }
}

/// A path for messages: of one that is too long, its beginning.
pub(crate) fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if text.len() <= SHOWN_LENGTH {
        return text;
    }
    format!("{}…", &text[..text.floor_char_boundary(SHOWN_LENGTH)])
}
