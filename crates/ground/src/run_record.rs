//! The record of a run: what was done and why.
//!
//! It is written to memory, so that it costs a run with nothing to tell next to nothing. It becomes a file when something
//! happens that somebody may ask about, and then has what came before, too. The helper processes write to memory that is
//! shared with them, as their standard output.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

use crate::{random_id, seconds_since_1970};

/// Most bytes that one process writes to a record.
const MOST_BYTES: u64 = 2 << 20;
/// Most records that are kept.
const MOST_RECORDS: usize = 64;
/// What all names of records have, and no other log.
const MARK: &str = "-run-";

/// What a helper process puts on the memory that is to be kept: it has no file to make. Nothing is ever cut off from it anyway.
const WANTED: SealFlags = SealFlags::SHRINK;

static CURRENT: OnceLock<RunRecord> = OnceLock::new();

/// What a run writes about itself.
#[derive(Debug)]
pub struct RunRecord {
    /// Nothing: it is standard output.
    memory: Option<OwnedFd>,
    /// What is shown on standard error as well, in the form of `MODAL_LOG`.
    shown: Option<String>,
    /// How many bytes this process may still write.
    room: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    directory: Option<PathBuf>,
    is_wanted: bool,
    file: Option<Kept>,
    /// What this process wrote and the shared memory does not have yet.
    pending: Vec<u8>,
}

/// The file of a record.
#[derive(Debug)]
struct Kept {
    file: fs_err::File,
    /// Bytes of the memory that it has.
    copied: u64,
}

