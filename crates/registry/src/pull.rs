//! Layers of an image on their way into the store.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use data_encoding::HEXLOWER;
use lamina_events::{CancelToken, Cancelled};
use lamina_fetch::{Coming, Download, FetchError, Progress};
use lamina_ground::{Stack, Subject};
use lamina_image::Digest;
use lamina_store::{JobError, Store, Work};
use sha2::{Digest as _, Sha256};

use crate::arrival::{Arrival, Arrivals};
use crate::chunked::Pieces;
use crate::client::Part;
use crate::pieces::Piece;
use crate::tree::STRANGER;
use crate::unpack::{Compression, MALFORMED, UnpackLayer};
use crate::{Registry, RegistryError};

impl Registry {
    /// Fetches layers into `directory`, several at a time, the lowest first; those that are there are not fetched again.
    /// `take` is given the index of each, in their order, and how it arrives, while it and further ones are coming.
    ///
    /// # Errors
    /// When one cannot be fetched, or is not what its digest says, or `take` fails, which stops the others.
    pub fn fetch<E: From<RegistryError>>(
        &self,
        parts: &[&Part],
        directory: &Path,
        connections: usize,
        progress: Progress<'_>,
        mut take: impl FnMut(usize, Arrival<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let stop = CancelToken::new();
        let stopping = stop.clone();
        let _guard = self.client().cancel().on_cancel(move || stopping.cancel());
        let (downloads, places) = distinct(parts);
        let arrivals = Arrivals::new(downloads.len());
        std::thread::scope(|scope| {
            let fetching = scope.spawn(|| {
                let _open = arrivals.open();
                self.download(&downloads, directory, connections, progress, &stop, &arrivals)
            });
            let taken = places.iter().enumerate().try_for_each(|(index, place)| take(index, arrivals.get(*place)));
            // Nobody can take what does not come, and the downloads say why it does not.
            let have_lost = arrivals.have_lost();
            if taken.is_err() {
                stop.cancel();
            }
            match fetching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Err(error) if have_lost || taken.is_ok() => Err(error.into()),
                _ => taken,
            }
        })
    }

