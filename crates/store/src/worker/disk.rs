//! System calls on layer content, with errors that say what was done to which file.
//!
//! Nothing here follows a symbolic link in the last part of a path. Callers walk: they have seen every earlier part to
//! be a directory, in a tree that nobody else changes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, IFlags, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::{JobError, Metadata, Timestamp};

pub(super) type Result<T> = std::result::Result<T, JobError>;

/// How everything is opened: what lies there may be anything.
const ON_CONTENT: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// `directory/path` for a path that is bytes.
pub(super) fn join(directory: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { directory.to_owned() } else { directory.join(OsStr::from_bytes(path)) }
}

/// A path that is bytes.
pub(super) fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

pub(super) fn stat(path: &Path) -> Result<Stat> {
    rustix::fs::lstat(path).map_err(JobError::file("reading the status of", path))
}

/// The status, or `None` when nothing is there.
pub(super) fn try_stat(path: &Path) -> Result<Option<Stat>> {
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(JobError::file("reading the status of", path)(errno)),
    }
}

/// As [`try_stat`], of what is at `path` below an opened directory; an empty path is that directory itself.
pub(super) fn try_stat_below(directory: &File, path: &[u8], root: &Path) -> Result<Option<Stat>> {
    match rustix::fs::statat(directory, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(JobError::file("reading the status of", &join(root, path))(errno)),
    }
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Permission bits, owner, group and time; the attributes are read separately.
pub(super) fn meta(stat: &Stat) -> Metadata {
    let modified = Timestamp {
        seconds: stat.st_mtime,
        // The kernel gives no others; the type differs between architectures.
        nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
    };
    Metadata { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, modified, xattrs: BTreeMap::new() }
}

/// The size, which the kernel reports as a signed number.
pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

/// Bytes that a file takes on the disk.
pub(super) fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}

/// Bytes that a file holds: its size, without the holes of one that is mostly made of them.
pub(super) fn held(stat: &Stat) -> u64 {
    if is_sparse(stat) { allocated(stat) } else { size(stat) }
}

/// Whether a file has holes that are worth it: it saves a mebibyte by them.
pub(super) fn is_sparse(stat: &Stat) -> bool {
    size(stat).saturating_sub(allocated(stat)) >= 1 << 20
}

/// The number of names, whose type differs between architectures.
pub(super) fn links(stat: &Stat) -> usize {
    usize::try_from(stat.st_nlink).unwrap_or(usize::MAX)
}

/// Opens for reading. Never blocks on a pipe and never takes a terminal.
pub(super) fn open(path: &Path) -> Result<File> {
    open_with(path, OFlags::RDONLY)
}

/// As [`open`], or `None` when nothing is there.
pub(super) fn try_open(path: &Path) -> Result<Option<File>> {
    match rustix::fs::open(path, OFlags::RDONLY | ON_CONTENT, Mode::empty()) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(JobError::file("opening", path)(errno)),
    }
}

/// What a file holds.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut open(path)?, &mut bytes).map_err(JobError::file("reading", path))?;
    Ok(bytes)
}

pub(super) fn open_directory(path: &Path) -> Result<File> {
    open_with(path, OFlags::RDONLY | OFlags::DIRECTORY)
}

pub(super) fn open_with(path: &Path, flags: OFlags) -> Result<File> {
    rustix::fs::open(path, flags | ON_CONTENT, Mode::empty()).map(File::from).map_err(JobError::file("opening", path))
}

/// Makes a new file that only the worker can use.
pub(super) fn create(path: &Path) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map(File::from).map_err(JobError::file("creating", path))
}

/// Names in a directory with their types as far as the filesystem tells, in no order.
pub(super) fn list(path: &Path) -> Result<Vec<(Vec<u8>, FileType)>> {
    names(&open_directory(path)?, path)
}

fn names(directory: &File, path: &Path) -> Result<Vec<(Vec<u8>, FileType)>> {
    let entries = rustix::fs::Dir::read_from(directory).map_err(JobError::file("listing", path))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(JobError::file("listing", path))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(names)
}

