//! Reading a log, also while it grows.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, PipeReader};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::earlier::Earlier;
use super::format::{Found, MAGIC, decode};
use super::{LogEntry, LogPosition, Show, Source, segments};
use crate::files::is_file;
use crate::{AppsError, state};

/// Bytes read at once: more than one entry.
const CHUNK: usize = 256 << 10;

/// How often a log is looked at where the kernel does not say that it has grown.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

type Outcome = Result<ControlFlow<std::io::Error>, AppsError>;

/// Reads a log.
#[derive(Debug)]
pub struct LogReader {
    directory: PathBuf,
    earlier: Earlier,
    /// The state file of the app whose end is the end of the log; without one there is none.
    state: Option<PathBuf>,
    /// The number of the last segment that was read.
    last: u64,
    open: Option<Segment>,
}

impl LogReader {
    /// The log in a directory that may not be there yet, after the output in its earlier form, where there is any; `state` is
    /// the state file of the app whose end is its end.
    pub(crate) fn new(directory: PathBuf, earlier: PathBuf, state: Option<PathBuf>) -> Self {
        Self { directory, earlier: Earlier::new(earlier), state, last: 0, open: None }
    }

    /// Passes over what stands before a place.
    pub(crate) fn skip_to(&mut self, position: LogPosition) -> Result<(), AppsError> {
        self.earlier.skip();
        let Some(before) = position.segment.checked_sub(1) else { return Ok(()) };
        self.last = before;
        self.open = Segment::open(&self.directory, position.segment)?;
        // One that is shorter was begun anew meanwhile.
        if let Some(open) = self.open.as_mut().filter(|open| open.length() >= position.offset) {
            open.position = position.offset;
        }
        Ok(())
    }

    /// Shows what there is so far, from where the last reading stopped, until `show` cannot go on.
    ///
    /// # Errors
    /// When the log cannot be read. What makes no sense in it is passed over, and said in its place.
    pub fn read(&mut self, show: &mut Show<'_>) -> Outcome {
        let outcome = self.earlier.read(show)?;
        if outcome.is_break() {
            return Ok(outcome);
        }
        loop {
            if self.open.is_none() {
                let all = segments::all(&self.directory)?;
                let Some(next) = all.into_iter().find(|number| *number > self.last) else { break };
                if self.last > 0 && next > self.last + 1 {
                    let outcome = show(&said("what came here was dropped before it could be read: it was too much"));
                    if outcome.is_break() {
                        return Ok(outcome);
                    }
                }
                self.last = next - 1;
                self.open = Segment::open(&self.directory, next)?;
            }
            let Some(open) = &mut self.open else { continue };
            // Asked before reading: a segment is complete when the next one is there.
            let is_complete = segments::all(&self.directory)?.last().is_some_and(|last| *last > open.number);
            let outcome = open.read(show)?;
            if outcome.is_break() {
                return Ok(outcome);
            }
            if !is_complete {
                break;
            }
            self.last = open.number;
            self.open = None;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// As [`LogReader::read`], and goes on until the app has ended.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn follow(&mut self, show: &mut Show<'_>) -> Outcome {
        let end = self.end()?;
        let mut changes = self.changes();
        loop {
            // Asked before reading: what was printed before the end is shown before it.
            let has_ended = wait(&[&end], Some(&Timespec::default()))?;
            let outcome = self.read(show)?;
            if has_ended || outcome.is_break() {
                return Ok(outcome);
            }
            if let Some(changes) = &changes {
                wait(&[&end, &changes.0], None)?;
                changes.forget();
            } else {
                wait(&[&end], Some(&PAUSE))?;
                changes = self.changes();
            }
        }
    }

    /// The same log, from its beginning.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::new(self.directory.clone(), self.earlier.path().to_owned(), self.state.clone())
    }

    /// The containers in it whose ids begin so.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn containers(&self, beginning: &str) -> Result<BTreeSet<String>, AppsError> {
        let mut found = BTreeSet::new();
        let note = &mut |entry: &LogEntry| {
            if let Some(id) = entry.container.as_ref().filter(|id| id.starts_with(beginning) && !found.contains(*id)) {
                found.insert(id.clone());
            }
            ControlFlow::Continue(())
        };
        // Nothing can break off.
        let _ = self.again().read(note)?;
        Ok(found)
    }

    /// Whether nothing was ever printed.
    pub(crate) fn is_empty(&self) -> bool {
        !self.earlier.is_there() && !self.directory.exists()
    }

    /// What tells of its growth, once there is something to watch.
    pub(crate) fn changes(&self) -> Option<Changes> {
        Changes::of(&[&self.directory, self.earlier.path()])
    }

    /// A pipe that is hung up when the app has ended.
    fn end(&self) -> Result<PipeReader, AppsError> {
        let (end, held) = std::io::pipe()?;
        let state = self.state.clone();
        std::thread::spawn(move || {
            match state {
                // A state file that cannot be asked must not keep anybody waiting.
                Some(state) => drop((state::wait_for_end(&state), held)),
                None => std::mem::forget(held),
            }
        });
        Ok(end)
    }
}

