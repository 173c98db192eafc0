//! What keeps the unpacking of a layer within bounds: the disk, the length of headers, and whether anybody wants it.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::path::Path;

use lamina_ground::{EnvVars, Subject};
use lamina_store::JobError;

use super::UnpackLayer;

/// Most bytes of what describes one file, of which Docker takes a mebibyte for each of four kinds.
pub(super) const HEADERS_LIMIT: u64 = 4 << 20;
/// Bytes of an archive between two looks at the disk, and at whether anybody wants it.
const LOOK_EVERY: u64 = 16 << 20;
/// By how many bytes less there must be than at the start.
const FALL: u64 = 64 << 20;

/// What an archive may take, and whether anybody wants it.
pub(super) struct Watch<'a> {
    job: &'a UnpackLayer,
    upper: &'a Path,
    is_wanted: &'a dyn Fn() -> Result<(), JobError>,
    /// Bytes of the archive so far.
    pub(super) length: Cell<u64>,
    /// Bytes that may come until it is set again.
    pub(super) allowance: Cell<u64>,
    /// What came while bytes were counted: the headers on the way to an entry.
    pub(super) headers: RefCell<Vec<u8>>,
    /// Bytes that the disk had left at the start, if that is known: one that was full before is not its fault.
    free: Option<u64>,
    /// The length at which the disk is looked at again.
    next_look: Cell<u64>,
    /// Why it was stopped.
    reason: RefCell<Option<JobError>>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(job: &'a UnpackLayer, upper: &'a Path, is_wanted: &'a dyn Fn() -> Result<(), JobError>) -> Self {
        let (length, next_look) = (Cell::new(0), Cell::new(LOOK_EVERY));
        let (allowance, reason) = (Cell::new(u64::MAX), RefCell::default());
        let headers = RefCell::default();
        Self { job, upper, is_wanted, length, allowance, headers, free: free(upper).ok(), next_look, reason }
    }

    /// Counts bytes.
    fn count(&self, bytes: u64) -> std::io::Result<()> {
        self.length.set(self.length.get() + bytes);
        match self.allowance.get() {
            u64::MAX => {}
            left if left < bytes => {
                return Err(std::io::Error::other(format!(
                    "the names and attributes of one of its files take more than {} MiB",
                    HEADERS_LIMIT >> 20
                )));
            }
            left => self.allowance.set(left - bytes),
        }
        if self.length.get() < self.next_look.get() {
            return Ok(());
        }
        self.next_look.set(self.length.get() + LOOK_EVERY);
        self.look()?;
        let free = free(self.upper)?;
        if free < self.job.reserve && self.free.is_none_or(|before| free.saturating_add(FALL) < before) {
            let full = std::io::Error::from(rustix::io::Errno::NOSPC);
            let message = format!(
                "the layer `{}` was not unpacked to its end, because the disk of the store has less than `{}` MiB left, which \
                 {} keeps free",
                self.job.name,
                self.job.reserve >> 20,
                EnvVars::MODAL_STORE_RESERVE
            );
            return self.stop(JobError::refused(Subject::Store, message, &full));
        }
        Ok(())
    }

    /// Fails when nobody wants the layer any more.
    pub(super) fn look(&self) -> std::io::Result<()> {
        (self.is_wanted)().or_else(|error| self.stop(error))
    }

    fn stop(&self, reason: JobError) -> std::io::Result<()> {
        *self.reason.borrow_mut() = Some(reason);
        Err(std::io::Error::other("it was stopped"))
    }

    pub(super) fn stopped(&self) -> Result<(), JobError> {
        self.reason.borrow_mut().take().map_or(Ok(()), Err)
    }
}

/// A reader of what the archive does not have byte by byte, such as holes, which ends when nobody wants it.
pub(super) struct Looked<'a, R> {
    inner: R,
    watch: &'a Watch<'a>,
    /// Bytes since the last look.
    passed: u64,
}

impl<'a, R> Looked<'a, R> {
    pub(super) fn new(inner: R, watch: &'a Watch<'a>) -> Self {
        Self { inner, watch, passed: 0 }
    }
}

impl<R: Read> Read for Looked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.passed += count as u64;
        if self.passed >= LOOK_EVERY {
            self.passed = 0;
            self.watch.look()?;
        }
        Ok(count)
    }
}

/// Bytes that a disk has left for ordinary users.
fn free(path: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// A reader that counts what it gives.
pub(super) struct Watched<'a, R> {
    pub(super) inner: R,
    pub(super) watch: &'a Watch<'a>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.watch.count(count as u64)?;
        if self.watch.allowance.get() != u64::MAX {
            self.watch.headers.borrow_mut().extend_from_slice(&buffer[..count]);
        }
        Ok(count)
    }
}
