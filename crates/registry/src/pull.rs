//! Layers of an image on their way into the store.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::mpsc;

use data_encoding::HEXLOWER;
use lamina_events::CancelToken;
use lamina_fetch::{Download, FetchError, Progress};
use lamina_ground::Stack;
use lamina_image::Digest;
use lamina_store::{JobError, Store, Work};
use sha2::{Digest as _, Sha256};

use crate::chunked::Pieces;
use crate::client::Part;
use crate::pieces::Piece;
use crate::tree::STRANGER;
use crate::unpack::{Compression, UnpackLayer};
use crate::{Registry, RegistryError};

impl Registry {
    /// Fetches layers into `directory`, several at a time, the lowest first; those that are there are not fetched again.
    /// `take` is given the index of each, in their order, as soon as it is there, while further ones are coming.
    ///
    /// # Errors
    /// When one cannot be fetched, or is not what its digest says, or `take` fails, which stops the others.
    pub fn fetch<E: From<RegistryError>>(
        &self,
        parts: &[&Part],
        directory: &Path,
        connections: usize,
        progress: Progress<'_>,
        mut take: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let stop = CancelToken::new();
        let stopping = stop.clone();
        let _guard = self.client().cancel().on_cancel(move || stopping.cancel());
        let downloads: Vec<_> = parts.iter().map(|part| part.download.clone()).collect();
        let (sender, arrivals) = mpsc::channel();
        std::thread::scope(|scope| {
            let stopped = &stop;
            let fetching = scope.spawn(move || {
                self.download(&downloads, directory, connections, progress, stopped, |index| {
                    let _ = sender.send(index);
                })
            });
            let mut there = vec![false; parts.len()];
            let mut next = |index: usize| {
                while !there[index] {
                    // If no more will come, the downloads say why.
                    let Ok(arrived) = arrivals.recv() else { return Ok(false) };
                    there[arrived] = true;
                }
                take(index).map(|()| true)
            };
            let mut taken = Ok(true);
            for index in 0..parts.len() {
                taken = next(index);
                if !matches!(taken, Ok(true)) {
                    break;
                }
            }
            if taken.is_err() {
                stop.cancel();
            }
            let fetched = fetching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            taken?;
            Ok(fetched?)
        })
    }

    fn download(
        &self,
        downloads: &[Download],
        directory: &Path,
        connections: usize,
        progress: Progress<'_>,
        stop: &CancelToken,
        arrived: impl Fn(usize) + Sync,
    ) -> Result<(), RegistryError> {
        let mut fetched = self.download_here(downloads, directory, connections, progress, stop, &arrived);
        for other in self.others() {
            // What was stopped is wanted nowhere else, and what is here already is not fetched again.
            if fetched.is_ok() || stop.check().is_err() {
                break;
            }
            fetched = other.and_then(|other| {
                let address = |download: &Download| Download {
                    url: other.url("blobs", &format!("sha256:{}", download.sha256)),
                    ..download.clone()
                };
                let downloads: Vec<_> = downloads.iter().map(address).collect();
                other.download_here(&downloads, directory, connections, progress, stop, &arrived)
            });
        }
        fetched
    }

    fn download_here(
        &self,
        downloads: &[Download],
        directory: &Path,
        connections: usize,
        progress: Progress<'_>,
        stop: &CancelToken,
        arrived: &(impl Fn(usize) + Sync),
    ) -> Result<(), RegistryError> {
        let arrived = |index, _| {
            arrived(index);
            Ok::<_, FetchError>(())
        };
        let fetch = || {
            let client = self.client().with_cancel(stop.clone());
            client.download_all(downloads, directory, connections, progress, arrived)
        };
        let fetched = match fetch() {
            // Tokens are for some minutes, and layers may take longer.
            Err(FetchError::Status { status: 401, .. }) => {
                self.log_in()?;
                fetch()
            }
            fetched => fetched,
        };
        fetched.map_err(|error| self.refused(error))
    }
}

/// Unpacks an archive that is no image's, called `name` in messages, as a layer over those below.
///
/// # Errors
/// When it is no archive that layers may be.
pub fn unpack_archive(
    mut archive: std::fs::File,
    name: &str,
    below: &Stack<Digest>,
    store: &Store,
    reserve: u64,
) -> Result<Work, RegistryError> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut archive, &mut hasher).map_err(FetchError::Io)?;
    let work = store.new_work()?;
    let job = UnpackLayer {
        work: work.id().to_owned(),
        below: store.view_paths(below),
        compression: Compression::None,
        pieces: Vec::new(),
        diff_id: HEXLOWER.encode(&hasher.finalize()),
        name: name.to_owned(),
        reserve,
        is_final: false,
    };
    store.job(&job, &[archive.as_fd()])?;
    Ok(work)
}

/// Unpacks a fetched layer over those below, and answers the work with it, which is to be committed as it is; until then the
/// caller holds off collection. It stops when the disk has less than `reserve` bytes left.
///
/// # Errors
/// When it is no layer, or not the one that the image's configuration names.
pub fn unpack(
    part: &Part,
    directory: &Path,
    below: &Stack<Digest>,
    store: &Store,
    reserve: u64,
) -> Result<Work, RegistryError> {
    let path = directory.join(&part.download.sha256);
    let file = fs_err::File::open(&path).map_err(FetchError::Io)?;
    unpack_files(part, Vec::new(), &[file.as_fd()], below, store, reserve)
}

/// Unpacks a layer of which only a part was fetched, as [`unpack`] does.
///
/// # Errors
/// As [`unpack`]; with a job's error of the kind [`MALFORMED`](crate::MALFORMED), the whole layer may still be right.
pub fn unpack_pieces(
    part: &Part,
    pieces: &Pieces,
    below: &Stack<Digest>,
    store: &Store,
    reserve: u64,
) -> Result<Work, RegistryError> {
    let files: Vec<_> = pieces.files.iter().map(AsFd::as_fd).collect();
    unpack_files(part, pieces.archive.clone(), &files, below, store, reserve)
}

fn unpack_files(
    part: &Part,
    pieces: Vec<Piece>,
    files: &[BorrowedFd<'_>],
    below: &Stack<Digest>,
    store: &Store,
    reserve: u64,
) -> Result<Work, RegistryError> {
    let work = store.new_work()?;
    let job = UnpackLayer {
        work: work.id().to_owned(),
        below: store.view_paths(below),
        compression: part.compression,
        pieces,
        diff_id: part.diff_id.clone(),
        name: format!("sha256:{}", part.download.sha256),
        reserve,
        is_final: true,
    };
    store.job(&job, files).map_err(|error| match error {
        JobError { kind, message, .. } if kind == STRANGER => RegistryError::Stranger(message),
        error => error.into(),
    })?;
    Ok(work)
}
