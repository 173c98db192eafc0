//! Archives whose entries are read in any order.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tar::EntryType;

use super::files::Reader;
use super::inside;
use crate::unpack::Compression;

/// Most bytes that may describe one entry.
const HEADERS_LIMIT: u64 = 4 << 20;
/// Most links on the way to a file.
const MOST_LINKS: usize = 8;
/// Beginnings of compressed files that images are kept in.
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const XZ: &[u8] = b"\xfd7zXZ\0";
const BZIP2: &[u8] = b"BZh";

enum Entry {
    File { begin: u64, length: u64 },
    Link(PathBuf),
    Other,
}

/// An archive whose entries are known.
pub(super) struct Archive {
    file: File,
    length: u64,
    is_empty: bool,
    entries: BTreeMap<PathBuf, Entry>,
}

/// How something is compressed, by how it begins.
pub(super) fn compression(beginning: &[u8]) -> io::Result<Compression> {
    match beginning {
        bytes if bytes.starts_with(GZIP) => Ok(Compression::Gzip),
        bytes if bytes.starts_with(ZSTD) => Ok(Compression::Zstd),
        bytes if bytes.starts_with(XZ) => {
            Err(io::Error::other("it is compressed with xz: unpack it with `xz -d` first"))
        }
        bytes if bytes.starts_with(BZIP2) => {
            Err(io::Error::other("it is compressed with bzip2: unpack it with `bzip2 -d` first"))
        }
        _ => Ok(Compression::None),
    }
}

pub(super) fn is_compressed(file: &File) -> io::Result<bool> {
    let mut beginning = [0; 8];
    let count = file.read_at(&mut beginning, 0)?;
    Ok(compression(&beginning[..count])? != Compression::None)
}

/// What a compressed file holds.
pub(super) fn decompressed(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = fs_err::File::open(path)?.into_file();
    let mut beginning = [0; 8];
    let count = file.read_at(&mut beginning, 0)?;
    Ok(crate::out::decompressed(file, compression(&beginning[..count])?)?)
}

impl Archive {
    /// Reads which entries there are; of several with one name the last one counts.
    pub(super) fn read(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let left = Rc::new(Cell::new(HEADERS_LIMIT));
        let mut reader = &file;
        reader.seek(SeekFrom::Start(0))?;
        let mut archive = tar::Archive::new(Headers { file: reader, left: Rc::clone(&left) });
        let (mut entries, mut is_empty) = (BTreeMap::new(), true);
        for entry in archive.entries_with_seek()? {
            let entry = entry.map_err(|error| unreadable(error, is_empty))?;
            is_empty = false;
            left.set(HEADERS_LIMIT);
            let Some(path) = inside(&entry.path()?) else { continue };
            let known = match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    let (begin, size) = (entry.raw_file_position(), entry.size());
                    if begin.saturating_add(size) > length {
                        return Err(io::Error::other(format!(
                            "it ends in the middle of `{}`: it was not written or copied to its end",
                            path.display()
                        )));
                    }
                    Entry::File { begin, length: size }
                }
                kind @ (EntryType::Symlink | EntryType::Link) => {
                    let target = entry.link_name()?.unwrap_or_default().into_owned();
                    let parent = path.parent().filter(|_| kind == EntryType::Symlink).unwrap_or(Path::new(""));
                    inside(&parent.join(target)).map_or(Entry::Other, Entry::Link)
                }
                _ => Entry::Other,
            };
            entries.insert(path, known);
        }
        Ok(Self { file, length, is_empty, entries })
    }

    /// Opens a file.
    pub(super) fn get(&self, name: &str) -> io::Result<Option<Reader<'_>>> {
        let mut path = PathBuf::from(name);
        for _ in 0..MOST_LINKS {
            match self.entries.get(&path) {
                None => return Ok(None),
                Some(Entry::Link(target)) => path.clone_from(target),
                Some(Entry::File { begin, length }) => return Ok(Some(self.part(*begin, *length))),
                Some(Entry::Other) => break,
            }
        }
        Err(io::Error::other(format!("`{name}` is no regular file in it")))
    }

    /// Whether it has no entries.
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// All of it.
    pub(super) fn whole(&self) -> Reader<'_> {
        self.part(0, self.length)
    }

    fn part(&self, begin: u64, length: u64) -> Reader<'_> {
        (length, Box::new(Part { file: &self.file, position: begin, left: length }))
    }
}

/// Why an entry cannot be read. What the library says of a header that makes no sense has in it what stands there, which may be
/// anything at all.
fn unreadable(error: io::Error, is_first: bool) -> io::Error {
    if error.raw_os_error().is_some() || matches!(error.get_ref(), Some(inner) if inner.is::<TooLong>()) {
        return error;
    }
    io::Error::other(if is_first {
        "it is no archive"
    } else {
        "the archive is damaged: what describes one of its files makes no sense"
    })
}

#[derive(Debug, thiserror::Error)]
#[error("what describes one of its files takes more than 4 MiB")]
struct TooLong;

struct Part<'a> {
    file: &'a File,
    position: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.position)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Reads headers, which may not take more memory than they need.
struct Headers<'a> {
    file: &'a File,
    left: Rc<Cell<u64>>,
}

impl Read for Headers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64);
        self.left.set(left.ok_or_else(|| io::Error::other(TooLong))?);
        Ok(count)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