/// A segment that is read.
#[derive(Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    file: File,
    position: u64,
    /// From where it made no sense.
    is_damaged: bool,
}

impl Segment {
    /// Opens one; nothing where it has gone meanwhile.
    fn open(directory: &Path, number: u64) -> Result<Option<Self>, AppsError> {
        let path = segments::path(directory, number);
        if !is_file(&path) {
            return Ok(None);
        }
        match fs_err::File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            file => Ok(Some(Self { number, path, file: file?.into_file(), position: 0, is_damaged: false })),
        }
    }

    fn length(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read(&mut self, show: &mut Show<'_>) -> Outcome {
        let mut chunk = Vec::new();
        while !self.is_damaged {
            chunk.resize(CHUNK, 0);
            let count = match self.file.read_at(&mut chunk, self.position) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(AppsError::file("reading", &self.path))?,
            };
            let mut rest = &chunk[..count];
            if self.position == 0 {
                match rest.strip_prefix(MAGIC) {
                    Some(entries) => rest = entries,
                    None if MAGIC.starts_with(rest) => break,
                    None => return Ok(self.give_up(show)),
                }
                self.position = MAGIC.len() as u64;
            }
            loop {
                match decode(rest) {
                    Found::Entry(entry, length) => {
                        self.position += length as u64;
                        rest = &rest[length..];
                        let outcome = show(&entry);
                        if outcome.is_break() {
                            return Ok(outcome);
                        }
                    }
                    // The rest is read again when it is whole.
                    Found::Part => break,
                    Found::Nonsense => return Ok(self.give_up(show)),
                }
            }
            if count < CHUNK {
                break;
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn give_up(&mut self, show: &mut Show<'_>) -> ControlFlow<std::io::Error> {
        self.is_damaged = true;
        let (path, position) = (self.path.display(), self.position);
        show(&said(&format!("from byte {position} on, `{path}` is no log that this version can read, and is left out")))
    }
}

fn said(what: &str) -> LogEntry {
    LogEntry::new(None, Source::System, format!("warning: {what}\n"))
}

/// How many bytes of a segment make sense; nothing where something else than a torn entry follows.
pub(super) fn sound_length(path: &Path) -> Result<Option<u64>, AppsError> {
    let Some(number) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else {
        return Ok(None);
    };
    let directory = path.parent().unwrap_or(path);
    let Some(mut segment) = Segment::open(directory, number)? else { return Ok(None) };
    // Nothing can break off.
    let _ = segment.read(&mut |_| ControlFlow::Continue(()))?;
    Ok(Some(segment.position).filter(|position| *position > 0 && !segment.is_damaged))
}

/// A descriptor that is readable when something has changed.
pub(crate) struct Changes(OwnedFd);

impl Changes {
    /// Those of directories and files; nothing where the kernel cannot tell of any.
    fn of(paths: &[&Path]) -> Option<Self> {
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        let watched = paths.iter().filter(|path| inotify::add_watch(&changes, **path, flags).is_ok()).count();
        (watched > 0).then_some(Self(changes))
    }

    /// Waits for the next one, at most so long.
    pub(crate) fn wait(&self, patience: Duration) -> Result<(), AppsError> {
        wait(&[&self.0], Timespec::try_from(patience).ok().as_ref())?;
        self.forget();
        Ok(())
    }

    /// What has changed is seen by reading.
    fn forget(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 4096]);
    }
}

/// Waits until one of the descriptors has something to say; false if none has.
fn wait(descriptors: &[&dyn AsFd], timeout: Option<&Timespec>) -> Result<bool, AppsError> {
    let mut polled: Vec<_> = descriptors.iter().map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
    match poll(&mut polled, timeout) {
        Err(Errno::INTR) => Ok(false),
        other => Ok(other.map_err(std::io::Error::from)? > 0),
    }
}