/// The names in a directory, each with its status.
pub(super) fn list_with_status(path: &Path) -> Result<Vec<(Vec<u8>, Stat)>> {
    let directory = open_directory(path)?;
    let status = |(name, _): (Vec<u8>, FileType)| {
        let stat = rustix::fs::statat(&directory, &name[..], AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| JobError::file("reading the status of", &join(path, &name))(errno))?;
        Ok((name, stat))
    };
    names(&directory, path)?.into_iter().map(status).collect()
}

/// Makes a directory with exactly this mode; an existing one is left as it is.
pub(super) fn make_directory(path: &Path, mode: u32) -> Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) => change_mode(path, mode),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(JobError::file("creating the directory", path)(errno)),
    }
}

/// As [`make_directory`], in a part of the disk that is chosen by its name, where the file system is an ext4. One without a
/// journal looks, for every new file, at all that were removed from the same part in the last minutes: after a large removal,
/// an install of 20,000 files would take ten seconds instead of half a one.
pub(super) fn make_directory_apart(path: &Path, mode: u32) -> Result<()> {
    // Other file systems know no such mark, and need none.
    let parent = path.parent().and_then(|parent| open_directory(parent).ok());
    let flags = parent.as_ref().and_then(|parent| rustix::fs::ioctl_getflags(parent).ok());
    let mark = |is_set| {
        if let (Some(parent), Some(mut flags)) = (&parent, flags) {
            flags.set(IFlags::TOPDIR, is_set);
            let _ = rustix::fs::ioctl_setflags(parent, flags);
        }
    };
    mark(true);
    let made = make_directory(path, mode);
    mark(false);
    made
}

/// Sets permission bits of something that is no symbolic link.
pub(super) fn change_mode(path: &Path, mode: u32) -> Result<()> {
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
        .map_err(JobError::file("changing the mode of", path))
}

/// Sets the owner if it is not the wanted one already.
pub(super) fn change_owner(path: &Path, meta: &Metadata) -> Result<()> {
    let stat = stat(path)?;
    if (stat.st_uid, stat.st_gid) == (meta.uid, meta.gid) {
        return Ok(());
    }
    let owner = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
    rustix::fs::chownat(CWD, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(JobError::file("changing the owner of", path))
}

pub(super) fn hard_link(from: &Path, to: &Path) -> std::result::Result<(), Errno> {
    rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty())
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::rename(from, to).map_err(JobError::file("renaming to", to))
}

/// Renames a file unless `to` exists; false when it does.
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<bool> {
    let renamed = match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The filesystem cannot do it in one step; links are as atomic.
        Err(Errno::INVAL | Errno::NOSYS) => hard_link(from, to).and_then(|()| rustix::fs::unlink(from)),
        other => other,
    };
    match renamed {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(JobError::file("renaming to", to)(errno)),
    }
}

/// Renames a directory unless something is there already; false then.
pub(super) fn rename_directory(from: &Path, to: &Path) -> Result<bool> {
    match rustix::fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
        Err(errno) => Err(JobError::file("renaming to", to)(errno)),
    }
}

/// Removes something that is no directory; that nothing is there is fine.
pub(super) fn unlink(path: &Path) -> Result<()> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(JobError::file("removing", path)(errno)),
    }
}

/// A modification time as the kernel takes it, with the time of the last access, which nobody keeps, set to the same.
fn times(modified: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets the modification time of a path; of symbolic links themselves, not of what they point to.
pub(super) fn set_time(path: &Path, modified: Timestamp) -> Result<()> {
    rustix::fs::utimensat(CWD, path, &times(modified), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(JobError::file("setting the time of", path))
}

/// Sets the modification time of an open file.
pub(super) fn set_file_time(file: impl AsFd, modified: Timestamp, path: &Path) -> Result<()> {
    rustix::fs::futimens(file, &times(modified)).map_err(JobError::file("setting the time of", path))
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    rustix::fs::fsync(open_directory(path)?).map_err(JobError::file("syncing", path))
}

/// Makes everything on the filesystem of `path` durable.
pub(super) fn sync_filesystem(path: &Path) -> Result<()> {
    rustix::fs::syncfs(open_directory(path)?).map_err(JobError::file("syncing", path))
}
