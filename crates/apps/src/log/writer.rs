//! Writing a log: one process at a time does so.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lamina_ground::microseconds_since_1970;

use super::format::{MAGIC, MOST_DATA, encode};
use super::reader::sound_length;
use super::{LogEntry, Source, segments};
use crate::AppsError;
use crate::files::{is_file, private_file};
use crate::records::make_private;

/// Bytes after which a further segment is begun.
pub(super) const SEGMENT: u64 = 8 << 20;

/// Segments that are kept.
pub(super) const KEPT: usize = 8;

/// Adds to a log.
#[derive(Debug)]
pub struct LogWriter {
    directory: PathBuf,
    /// The output in its earlier form, which is the oldest part of the log.
    earlier: PathBuf,
    pub(super) file: File,
    number: u64,
    /// The length up to which the segment is sound.
    length: u64,
    missing: Option<Missing>,
}

/// What could not be written.
#[derive(Debug)]
struct Missing {
    bytes: usize,
    reason: String,
}

impl LogWriter {
    /// Makes a log without entries, unless there is one. What a process that was killed has left of an entry is taken away
    /// if `may_be_torn`; where the end makes no sense, a further segment is begun.
    pub(crate) fn prepare(directory: &Path, may_be_torn: bool) -> Result<(), AppsError> {
        make_private(directory)?;
        let Some(last) = segments::all(directory)?.last().copied() else {
            return begin(directory, 1).map(drop);
        };
        let path = segments::path(directory, last);
        match sound_length(&path)? {
            None => begin(directory, last + 1).map(drop),
            Some(length) if may_be_torn => Ok(fs_err::OpenOptions::new().write(true).open(&path)?.set_len(length)?),
            Some(_) => Ok(()),
        }
    }

    /// Opens a log that was prepared.
    pub(crate) fn open(directory: &Path, earlier: &Path) -> Result<Self, AppsError> {
        let number = segments::all(directory)?.last().copied().unwrap_or(1);
        let path = segments::path(directory, number);
        let file = fs_err::OpenOptions::new().write(true).open(path)?;
        let length = file.metadata()?.len();
        let (directory, earlier) = (directory.to_owned(), earlier.to_owned());
        Ok(Self { directory, earlier, file: file.into_file(), number, length, missing: None })
    }

    /// Adds an entry. What the disk cannot take is left out: an app does not fail because its output is not recorded.
    /// Where something is missing, a line says so.
    pub fn write(&mut self, entry: &LogEntry) {
        for piece in entry.data.chunks(MOST_DATA) {
            if let Err(error) = self.note_missing().and_then(|()| self.append(entry, piece)) {
                let before = self.missing.take().map_or(0, |missing| missing.bytes);
                self.missing = Some(Missing { bytes: before + piece.len(), reason: error.to_string() });
            }
        }
    }

    /// Says in the log what is missing.
    fn note_missing(&mut self) -> std::io::Result<()> {
        let Some(Missing { bytes, reason }) = &self.missing else { return Ok(()) };
        let line = format!("warning: {bytes} bytes of output were not recorded here: {reason}\n");
        self.append(&LogEntry::new(Some(microseconds_since_1970()), Source::System, line.as_bytes()), line.as_bytes())?;
        self.missing = None;
        Ok(())
    }

    /// Adds one entry. A whole one is never taken back: somebody may have read it already.
    fn append(&mut self, entry: &LogEntry, data: &[u8]) -> std::io::Result<()> {
        if self.length >= SEGMENT {
            self.go_on();
        }
        let bytes = encode(entry, data);
        let written = self.file.write_all_at(&bytes, self.length);
        if written.is_ok() {
            self.length += bytes.len() as u64;
        } else {
            // A part of an entry at the end of the file would stand for one that is still being written.
            let _ = self.file.set_len(self.length);
        }
        written
    }

    /// Begins the next segment. Where the disk has no room for it, this one becomes longer.
    fn go_on(&mut self) {
        let Ok(file) = begin(&self.directory, self.number + 1) else { return };
        self.file = file;
        self.number += 1;
        self.length = MAGIC.len() as u64;
        let Ok(all) = segments::all(&self.directory) else { return };
        // What cannot be removed is tried again with the next segment.
        for number in &all[..all.len().saturating_sub(KEPT)] {
            let _ = fs_err::remove_file(segments::path(&self.directory, *number));
        }
        if all.len() >= KEPT && is_file(&self.earlier) {
            let _ = fs_err::remove_file(&self.earlier);
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        // There may be room for the note where there was none for the output.
        let _ = self.note_missing();
    }
}

/// Makes a segment.
fn begin(directory: &Path, number: u64) -> Result<File, AppsError> {
    let path = segments::path(directory, number);
    let file = private_file().open(&path)?.into_file();
    if let Err(error) = file.write_all_at(MAGIC, 0) {
        let _ = fs_err::remove_file(&path);
        return Err(AppsError::file("writing", &path)(error));
    }
    Ok(file)
}
