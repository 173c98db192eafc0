//! Reading a wheel as an archive from a stranger: every entry is checked before the first byte is unpacked.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

/// Most entries of one wheel.
const ENTRY_LIMIT: usize = 500_000;
/// Most bytes that a wheel may unpack to, beside [`EXPANSION_LIMIT`] times its own size.
const SMALL_WHEEL_ALLOWANCE: u64 = 256 << 20;
/// No real wheel expands this much as a whole.
const EXPANSION_LIMIT: u64 = 200;
/// Longest path of an entry, as Linux has it.
const PATH_LIMIT: usize = 4095;
/// Longest part of a path.
const NAME_LIMIT: usize = 255;
const FILE_TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const LOCAL_SIGNATURE: u32 = 0x0403_4b50;
const LOCAL_LENGTH: usize = 30;
const CENTRAL_SIGNATURE: u32 = 0x0201_4b50;
const CENTRAL_LENGTH: usize = 46;
/// Flag bit: sizes follow the data, the local header does not have them.
const SIZES_FOLLOW: u16 = 1 << 3;

/// Why a wheel is not unpacked here, in a sentence that names the offending entry.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It would harm whoever unpacks it.
    Dangerous(String),
    /// It is not as wheels should be. Installers are less strict in one place or another, and do different things then:
    /// the one that the user asked for has to say, in the sandbox.
    Unusual(String),
}

impl From<String> for Refusal {
    fn from(detail: String) -> Self {
        Self::Unusual(detail)
    }
}

/// A file that clones can read at positions of their own.
#[derive(Clone)]
struct Positioned {
    file: Arc<File>,
    position: u64,
    length: u64,
}

impl Read for Positioned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Positioned {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// One file of a checked archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    index: usize,
    /// Its path, relative and without `.` or `..`.
    pub(crate) path: String,
    /// Bytes when unpacked.
    pub(crate) size: u64,
    /// Whether it has an execute bit.
    pub(crate) executable: bool,
}

/// What an entry stands for.
enum Content {
    File(Entry),
    Directory(String),
}

/// A wheel whose every entry has a safe path, one place and an honest size. Clones read independently.
#[derive(Clone)]
pub(crate) struct Archive {
    zip: ZipArchive<Positioned>,
    entries: Arc<Vec<Entry>>,
    empty: Vec<String>,
}

impl Archive {
    /// Opens and checks a wheel.
    pub(crate) fn open(file: File) -> Result<Self, Refusal> {
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        let source = Positioned { file: Arc::new(file), position: 0, length };
        let mut zip =
            ZipArchive::new(source.clone()).map_err(|error| format!("it is not a readable zip archive: {error}"))?;
        if zip.offset() != 0 {
            return Err("something precedes the zip archive".to_owned().into());
        }
        if zip.len() > ENTRY_LIMIT {
            return Err(Refusal::Dangerous(format!("it has {} entries, more than {ENTRY_LIMIT}", zip.len())));
        }
        check_duplicates(&source, zip.central_directory_start(), zip.len())?;
        let limit = length.saturating_mul(EXPANSION_LIMIT).saturating_add(SMALL_WHEEL_ALLOWANCE);
        let mut entries = Vec::with_capacity(zip.len());
        let mut directories = Vec::new();
        let mut extents = Vec::with_capacity(zip.len());
        let mut total = 0_u64;
        for index in 0..zip.len() {
            let header = Header::read(&mut zip, index)?;
            header.check_local(&source)?;
            extents.push((header.start, header.end, header.path.clone()));
            total = total.saturating_add(header.size);
            if total > limit {
                return Err(Refusal::Dangerous(format!("it unpacks to more than {limit} bytes")));
            }
            match header.into_entry(index)? {
                Content::File(entry) => entries.push(entry),
                Content::Directory(path) => directories.push(path),
            }
        }
        check_overlaps(extents, zip.central_directory_start())?;
        let empty = check_nesting(&entries, &directories)?;
        Ok(Self { zip, entries: Arc::new(entries), empty })
    }

