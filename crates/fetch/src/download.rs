//! Files that go to disk under their digest.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use data_encoding::HEXLOWER;
use fs_err as fs;
use sha2::{Digest as _, Sha256};

use crate::client::Failure;
use crate::{Client, FetchError};

const BUFFER_LENGTH: usize = 256 << 10;

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Its address.
    pub url: String,
    /// Its SHA-256, lower-case hexadecimal; the name it gets.
    pub sha256: String,
    /// Its size in bytes; `None` when unknown.
    pub size: Option<u64>,
}

/// How far a set of downloads is: bytes fetched so far, by all threads.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Largest file accepted, whatever size is announced.
const LARGEST: u64 = 32 << 30;

impl Client {
    /// Fetches a file into `directory`, named by its SHA-256, and returns its path. A file that is there already was
    /// verified when it was stored and is not fetched again. Concurrent calls for the same file are safe.
    ///
    /// # Errors
    /// When it cannot be fetched, is not what was announced, or cannot be stored.
    pub fn download(
        &self,
        download: &Download,
        directory: &Path,
        progress: Progress<'_>,
    ) -> Result<PathBuf, FetchError> {
        let path = directory.join(&download.sha256);
        if path.exists() {
            return Ok(path);
        }
        fs::create_dir_all(directory)?;
        let file = self.patiently(&download.url, |reader| fetch_into(directory, download, reader, progress))?;
        // Whatever has the name is believed from now on, after a power cut as well.
        file.as_file().sync_data()?;
        file.persist(&path).map_err(|error| FetchError::Io(error.error))?;
        Ok(path)
    }

    /// [`Self::download`] of a file whose digest is not known: it is named by what comes.
    ///
    /// # Errors
    /// When it cannot be fetched or cannot be stored.
    pub fn download_unknown(&self, url: &str, directory: &Path, progress: Progress<'_>) -> Result<PathBuf, FetchError> {
        fs::create_dir_all(directory)?;
        let (file, sha256) = self.patiently(url, |reader| {
            let (file, sha256, _) = receive(directory, url, None, reader, progress)?;
            Ok((file, sha256))
        })?;
        file.as_file().sync_data()?;
        let path = directory.join(sha256);
        file.persist(&path).map_err(|error| FetchError::Io(error.error))?;
        Ok(path)
    }

    /// Fetches several files with `connections` at a time and hands each to `arrived` as soon as it is there.
    /// `arrived` runs on the downloading threads and gets the index into `downloads`.
    ///
    /// # Errors
    /// The first error of any download or of `arrived`; the others are stopped.
    pub fn download_all<E: From<FetchError> + Send>(
        &self,
        downloads: &[Download],
        directory: &Path,
        connections: usize,
        progress: Progress<'_>,
        arrived: impl Fn(usize, PathBuf) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<E>> = Mutex::new(None);
        let total = AtomicU64::new(0);
        let count = |bytes: u64| progress(total.fetch_add(bytes, Ordering::Relaxed) + bytes);
        std::thread::scope(|scope| {
            for _ in 0..connections.min(downloads.len()) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(download) = downloads.get(index) else { return };
                        let outcome = self
                            .download(download, directory, &count)
                            .map_err(E::from)
                            .and_then(|path| arrived(index, path));
                        if let Err(error) = outcome {
                            next.store(downloads.len(), Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            return;
                        }
                    }
                });
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// Writes a body into a temporary file of `directory`, checking size and digest.
fn fetch_into(
    directory: &Path,
    download: &Download,
    reader: &mut dyn Read,
    progress: Progress<'_>,
) -> Result<tempfile::NamedTempFile, Failure> {
    let (file, found, length) = receive(directory, &download.url, download.size, reader, progress)?;
    if found == download.sha256 {
        return Ok(file);
    }
    // A connection that broke quietly gives a short file; trying again may help. A full-length one is another file.
    if download.size.is_some_and(|size| length < size) {
        return Err(Failure::Passing(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Err(Failure::Final(FetchError::Digest { url: download.url.clone(), expected: download.sha256.clone(), found }))
}

/// Writes a body of at most `size` bytes into a temporary file of `directory`; with its SHA-256 and its length.
fn receive(
    directory: &Path,
    url: &str,
    size: Option<u64>,
    reader: &mut dyn Read,
    progress: Progress<'_>,
) -> Result<(tempfile::NamedTempFile, String, u64), Failure> {
    let final_io = |error: std::io::Error| Failure::Final(FetchError::Io(error));
    let mut file = tempfile::Builder::new().prefix(".partial-").tempfile_in(directory).map_err(final_io)?;
    let limit = size.map_or(LARGEST, |size| size.min(LARGEST));
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_LENGTH];
    let mut length = 0_u64;
    loop {
        let count = reader.read(&mut buffer).map_err(Failure::Passing)?;
        if count == 0 {
            break;
        }
        length += count as u64;
        if length > limit {
            return Err(Failure::Final(FetchError::TooLarge { url: url.to_owned(), limit }));
        }
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count]).map_err(final_io)?;
        progress(count as u64);
    }
    Ok((file, HEXLOWER.encode(&hasher.finalize()), length))
}

/// Whether a text is a SHA-256 in lower-case hexadecimal. Such a text is also safe as a file name.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