impl RunRecord {
    /// Begins the record of this process; nothing if the machine does not allow it, for no run may fail for it. `shown` is
    /// what is shown on standard error as well, in the form of `MODAL_LOG`.
    pub fn begin(shown: Option<String>) -> Option<&'static Self> {
        let memory = new_memory().ok()?;
        Some(CURRENT.get_or_init(|| Self::writing_to(Some(memory), shown)))
    }

    /// Goes on with the record of the process that has started this one, which is its standard output.
    pub fn begin_in_helper() -> &'static Self {
        CURRENT.get_or_init(|| Self::writing_to(None, None))
    }

    /// The record of this process, if there is one.
    pub fn current() -> Option<&'static Self> {
        CURRENT.get()
    }

    fn writing_to(memory: Option<OwnedFd>, shown: Option<String>) -> Self {
        Self { memory, shown, room: AtomicU64::new(MOST_BYTES), state: Mutex::default() }
    }

    fn memory(&self) -> BorrowedFd<'_> {
        match &self.memory {
            Some(memory) => memory.as_fd(),
            None => rustix::stdio::stdout(),
        }
    }

    /// What is shown on standard error as well, in the form of `MODAL_LOG`.
    #[must_use]
    pub fn shown(&self) -> Option<&str> {
        self.shown.as_deref()
    }

    /// What helper processes get as standard output.
    ///
    /// # Errors
    /// When there are no further descriptors.
    pub fn for_helper(&self) -> io::Result<OwnedFd> {
        // What it writes comes after what is there by now.
        self.share(&mut self.lock());
        self.memory().try_clone_to_owned()
    }

    /// Says where the file is made when the record is to be kept.
    pub fn keep_in(&self, directory: PathBuf) {
        let mut state = self.lock();
        state.directory.get_or_insert(directory);
        if state.is_wanted {
            self.copy(&mut state);
        }
    }

    /// Keeps it: something has happened that somebody may ask about. Answers the file, as soon as it is known where that is.
    pub fn keep(&self) -> Option<PathBuf> {
        if self.memory.is_none() {
            want(self.memory());
            return None;
        }
        let mut state = self.lock();
        state.is_wanted = true;
        self.copy(&mut state);
        state.file.as_ref().map(|kept| kept.file.path().to_owned())
    }

    /// Puts what the helper processes wrote last into the file, if there is one or one of them wants it.
    pub fn settle(&self) {
        let mut state = self.lock();
        state.is_wanted |= fcntl_get_seals(self.memory()).is_ok_and(|seals| seals.contains(WANTED));
        self.copy(&mut state);
    }

    /// Brings the file up to date. Where that fails the record is lost, and the run goes on.
    fn copy(&self, state: &mut State) {
        if state.file.is_none() && state.is_wanted {
            state.file = state.directory.as_deref().and_then(|directory| create(directory).ok());
        }
        if state.file.is_some() {
            self.share(state);
        }
        let Some(kept) = &mut state.file else { return };
        let mut buffer = [0; 8 << 10];
        while let Ok(count @ 1..) = rustix::io::pread(self.memory(), &mut buffer, kept.copied) {
            if kept.file.write_all(&buffer[..count]).is_err() {
                return;
            }
            kept.copied += count as u64;
        }
    }

    /// Puts what is pending into the shared memory, which takes it at once. Nothing can be done where that fails.
    fn share(&self, state: &mut State) {
        let _ = rustix::io::write(self.memory(), &std::mem::take(&mut state.pending));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &RunRecord {
    /// Writes one record, whole. What goes beyond the limit is left out.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let wanted = text.len() as u64;
        let taken =
            self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| Some(room.saturating_sub(wanted)));
        let text_or_end = match taken.unwrap_or_default() {
            0 => return Ok(text.len()),
            room if room <= wanted => &b"The record is full: what follows is left out.\n"[..],
            _ => text,
        };
        if self.memory.is_none() {
            rustix::io::write(self.memory(), text_or_end)?;
            return Ok(text.len());
        }
        let mut state = self.lock();
        state.pending.extend_from_slice(text_or_end);
        self.copy(&mut state);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Asks the process that makes the file to keep what is in `memory`.
fn want(memory: BorrowedFd<'_>) {
    // It fails where standard output is no record.
    let _ = fcntl_add_seals(memory, WANTED);
}

fn new_memory() -> io::Result<OwnedFd> {
    Ok(memfd_create("record", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?)
}

/// The records in a directory of logs, oldest first.
///
/// # Errors
/// When it cannot be read.
pub fn run_records(logs: &Path) -> io::Result<Vec<PathBuf>> {
    let mut records = Vec::new();
    for entry in fs_err::read_dir(logs)? {
        let entry = entry?;
        let is_named_so = entry.file_name().to_str().is_some_and(|name| name.contains(MARK));
        if is_named_so && entry.file_type()?.is_file() {
            records.push(entry.path());
        }
    }
    records.sort();
    Ok(records)
}

/// Makes the file of a record, and removes the oldest ones beyond the limit.
fn create(logs: &Path) -> io::Result<Kept> {
    let name = format!("{}-{}.log", seconds_since_1970(), random_id("run"));
    let file = fs_err::OpenOptions::new().append(true).create_new(true).open(logs.join(name))?;
    let records = run_records(logs)?;
    for old in &records[..records.len().saturating_sub(MOST_RECORDS)] {
        // Another run may have removed it.
        let _ = fs_err::remove_file(old);
    }
    Ok(Kept { file, copied: 0 })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn record() -> RunRecord {
        RunRecord::writing_to(Some(new_memory().unwrap()), None)
    }

    #[test]
    fn a_file_is_made_only_for_what_is_kept_and_has_what_came_before_and_what_helpers_write() {
        let (record, logs) = (record(), tempfile::tempdir().unwrap());
        writeln!(&record, "opened").unwrap();
        record.keep_in(logs.path().to_owned());
        writeln!(File::from(record.for_helper().unwrap()), "a helper").unwrap();
        record.settle();
        assert!(run_records(logs.path()).unwrap().is_empty());
        let path = record.keep().unwrap();
        writeln!(&record, "a step").unwrap();
        writeln!(File::from(record.for_helper().unwrap()), "its helper").unwrap();
        record.settle();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "opened\na helper\na step\nits helper\n");
        assert_eq!(record.keep().unwrap(), path, "there is one file");
        assert_eq!(run_records(logs.path()).unwrap(), [path]);
    }

    #[test]
    fn what_a_helper_wants_is_kept() {
        let (record, logs) = (record(), tempfile::tempdir().unwrap());
        record.keep_in(logs.path().to_owned());
        record.settle();
        assert!(run_records(logs.path()).unwrap().is_empty());
        let helper = File::from(record.for_helper().unwrap());
        writeln!(&helper, "warning").unwrap();
        want(helper.as_fd());
        record.settle();
        let [path] = &run_records(logs.path()).unwrap()[..] else { panic!("there is one") };
        assert_eq!(fs_err::read_to_string(path).unwrap(), "warning\n");
    }

    #[test]
    fn nothing_is_written_to_a_full_record() {
        let record = record();
        record.room.store(1, Ordering::Relaxed);
        for _ in 0..2 {
            assert_eq!((&record).write(b"line").unwrap(), 4);
        }
        assert_eq!(record.lock().pending, b"The record is full: what follows is left out.\n");
    }

    #[test]
    fn what_is_wanted_before_the_place_is_known_is_kept_there() {
        let (record, logs) = (record(), tempfile::tempdir().unwrap());
        assert_eq!(record.keep(), None);
        writeln!(&record, "warning").unwrap();
        record.keep_in(logs.path().to_owned());
        assert_eq!(fs_err::read_to_string(record.keep().unwrap()).unwrap(), "warning\n");
    }

    #[test]
    fn a_record_is_bounded_and_says_so() {
        let (record, logs) = (record(), tempfile::tempdir().unwrap());
        record.keep_in(logs.path().to_owned());
        let line = format!("{}\n", "x".repeat(64 << 10));
        for _ in 0..100 {
            (&record).write_all(line.as_bytes()).unwrap();
        }
        let text = fs_err::read_to_string(record.keep().unwrap()).unwrap();
        assert!(text.len() as u64 <= MOST_BYTES, "{}", text.len());
        assert!(text.ends_with("x\nThe record is full: what follows is left out.\n"));
    }

    #[test]
    fn the_oldest_records_make_room_and_other_logs_stay() {
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().to_owned();
        for number in 0..MOST_RECORDS + 5 {
            fs_err::write(logs.join(format!("10000000{number:02}-run-a.log")), "").unwrap();
        }
        fs_err::write(logs.join("1000000000-3617f6a15155-1.log"), "").unwrap();
        fs_err::create_dir(logs.join("1000000099-run-b.log")).unwrap();
        let record = record();
        record.keep_in(logs.clone());
        let path = record.keep().unwrap();
        let left = run_records(&logs).unwrap();
        assert_eq!((left.len(), left.last()), (MOST_RECORDS, Some(&path)));
        assert!(left[0].ends_with("1000000006-run-a.log"), "{}", left[0].display());
        assert!(logs.join("1000000000-3617f6a15155-1.log").exists());
    }
}