    /// The directories that no file lies in.
    pub(crate) fn empty_directories(&self) -> &[String] {
        &self.empty
    }

    /// The files, in the archive's order.
    pub(crate) fn entries(&self) -> Arc<Vec<Entry>> {
        Arc::clone(&self.entries)
    }

    /// The entry with this path.
    pub(crate) fn find(&self, path: &str) -> Option<Entry> {
        self.entries.iter().find(|entry| entry.path == path).cloned()
    }

    /// Unpacks one entry into memory; its length and checksum are those announced.
    pub(crate) fn read(&mut self, entry: &Entry) -> Result<Vec<u8>, String> {
        let fail = |error: &dyn std::fmt::Display| format!("`{}` cannot be unpacked: {error}", entry.path);
        let mut bytes = Vec::with_capacity(usize::try_from(entry.size).map_err(|error| fail(&error))?);
        self.reader(entry)?.read_to_end(&mut bytes).map_err(|error| fail(&error))?;
        if bytes.len() as u64 != entry.size {
            return Err(fail(&format_args!("it is not {} bytes long, as announced", entry.size)));
        }
        Ok(bytes)
    }

    /// Unpacks one entry piece by piece, up to one byte more than announced; the caller checks the length.
    pub(crate) fn reader(&mut self, entry: &Entry) -> Result<impl Read, String> {
        let file = self.zip.by_index(entry.index);
        let file = file.map_err(|error| format!("`{}` cannot be unpacked: {error}", entry.path))?;
        Ok(file.take(entry.size + 1))
    }
}

/// An entry as the central directory has it.
struct Header {
    path: String,
    start: u64,
    end: u64,
    size: u64,
    compressed: u64,
    checksum: u32,
    method: u16,
    mode: u32,
    directory: bool,
}

impl Header {
    fn read(zip: &mut ZipArchive<Positioned>, index: usize) -> Result<Self, String> {
        let file = zip.by_index_raw(index).map_err(|error| format!("entry {index} cannot be read: {error}"))?;
        let path = String::from_utf8(file.name_raw().to_vec())
            .map_err(|_| format!("the entry name `{}` is not UTF-8", file.name().escape_debug()))?;
        if file.encrypted() {
            return Err(format!("`{path}` is encrypted"));
        }
        let method = match file.compression() {
            CompressionMethod::Stored => 0,
            CompressionMethod::Deflated => 8,
            other => return Err(format!("`{path}` is compressed with {other}, which wheels do not use")),
        };
        let data = file.data_start().ok_or_else(|| format!("`{path}` has no data"))?;
        Ok(Self {
            start: file.header_start(),
            end: data.saturating_add(file.compressed_size()),
            size: file.size(),
            compressed: file.compressed_size(),
            checksum: file.crc32(),
            method,
            mode: file.unix_mode().unwrap_or(0),
            directory: path.ends_with('/'),
            path,
        })
    }

    /// The header before the data must say what the central directory says.
    fn check_local(&self, source: &Positioned) -> Result<(), String> {
        let differs = || format!("`{}` is described differently in two places of the archive", self.path);
        let mut header = vec![0; LOCAL_LENGTH + self.path.len()];
        source.file.read_exact_at(&mut header, self.start).map_err(|_| differs())?;
        if long(&header, 0) != LOCAL_SIGNATURE || usize::from(short(&header, 26)) != self.path.len() {
            return Err(differs());
        }
        if &header[LOCAL_LENGTH..] != self.path.as_bytes() || short(&header, 8) != self.method {
            return Err(differs());
        }
        if short(&header, 6) & SIZES_FOLLOW != 0 {
            return Ok(());
        }
        // All bits set: the size is in a ZIP64 field.
        let agrees = |at: usize, value: u64| matches!(long(&header, at), found if found == u32::MAX || u64::from(found) == value);
        if long(&header, 14) != self.checksum || !agrees(18, self.compressed) || !agrees(22, self.size) {
            return Err(differs());
        }
        Ok(())
    }

