//! The files of an image that is a directory or an archive.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::archive::{Archive, is_compressed};

/// The name of an archive in itself.
pub(super) const WHOLE: &str = "";

/// A reader of a file, with its length.
pub(super) type Reader<'a> = (u64, Box<dyn Read + 'a>);

/// The files of an image.
pub(super) enum Files {
    Directory(PathBuf),
    Archive(Archive),
}

impl Files {
    /// Opens a directory or an archive; `None` if it is one that is compressed, and cannot be read in any order.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Ok(Some(Self::Directory(path.to_owned())));
        }
        if !metadata.is_file() {
            return Err(io::Error::other("it is neither a file nor a directory"));
        }
        if is_compressed(&file)? {
            return Ok(None);
        }
        Self::of_archive(file).map(Some)
    }

    /// The files of an archive that is not compressed.
    pub(super) fn of_archive(file: File) -> io::Result<Self> {
        if is_compressed(&file)? {
            return Err(io::Error::other("it is compressed more than once"));
        }
        Ok(Self::Archive(Archive::read(file)?))
    }

    /// Whether there is a file.
    pub(super) fn has(&self, name: &str) -> bool {
        matches!(self.get(name), Ok(Some(_)))
    }

    /// Opens a file. Links lead to files of the directory's machine, as for whoever else reads it, or of the archive.
    pub(super) fn get(&self, name: &str) -> io::Result<Option<Reader<'_>>> {
        match self {
            Self::Archive(archive) if name == WHOLE => Ok(Some(archive.whole())),
            Self::Archive(archive) => archive.get(name),
            Self::Directory(directory) => match open(&directory.join(name)) {
                Ok(file) => {
                    let metadata = file.metadata()?;
                    if !metadata.is_file() {
                        return Err(io::Error::other(format!("`{name}` is no regular file")));
                    }
                    Ok(Some((metadata.len(), Box::new(file))))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    /// The contents of a small file.
    pub(super) fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some((length, mut reader)) = self.get(name)? else { return Ok(None) };
        if length > limit {
            return Err(io::Error::other(format!("`{name}` has {length} bytes, and at most {limit} are taken")));
        }
        let mut bytes = Vec::new();
        reader.by_ref().take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Whether it is an archive without entries.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Archive(archive) if archive.is_empty())
    }
}

/// Opens whatever is there; a pipe without a writer is no reason to wait.
fn open(path: &Path) -> io::Result<File> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?.into())
}
