//! Output as it was recorded before there were logs: one file that keeps the two streams apart and in their order.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{LogEntry, Show, Source};
use crate::AppsError;
use crate::files::is_file;

/// First bytes of the file: a name and the version of the format.
const MAGIC: &[u8] = b"LAMINA-OUTPUT\x01";

/// Bytes in front of what was printed: the stream, and a length.
const HEADER: usize = 5;

/// The most bytes of one piece.
const MAXIMUM_PIECE: usize = 64 << 10;

/// Bytes read at once: more than one piece.
const CHUNK: usize = 256 << 10;

/// Reads such a file, where there is one: a program of an earlier version may still write to it.
#[derive(Debug)]
pub(super) struct Earlier {
    path: PathBuf,
    file: Option<File>,
    position: u64,
}

impl Earlier {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, position: 0 }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_there(&self) -> bool {
        is_file(&self.path)
    }

    /// Passes over what there is.
    pub(super) fn skip(&mut self) {
        self.position = fs_err::metadata(&self.path).map_or(0, |metadata| metadata.len());
    }

    /// Shows what was printed so far, from where the last reading stopped, until `show` cannot go on.
    pub(super) fn read(&mut self, show: &mut Show<'_>) -> Result<ControlFlow<std::io::Error>, AppsError> {
        if self.file.is_none() && self.is_there() {
            self.file = Some(fs_err::File::open(&self.path)?.into_file());
        }
        let Some(file) = &self.file else { return Ok(ControlFlow::Continue(())) };
        if self.position == 0 {
            let mut magic = [0; MAGIC.len()];
            if file.read_exact_at(&mut magic, 0).is_err() || magic != MAGIC {
                let reason = "it is no output of an app that this version can read".to_owned();
                return Err(AppsError::Damaged { path: self.path.clone(), reason });
            }
            self.position = MAGIC.len() as u64;
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match file.read_at(&mut chunk, self.position) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(AppsError::file("reading", &self.path))?,
            };
            let mut rest = &chunk[..count];
            while let Some((source, piece)) = self.first_piece(rest)? {
                let length = HEADER + piece.len();
                self.position += length as u64;
                rest = &rest[length..];
                let outcome = show(&LogEntry::new(None, source, piece));
                if outcome.is_break() {
                    return Ok(outcome);
                }
            }
            // The rest is read again when it is whole.
            if count < CHUNK {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    /// The first piece of `data`, if it is whole.
    fn first_piece<'a>(&self, data: &'a [u8]) -> Result<Option<(Source, &'a [u8])>, AppsError> {
        let Some((header, rest)) = data.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [first, length @ ..] = header;
        let length = u32::from_le_bytes(*length) as usize;
        let source = match first {
            1 => Some(Source::Stdout),
            2 => Some(Source::Stderr),
            _ => None,
        };
        let source = source.filter(|_| length <= MAXIMUM_PIECE).ok_or_else(|| {
            let reason = format!("byte {} begins no piece of output", self.position);
            AppsError::Damaged { path: self.path.clone(), reason }
        })?;
        Ok(rest.get(..length).map(|piece| (source, piece)))
    }
}
