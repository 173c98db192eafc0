//! Listing, reading and removing files of a volume.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;

use lamina_ground::Subject;
use lamina_store::{Job, JobError, JobTable, WorkerContext};
use rustix::fs::{FileType, Mode, OFlags, RenameFlags, Stat, fstat, openat, renameat_with, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::catalogue::get;
use crate::error::{DIRECTORY, INVALID, NO_FILE};
use crate::sparse;
use crate::tree::{Inside, MAXIMUM_DEPTH, Tree, entries, refused, synchronise, too_deep};

/// A file of a volume, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path from the volume's root.
    pub path: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EntryKind,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
    /// Its size in bytes.
    pub size: u64,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A file with contents.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A device or anything else.
    Other,
}

/// Lists what is at a path: a directory's entries, or the file itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListFiles {
    pub(crate) volume: String,
    pub(crate) path: String,
    /// Whether directories below it are listed, too.
    pub(crate) recursive: bool,
}

/// Writes a file's contents to the descriptor that comes along; gives its size.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReadFile {
    pub(crate) volume: String,
    pub(crate) path: String,
}

/// Removes a file, or a directory with all that it holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RemoveFile {
    pub(crate) volume: String,
    pub(crate) path: String,
    /// Whether it may be a directory.
    pub(crate) recursive: bool,
}

/// Makes a directory, if it is missing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MakeDirectory {
    pub(crate) volume: String,
    pub(crate) path: String,
}

/// Has what was written to a volume reach the disk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CommitVolume {
    pub(crate) volume: String,
}

pub(crate) fn jobs(table: JobTable) -> JobTable {
    table
        .register::<ListFiles>()
        .register::<ReadFile>()
        .register::<RemoveFile>()
        .register::<MakeDirectory>()
        .register::<CommitVolume>()
}

fn entry(path: &Inside, status: &Stat) -> Entry {
    let kind = match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket => EntryKind::Socket,
        _ => EntryKind::Other,
    };
    #[expect(clippy::cast_sign_loss, reason = "no size is negative")]
    let size = status.st_size as u64;
    Entry { path: path.as_str().to_owned(), kind, mtime: status.st_mtime, size }
}

fn is_directory(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode).is_dir()
}

impl Job for ListFiles {
    const NAME: &'static str = "volumes.list_files";
    type Output = Vec<Entry>;

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<Vec<Entry>, JobError> {
        let tree = Tree::open(context, &self.volume)?;
        let path = Inside::new(&self.path)?;
        let status = tree.look(&path)?.ok_or_else(|| refused(&path, Errno::NOENT))?;
        if !is_directory(&status) {
            return Ok(vec![entry(&path, &status)]);
        }
        let mut listing = Listing { recursive: self.recursive, listed: Vec::new(), size: 0 };
        listing.add(&tree.get(&path, OFlags::PATH | OFlags::DIRECTORY)?, &path, 0)?;
        Ok(listing.listed)
    }
}

/// Most bytes that a listing may have as a message: a container can make any number of files.
const LARGEST_LISTING: usize = 32 << 20;
/// At most so many bytes of a message are an entry beside its path.
const ENTRY_SIZE: usize = 128;

/// A listing that is being made.
struct Listing {
    recursive: bool,
    listed: Vec<Entry>,
    /// Its size as a message, in bytes.
    size: usize,
}

impl Listing {
    fn put(&mut self, path: &Inside, status: &Stat) -> Result<(), JobError> {
        let escaped = |letter: char| if letter < ' ' || matches!(letter, '"' | '\\') { 6 } else { letter.len_utf8() };
        self.size += ENTRY_SIZE + path.as_str().chars().map(escaped).sum::<usize>();
        if self.size > LARGEST_LISTING {
            let message =
                format!("there is more to list than can be told at once, up to `{path}`: list a directory in it");
            return Err(JobError::new(INVALID, message));
        }
        self.listed.push(entry(path, status));
        Ok(())
    }

