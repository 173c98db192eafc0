//! Files that go to disk under their digest.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use fs_err as fs;

use crate::exchange::{Exchange, Failure, Header, Received};
use crate::partial::Partial;
use crate::unknown::IntoUnknown;
use crate::{Client, FetchError};

pub(crate) const BUFFER_LENGTH: usize = 256 << 10;

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

/// What is heard of a file on its way.
#[derive(Debug, Clone, Copy)]
pub enum Coming<'a> {
    /// So many of its bytes are in this file, from the first one on. Whether they are the right ones is known at the end.
    Bytes(&'a File, u64),
    /// Those that were there so far count no more: it comes from the first byte on again.
    Anew,
}

/// Who hears of the files of a set, each by its index, while they come.
pub type Follow<'a> = &'a (dyn Fn(usize, Coming<'_>) + Sync);

/// Largest file accepted, whatever size is announced.
pub(crate) const LARGEST: u64 = 32 << 30;
/// What an attempt has to bring at least to count as a step forward.
pub(crate) const WORTHWHILE: u64 = 64 << 10;

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
        self.download_followed(download, directory, progress, &|_| ())
    }

    fn download_followed(
        &self,
        download: &Download,
        directory: &Path,
        progress: Progress<'_>,
        follow: &dyn Fn(Coming<'_>),
    ) -> Result<PathBuf, FetchError> {
        let path = directory.join(&download.sha256);
        fs::create_dir_all(directory)?;
        let partial = Partial::open(directory, &download.sha256, &path, &self.cancel);
        self.cancel.check()?;
        let Some(partial) = partial? else { return Ok(path) };
        let mut exchange = IntoFile::new(download, partial, progress, follow)?;
        let done = if exchange.finished()? { Ok(()) } else { self.exchange(&download.url, &mut exchange) };
        if done.as_ref().is_err_and(is_spoilt) {
            exchange.partial.discard();
        }
        done?;
        exchange.partial.persist(&path)?;
        Ok(path)
    }

    /// [`Self::download`] of a file whose digest is not known: it is named by what comes. It goes on where it was broken
    /// off if the server says that the file is still the same.
    ///
    /// # Errors
    /// When it cannot be fetched or cannot be stored.
    pub fn download_unknown(&self, url: &str, directory: &Path, progress: Progress<'_>) -> Result<PathBuf, FetchError> {
        fs::create_dir_all(directory)?;
        let mut exchange = IntoUnknown::new(url, directory, progress, &self.cancel)?;
        let done = self.exchange(url, &mut exchange);
        exchange.end(done, directory)
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
        self.download_all_followed(downloads, directory, connections, progress, &|_, _| (), arrived)
    }

    /// [`Self::download_all`], of which `follow` hears while the files come, on the downloading threads.
    ///
    /// # Errors
    /// As [`Self::download_all`].
    pub fn download_all_followed<E: From<FetchError> + Send>(
        &self,
        downloads: &[Download],
        directory: &Path,
        connections: usize,
        progress: Progress<'_>,
        follow: Follow<'_>,
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
                            .download_followed(download, directory, &count, &|coming| follow(index, coming))
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

/// Fetches a file of which a part may be there already.
struct IntoFile<'a> {
    download: &'a Download,
    partial: Partial,
    progress: Progress<'a>,
    follow: &'a dyn Fn(Coming<'_>),
    /// Bytes that progress was told about.
    told: u64,
    /// The most bytes that there were before the last attempt.
    reached: u64,
    /// Whether bytes of several attempts are in it.
    is_joined: bool,
}

impl<'a> IntoFile<'a> {
    fn new(
        download: &'a Download,
        mut partial: Partial,
        progress: Progress<'a>,
        follow: &'a dyn Fn(Coming<'_>),
    ) -> Result<Self, FetchError> {
        if partial.length() > download.size.unwrap_or(LARGEST) {
            partial.restart()?;
        }
        let reached = partial.length();
        if reached > 0 {
            progress(reached);
        }
        Ok(Self { download, partial, progress, follow, told: reached, reached, is_joined: false })
    }

    /// Whether nothing is missing.
    fn finished(&mut self) -> Result<bool, FetchError> {
        if self.download.size != Some(self.partial.length()) || self.partial.length() == 0 {
            return Ok(false);
        }
        if self.partial.sha256() == self.download.sha256 {
            return Ok(true);
        }
        self.partial.restart()?;
        Ok(false)
    }

    /// Whether what comes follows what is there.
    fn prepare(&mut self, answer: &Received<'_>) -> Result<bool, Failure> {
        let length = self.partial.length();
        let follows = self.partial.prepare(answer);
        if self.partial.length() < length {
            (self.follow)(Coming::Anew);
        }
        follows
    }
}

impl Exchange for IntoFile<'_> {
    type Output = ();

    fn headers(&self) -> Vec<Header> {
        self.partial.headers()
    }

    fn takes(&self, status: u16) -> bool {
        self.partial.takes(status)
    }

    fn receive(&mut self, answer: Received<'_>) -> Result<(), Failure> {
        self.is_joined = self.prepare(&answer)?;
        let Download { url, size, sha256 } = self.download;
        let limit = size.map_or(LARGEST, |size| size.min(LARGEST));
        let mut buffer = vec![0; BUFFER_LENGTH];
        loop {
            let count = answer.body.read(&mut buffer).map_err(Failure::passing)?;
            if count == 0 {
                break;
            }
            if self.partial.length() + count as u64 > limit {
                return Err(Failure::Final(FetchError::TooLarge { url: url.clone(), limit }));
            }
            self.partial.add(&buffer[..count]).map_err(stored)?;
            (self.follow)(Coming::Bytes(self.partial.file(), self.partial.length()));
            let news = self.partial.length().saturating_sub(self.told);
            if news > 0 {
                self.told += news;
                (self.progress)(news);
            }
        }
        let found = self.partial.sha256();
        if found == *sha256 {
            return Ok(());
        }
        // A connection that broke quietly gives a short file; trying again may help. A full-length one is another file,
        // unless its parts are of different ones.
        if size.is_some_and(|size| self.partial.length() < size) {
            return Err(Failure::passing(std::io::Error::from(ErrorKind::UnexpectedEof)));
        }
        if self.is_joined {
            (self.follow)(Coming::Anew);
            self.partial.restart().map_err(stored)?;
            return Err(Failure::passing("what came in parts is not what was announced"));
        }
        Err(Failure::Final(FetchError::Digest { url: url.clone(), expected: sha256.clone(), found }))
    }

    fn has_come_further(&mut self) -> bool {
        let has_come_further = self.partial.length() >= self.reached + WORTHWHILE;
        self.reached = self.reached.max(self.partial.length());
        has_come_further
    }
}

/// Whether what came of a file before this error is of no use to the next attempt.
pub(crate) fn is_spoilt(error: &FetchError) -> bool {
    match error {
        FetchError::Digest { .. } | FetchError::TooLarge { .. } => true,
        // Once the disk has room again, the rest is fetched.
        FetchError::Io(error) => !matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
        _ => false,
    }
}

pub(crate) fn stored(error: std::io::Error) -> Failure {
    Failure::Final(FetchError::Io(error))
}

/// Whether a text is a SHA-256 in lower-case hexadecimal. Such a text is also safe as a file name.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
