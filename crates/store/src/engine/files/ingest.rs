//! Handing local files to the worker.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::time::SystemTime;

use lamina_events::CancelToken;
use lamina_image::Digest;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::LocalFile;
use super::record::Status;
use crate::StoreError;
use crate::engine::client::{Client, Pending};
use crate::protocol::{Ingested, Request};

/// Files per request: a frame carries about 250 descriptors, and a process has 1,024 by default.
const BATCH: usize = 200;
/// Requests in flight, so that the worker has something to do while the next files are opened.
const IN_FLIGHT: usize = 2;
/// How often a file that changes while it is read is tried.
const ATTEMPTS: usize = 3;

/// A file that is in the store.
pub(super) struct Read {
    pub(super) file: LocalFile,
    pub(super) digest: Digest,
    /// Whether its status can be relied on the next time.
    pub(super) is_settled: bool,
    /// Whether the store did not have its bytes.
    pub(super) is_new: bool,
}

/// An opened file.
struct Opened {
    file: LocalFile,
    handle: File,
    /// Just before it was opened.
    time: SystemTime,
}

/// Has the worker store these files.
pub(super) fn ingest(client: &Client, files: Vec<LocalFile>, cancel: &CancelToken) -> Result<Vec<Read>, StoreError> {
    let _turn = client.ingesting.lock().unwrap_or_else(PoisonError::into_inner);
    let mut done = Vec::with_capacity(files.len());
    let mut remaining = files;
    for attempt in 1..=ATTEMPTS {
        let mut changed = Vec::new();
        let mut batches: VecDeque<(Vec<Opened>, Pending)> = VecDeque::new();
        for batch in remaining.chunks(BATCH) {
            cancel.check()?;
            if batches.len() == IN_FLIGHT
                && let Some((opened, pending)) = batches.pop_front()
            {
                finish(opened, pending, cancel, &mut done, &mut changed)?;
            }
            let opened = batch.iter().map(open).collect::<Result<Vec<_>, _>>()?;
            let pending = begin(client, &opened)?;
            batches.push_back((opened, pending));
        }
        for (opened, pending) in batches {
            finish(opened, pending, cancel, &mut done, &mut changed)?;
        }
        match changed.first() {
            None => break,
            Some(file) if attempt == ATTEMPTS => return Err(StoreError::Changed(file.source())),
            Some(_) => remaining = changed,
        }
    }
    Ok(done)
}

fn open(file: &LocalFile) -> Result<Opened, StoreError> {
    let time = SystemTime::now();
    // Without blocking: the file may have been replaced by a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let source = file.source();
    let handle = rustix::fs::openat(CWD, &source, flags, Mode::empty())
        .map_err(StoreError::local("opening the local file", &source))?;
    let stat = rustix::fs::fstat(&handle).map_err(StoreError::local("reading the status of", &source))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(StoreError::Changed(source));
    }
    Ok(Opened { file: LocalFile { status: Status::new(&stat), ..file.clone() }, handle: File::from(handle), time })
}

fn begin(client: &Client, opened: &[Opened]) -> Result<Pending, StoreError> {
    let fds: Vec<_> = opened.iter().map(|opened| opened.handle.as_fd()).collect();
    client.begin(Request::Ingest, &[], &fds)
}

/// Waits for a batch, no longer than it is wanted, and tells the files that held still from those that did not.
fn finish(
    opened: Vec<Opened>,
    pending: Pending,
    cancel: &CancelToken,
    done: &mut Vec<Read>,
    changed: &mut Vec<LocalFile>,
) -> Result<(), StoreError> {
    let answers: Vec<Ingested> = pending.wait_until(cancel)?;
    for (Opened { file, handle, time }, answer) in opened.into_iter().zip(answers) {
        let stat = rustix::fs::fstat(&handle).map_err(StoreError::local("reading the status of", &file.source()))?;
        let held_still = Status::new(&stat) == file.status && answer.size == file.status.size;
        if held_still {
            let is_settled = file.status.is_settled(time);
            done.push(Read { file, digest: answer.digest, is_settled, is_new: answer.is_new });
        } else {
            changed.push(file);
        }
    }
    Ok(())
}
