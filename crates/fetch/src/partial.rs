//! Files that are not complete yet.

use std::fs::File;
use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::HEXLOWER;
use fs_err as fs;
use lamina_events::CancelToken;
use sha2::{Digest as _, Sha256};

use crate::download::stored;
use crate::exchange::{Failure, Header, Received};

/// The beginning of their names.
pub(crate) const PREFIX: &str = ".partial-";
/// What is shorter is fetched anew.
const WORTH_KEEPING: u64 = 1 << 20;
const BUFFER_LENGTH: usize = 256 << 10;
/// The status of an answer with a part of a file.
const PARTIAL_CONTENT: u16 = 206;
/// The status of an answer without the part that was asked for.
const RANGE_NOT_SATISFIABLE: u16 = 416;

/// What has come of a file. It is named by the digest of the whole, or of its address, and locked by the process that adds to it.
pub(crate) struct Partial {
    /// Removed, if it is, before its lock is let go of; `None` once it is the file itself.
    path: Option<tempfile::TempPath>,
    file: File,
    hasher: Sha256,
    length: u64,
    is_kept: bool,
}

impl Partial {
    /// Opens what there is of a file, or a new one; `None` if the file itself is there, at `path`.
    pub(crate) fn open(directory: &Path, sha256: &str, path: &Path, cancel: &CancelToken) -> Result<Option<Self>> {
        let name = directory.join(format!("{PREFIX}{sha256}"));
        while !path.exists() {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.options_mut().mode(0o600);
            let (file, _) = options.open(&name)?.into_parts();
            if file.try_lock().is_err() {
                // Of another process, or another thread.
                return Self::unnamed(directory).map(Some);
            }
            let inode = file.metadata()?.ino();
            // What was opened may have become the file itself before it was locked.
            if fs::metadata(&name).is_ok_and(|status| status.ino() == inode) {
                let path = tempfile::TempPath::try_from_path(name)?;
                return Self::continued(file, path, cancel).map(Some);
            }
        }
        Ok(None)
    }

    /// A file of which nobody but its owner knows.
    pub(crate) fn unnamed(directory: &Path) -> Result<Self> {
        let (file, path) = tempfile::Builder::new().prefix(PREFIX).tempfile_in(directory)?.into_parts();
        Ok(Self { path: Some(path), file, hasher: Sha256::new(), length: 0, is_kept: false })
    }

    fn continued(mut file: File, path: tempfile::TempPath, cancel: &CancelToken) -> Result<Self> {
        let (mut hasher, mut length, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER_LENGTH]);
        loop {
            cancel.check().map_err(std::io::Error::other)?;
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(Self { path: Some(path), file, hasher, length, is_kept: true });
            }
            hasher.update(&buffer[..count]);
            length += count as u64;
        }
    }

    /// Its bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// What holds them.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The digest of its bytes so far.
    pub(crate) fn sha256(&self) -> String {
        HEXLOWER.encode(&self.hasher.clone().finalize())
    }

    /// Whether the next attempt, of whatever process, can go on with it.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// What a request for the rest says.
    pub(crate) fn headers(&self) -> Vec<Header> {
        // As it is: of what is compressed on the way, nobody knows where it was cut.
        let identity = ("accept-encoding", "identity".to_owned());
        let rest = ("range", format!("bytes={}-", self.length));
        if self.length > 0 { vec![identity, rest] } else { vec![identity] }
    }

    /// Whether an answer with this status is one to that.
    pub(crate) fn takes(&self, status: u16) -> bool {
        (200..300).contains(&status) || (status == RANGE_NOT_SATISFIABLE && self.length > 0)
    }

    /// What comes replaces what is there, unless it is what follows, which is answered.
    pub(crate) fn prepare(&mut self, answer: &Received<'_>) -> std::result::Result<bool, Failure> {
        let length = self.length;
        if answer.status == RANGE_NOT_SATISFIABLE {
            self.restart().map_err(stored)?;
            return Err(Failure::passing("it does not have what is missing"));
        }
        if answer.status != PARTIAL_CONTENT {
            return self.restart().map(|()| false).map_err(stored);
        }
        let range = answer.header("content-range").unwrap_or_default();
        if !range.starts_with(&format!("bytes {length}-")) || answer.header("content-encoding").is_some() {
            self.restart().map_err(stored)?;
            return Err(Failure::passing(format!("it sent the range `{range}` instead of what follows byte {length}")));
        }
        Ok(true)
    }

    /// Adds bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Begins from nothing.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hasher, self.length) = (Sha256::new(), 0);
        Ok(())
    }

    /// Lets nobody continue it.
    pub(crate) fn discard(&mut self) {
        self.is_kept = false;
    }

    /// Makes it the file itself, which is believed from now on, after a power cut as well.
    pub(crate) fn persist(mut self, path: &Path) -> Result<()> {
        self.file.sync_data()?;
        let Some(partial) = self.path.take() else { return Ok(()) };
        partial.persist(path).map_err(|error| error.error)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let is_kept = self.is_kept && self.length >= WORTH_KEEPING;
        self.path.iter_mut().for_each(|path| path.disable_cleanup(is_kept));
    }
}