    /// Adds what is in a directory.
    fn add(&mut self, directory: &OwnedFd, path: &Inside, depth: usize) -> Result<(), JobError> {
        if depth > MAXIMUM_DEPTH {
            return Err(too_deep(path));
        }
        for (name, status) in entries(directory).map_err(|error| failed(path, &error))? {
            let below = path.join(&String::from_utf8_lossy(&name));
            self.put(&below, &status)?;
            if self.recursive && is_directory(&status) {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(directory, name.as_slice(), flags, Mode::empty()) {
                    Ok(opened) => self.add(&opened, &below, depth + 1)?,
                    // It has become something else meanwhile.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(errno) => return Err(refused(&below, errno)),
                }
            }
        }
        Ok(())
    }
}

/// Why a file did not get out of the volume. A disk that is full is the one that it goes to.
fn not_copied(path: &Inside, error: &std::io::Error) -> JobError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge | ErrorKind::BrokenPipe => {
            JobError::refused(Subject::Local, format!("the volume's `{path}` cannot be written there: {error}"), error)
        }
        _ => failed(path, error),
    }
}

pub(crate) fn failed(path: &Inside, error: &std::io::Error) -> JobError {
    JobError::refused(Subject::Store, format!("using the volume's `{path}` failed: {error}"), error)
}

/// Opens a file with contents for reading.
pub(crate) fn open_file(tree: &Tree, path: &Inside) -> Result<(File, Stat), JobError> {
    let opened = match tree.get(path, OFlags::RDONLY) {
        // A socket cannot be opened.
        Err(error) if tree.look(path)?.is_none_or(|status| is_regular(&status)) => return Err(error),
        Err(_) => return Err(no_contents(path)),
        Ok(opened) => opened,
    };
    let status = fstat(&opened).map_err(|errno| refused(path, errno))?;
    if is_regular(&status) { Ok((File::from(opened), status)) } else { Err(no_contents(path)) }
}

fn is_regular(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode).is_file()
}

fn no_contents(path: &Inside) -> JobError {
    JobError::new(INVALID, format!("`{path}` of the volume is no file with contents"))
}

impl Job for ReadFile {
    const NAME: &'static str = "volumes.read";
    type Output = u64;

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<u64, JobError> {
        let path = Inside::new(&self.path)?;
        let (mut file, _) = open_file(&Tree::open(context, &self.volume)?, &path)?;
        let target = fds.into_iter().next().ok_or_else(|| JobError::new(JobError::STORE, "nothing to write to"))?;
        sparse::copy(&mut file, &mut File::from(target)).map_err(|error| not_copied(&path, &error))
    }
}

impl Job for RemoveFile {
    const NAME: &'static str = "volumes.remove";
    type Output = ();

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        let (_, directory) = get(context.content(), &self.volume)?;
        let tree = Tree::open(context, &self.volume)?;
        let path = Inside::new(&self.path)?;
        let Some((parent, name)) = path.split() else {
            let message = "the root of a volume cannot be removed: remove what is in it, or the volume";
            return Err(JobError::new(INVALID, message));
        };
        let parent = tree.get(&parent, OFlags::PATH | OFlags::DIRECTORY)?;
        // A link itself goes, and not what it leads to.
        let status =
            statat(&parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| refused(&path, errno))?;
        if is_directory(&status) && !self.recursive {
            let message = format!("`{path}` is a directory: say that it is to be removed with all that it holds");
            return Err(JobError::new(DIRECTORY, message));
        }
        // First out of sight as a whole.
        let away = context.temporary_path();
        renameat_with(&parent, name, rustix::fs::CWD, &away, RenameFlags::empty())
            .map_err(|errno| refused(&path, errno))?;
        context.remove(&away)?;
        synchronise(&directory)
    }
}

impl Job for MakeDirectory {
    const NAME: &'static str = "volumes.make_directory";
    type Output = ();

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        let path = Inside::new(&self.path)?;
        Tree::open(context, &self.volume)?.ensure_directory(&path).map(drop)
    }
}

impl Job for CommitVolume {
    const NAME: &'static str = "volumes.commit";
    type Output = ();

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        match get(context.content(), &self.volume) {
            // One that was deleted meanwhile has nothing to keep.
            Err(error) if error.kind == crate::error::NO_VOLUME || error.kind == NO_FILE => Ok(()),
            found => synchronise(&found?.1),
        }
    }
}