    /// What to unpack: a directory is one by its name, whatever its mode says.
    fn into_entry(self, index: usize) -> Result<Content, Refusal> {
        let path = self.path.strip_suffix('/').unwrap_or(&self.path);
        check_path(path)?;
        if self.directory {
            return Ok(Content::Directory(path.to_owned()));
        }
        if !matches!(self.mode & FILE_TYPE, 0 | REGULAR) {
            return Err(format!("`{path}` is neither a regular file nor a directory").into());
        }
        let executable = self.mode & 0o111 != 0;
        if executable && self.mode & FILE_TYPE == 0 {
            // To pip it is not executable then, to `uv` it is.
            return Err(format!("`{path}` is executable, and not said to be a file").into());
        }
        Ok(Content::File(Entry { index, path: path.to_owned(), size: self.size, executable }))
    }
}

/// A relative path that cannot lead elsewhere.
pub(crate) fn check_path(path: &str) -> Result<(), Refusal> {
    let detail = || format!("the path `{}` is not a plain relative path", path.escape_debug());
    if path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(Refusal::Dangerous(detail()));
    }
    let unusual = |part: &str| matches!(part, "" | ".") || part.len() > NAME_LIMIT;
    if path.len() > PATH_LIMIT || path.split('/').any(unusual) { Err(detail().into()) } else { Ok(()) }
}

/// The reader keeps one of several entries with the same name; so the directory itself is walked.
fn check_duplicates(source: &Positioned, start: u64, count: usize) -> Result<(), String> {
    let broken = || "its directory is damaged".to_owned();
    let length = usize::try_from(source.length.saturating_sub(start)).map_err(|_| broken())?;
    let mut directory = vec![0; length];
    source.file.read_exact_at(&mut directory, start).map_err(|_| broken())?;
    let mut seen = BTreeSet::new();
    let mut rest = directory.as_slice();
    while rest.len() >= CENTRAL_LENGTH && long(rest, 0) == CENTRAL_SIGNATURE {
        let name_length = usize::from(short(rest, 28));
        let record = CENTRAL_LENGTH + name_length + usize::from(short(rest, 30)) + usize::from(short(rest, 32));
        let name = rest.get(CENTRAL_LENGTH..CENTRAL_LENGTH + name_length).ok_or_else(broken)?;
        if !seen.insert(name) {
            return Err(format!("`{}` is in it twice", String::from_utf8_lossy(name)));
        }
        rest = rest.get(record..).ok_or_else(broken)?;
    }
    if seen.len() == count { Ok(()) } else { Err(broken()) }
}

/// Entries that share bytes are how a small archive unpacks to petabytes.
fn check_overlaps(mut extents: Vec<(u64, u64, String)>, directory: u64) -> Result<(), Refusal> {
    extents.sort();
    let ends = extents.iter().skip(1).map(|next| next.0).chain([directory]);
    match extents.iter().zip(ends).find(|(extent, next)| extent.1 > *next) {
        Some((extent, _)) => Err(Refusal::Dangerous(format!("`{}` overlaps what follows it", extent.2))),
        None => Ok(()),
    }
}

/// No file may also be a directory. Answers which directories are empty.
fn check_nesting(entries: &[Entry], directories: &[String]) -> Result<Vec<String>, String> {
    let files: HashSet<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    if files.len() != entries.len() {
        return Err("two entries have the same path".to_owned());
    }
    let mut parents = HashSet::new();
    for path in entries.iter().map(|entry| &entry.path).chain(directories) {
        let mut path = path.as_str();
        while let Some((parent, _)) = path.rsplit_once('/') {
            parents.insert(parent);
            path = parent;
        }
    }
    let is_file = |directory: &&str| files.contains(directory);
    if let Some(path) = parents.iter().copied().chain(directories.iter().map(String::as_str)).find(is_file) {
        return Err(format!("`{path}` is both a file and a directory"));
    }
    let empty = directories.iter().filter(|directory| !parents.contains(directory.as_str())).cloned();
    Ok(empty.collect())
}

fn short(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(short(bytes, at)) | u32::from(short(bytes, at + 2)) << 16
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