    fn download(
        &self,
        downloads: &[Download],
        directory: &Path,
        connections: usize,
        progress: Progress<'_>,
        stop: &CancelToken,
        arrivals: &Arrivals,
    ) -> Result<(), RegistryError> {
        let mut fetched = self.download_here(downloads, directory, connections, progress, stop, arrivals);
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
                other.download_here(&downloads, directory, connections, progress, stop, arrivals)
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
        arrivals: &Arrivals,
    ) -> Result<(), RegistryError> {
        let follow = |index, coming: Coming<'_>| arrivals.hear(index, coming);
        let arrived = |index, _| {
            arrivals.arrived(index);
            Ok::<_, FetchError>(())
        };
        let fetch = || {
            arrivals.begin_anew();
            let client = self.client().with_cancel(stop.clone());
            client.download_all_followed(downloads, directory, connections, progress, &follow, arrived)
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

/// What is to be fetched for these layers, each archive once, and which of those each layer is: some, above all empty ones, are in an
/// image several times.
fn distinct(parts: &[&Part]) -> (Vec<Download>, Vec<usize>) {
    let mut downloads: Vec<Download> = Vec::new();
    let mut place = |part: &&Part| {
        downloads.iter().position(|other| other.sha256 == part.download.sha256).unwrap_or_else(|| {
            downloads.push(part.download.clone());
            downloads.len() - 1
        })
    };
    let places = parts.iter().map(&mut place).collect();
    (downloads, places)
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
        is_coming: false,
        diff_id: HEXLOWER.encode(&hasher.finalize()),
        name: name.to_owned(),
        reserve,
        is_final: false,
    };
    store.job(&job, &[archive.as_fd()])?;
    Ok(work)
}

/// Unpacks a layer over those below, while it comes, and answers the work with it, which is to be committed as it is; until then
/// the caller holds off collection. It stops when the disk has less than `reserve` bytes left.
///
/// # Errors
/// When it does not come, is no layer, or not the one that the image's configuration names.
pub fn unpack(
    part: &Part,
    arrival: Arrival<'_>,
    directory: &Path,
    below: &Stack<Digest>,
    store: &Store,
    reserve: u64,
) -> Result<Work, RegistryError> {
    if let Some(file) = arrival.coming() {
        let (unpacked, was_whole) = unpack_coming(part, arrival, &file, below, store, reserve)?;
        match unpacked {
            // It may have come to an end too early, or be another file than its digest says.
            Err(error) if is_of_the_layer(&error) && !was_whole => {}
            unpacked => return unpacked,
        }
    }
    if !arrival.wait() {
        return Err(FetchError::Cancelled(Cancelled).into());
    }
    let path = directory.join(&part.download.sha256);
    let file = fs_err::File::open(&path).map_err(FetchError::Io)?;
    unpack_files(part, Source::Files(Vec::new()), &[file.as_fd()], below, store, reserve)
}

/// Whether other bytes may be unpacked where these could not.
fn is_of_the_layer(error: &RegistryError) -> bool {
    match error {
        RegistryError::Stranger(_) => true,
        RegistryError::Job(error) => {
            error.kind == MALFORMED || error.refusal.is_some_and(|refusal| refusal.subject == Subject::Image)
        }
        _ => false,
    }
}

/// Unpacks a layer while it comes. Answers, too, whether all of it was there, and as its digest says, when that ended.
fn unpack_coming(
    part: &Part,
    arrival: Arrival<'_>,
    file: &Arc<File>,
    below: &Stack<Digest>,
    store: &Store,
    reserve: u64,
) -> Result<(Result<Work, RegistryError>, bool), RegistryError> {
    let (notices, mut listener) = std::io::pipe().map_err(FetchError::Io)?;
    let is_over = AtomicBool::new(false);
    Ok(std::thread::scope(|scope| {
        let is_over = &is_over;
        let telling = scope.spawn(move || arrival.tell(file, &mut listener, &|| is_over.load(Ordering::Relaxed)));
        let files = [file.as_fd(), notices.as_fd()];
        let unpacked = unpack_files(part, Source::Coming, &files, below, store, reserve);
        drop(notices);
        is_over.store(true, Ordering::Relaxed);
        arrival.wake();
        let was_whole = telling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (unpacked, was_whole)
    }))
}

/// Unpacks a layer of which only a part was fetched, as [`unpack`] does.
///
/// # Errors
/// As [`unpack`]; with a job's error of the kind [`MALFORMED`], the whole layer may still be right.
pub fn unpack_pieces(
    part: &Part,
    pieces: &Pieces,
    below: &Stack<Digest>,
    store: &Store,
    reserve: u64,
) -> Result<Work, RegistryError> {
    let files: Vec<_> = pieces.files.iter().map(AsFd::as_fd).collect();
    unpack_files(part, Source::Files(pieces.archive.clone()), &files, below, store, reserve)
}

/// What the files of a layer are.
enum Source {
    /// What these pieces are of, or one with all of it.
    Files(Vec<Piece>),
    /// One of which more comes, and notices of that.
    Coming,
}

fn unpack_files(
    part: &Part,
    source: Source,
    files: &[BorrowedFd<'_>],
    below: &Stack<Digest>,
    store: &Store,
    reserve: u64,
) -> Result<Work, RegistryError> {
    let work = store.new_work()?;
    let (pieces, is_coming) = match source {
        Source::Files(pieces) => (pieces, false),
        Source::Coming => (Vec::new(), true),
    };
    let job = UnpackLayer {
        work: work.id().to_owned(),
        below: store.view_paths(below),
        compression: part.compression,
        pieces,
        is_coming,
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
