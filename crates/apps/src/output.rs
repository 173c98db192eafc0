//! What a detached app printed: one file that keeps the two streams apart and in their order.

use std::fs::File;
use std::io::PipeReader;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lamina_events::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use crate::files::{is_file, private_file};
use crate::{AppsError, state};

/// First bytes of the file: a name and the version of the format.
const MAGIC: &[u8] = b"LAMINA-OUTPUT\x01";

/// Bytes in front of what was printed: the stream, and a length.
const HEADER: usize = 5;

/// The most bytes of one piece.
const MAXIMUM_PIECE: usize = 64 << 10;

/// Bytes read at once: more than one piece.
const CHUNK: usize = 256 << 10;

/// How often a file is looked at where the kernel does not say that it has grown.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Adds to the file.
#[derive(Debug)]
pub struct OutputWriter {
    pub(crate) file: File,
    /// The length up to which the file is sound.
    length: u64,
    missing: Option<Missing>,
}

/// What could not be written.
#[derive(Debug)]
struct Missing {
    bytes: usize,
    reason: String,
}

impl OutputWriter {
    /// Makes the file.
    pub(crate) fn create(path: &Path) -> Result<(), AppsError> {
        let file = private_file().open(path)?.into_file();
        file.write_all_at(MAGIC, 0).map_err(AppsError::file("writing", path))
    }

    /// Takes away what a process that was killed has left of a piece; a file that makes no sense begins anew.
    pub(crate) fn mend(path: &Path) -> Result<(), AppsError> {
        let sound = OutputReader::open_endless(path).and_then(|mut reader| {
            // Nothing can break off.
            let _ = reader.read(&mut |_, _| ControlFlow::Continue(()))?;
            Ok(reader.position)
        });
        match sound {
            Ok(length) => Ok(fs_err::OpenOptions::new().write(true).open(path)?.set_len(length)?),
            Err(AppsError::Damaged { .. }) => {
                let _ = fs_err::remove_file(path);
                Self::create(path)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the file.
    pub(crate) fn append_to(path: &Path) -> Result<Self, AppsError> {
        let file = fs_err::OpenOptions::new().write(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file: file.into_file(), length, missing: None })
    }

    /// Adds what was printed. What the disk cannot take is left out: an app does not fail because its output is not
    /// recorded. Where something is missing, a line says so.
    pub fn write(&mut self, stream: Stream, data: &[u8]) {
        for piece in data.chunks(MAXIMUM_PIECE) {
            if let Err(error) = self.note_missing().and_then(|()| self.append(stream, piece)) {
                let before = self.missing.take().map_or(0, |missing| missing.bytes);
                self.missing = Some(Missing { bytes: before + piece.len(), reason: error.to_string() });
            }
        }
    }

    /// Says in the file what is missing.
    fn note_missing(&mut self) -> std::io::Result<()> {
        let Some(Missing { bytes, reason }) = &self.missing else { return Ok(()) };
        let line = format!("warning: {bytes} bytes of output were not recorded here: {reason}\n");
        self.append(Stream::Stderr, line.as_bytes())?;
        self.missing = None;
        Ok(())
    }

    /// Adds one piece. A whole one is never taken back: somebody may have read it already.
    fn append(&mut self, stream: Stream, piece: &[u8]) -> std::io::Result<()> {
        let mut frame = vec![number(stream)];
        // A piece has no more than `MAXIMUM_PIECE` bytes.
        frame.extend_from_slice(&u32::try_from(piece.len()).unwrap_or(0).to_le_bytes());
        frame.extend_from_slice(piece);
        let written = self.file.write_all_at(&frame, self.length);
        if written.is_ok() {
            self.length += frame.len() as u64;
        } else {
            // A part of a piece at the end of the file would stand for one that is still being written.
            let _ = self.file.set_len(self.length);
        }
        written
    }
}

impl Drop for OutputWriter {
    fn drop(&mut self) {
        // There may be room for the note where there was none for the output.
        let _ = self.note_missing();
    }
}

/// Takes what was printed, until it cannot.
pub type Show<'a> = dyn FnMut(Stream, &[u8]) -> ControlFlow<std::io::Error> + 'a;

/// Reads the file, also while it grows.
#[derive(Debug)]
pub struct OutputReader {
    file: File,
    path: PathBuf,
    /// The state file of the app whose end is the end of the output; without one there is none.
    state: Option<PathBuf>,
    position: u64,
}

impl OutputReader {
    /// Opens the file of the app with this state file.
    pub(crate) fn open(path: &Path, state: PathBuf) -> Result<Self, AppsError> {
        Ok(Self { state: Some(state), ..Self::open_endless(path)? })
    }

    /// Opens a file that several processes write to, one after the other.
    pub(crate) fn open_endless(path: &Path) -> Result<Self, AppsError> {
        if !is_file(path) {
            let reason = "it is missing, and with it what the app printed".to_owned();
            return Err(AppsError::Damaged { path: path.to_owned(), reason });
        }
        let file = fs_err::File::open(path)?.into_file();
        let mut magic = [0; MAGIC.len()];
        if file.read_exact_at(&mut magic, 0).is_err() || magic != MAGIC {
            let reason = "it is no output of an app that this version can read".to_owned();
            return Err(AppsError::Damaged { path: path.to_owned(), reason });
        }
        Ok(Self { file, path: path.to_owned(), state: None, position: MAGIC.len() as u64 })
    }

    /// Passes over what stands before `position`, where a piece begins.
    pub(crate) fn skip_to(&mut self, position: u64) {
        self.position = position;
    }

    /// Shows what was printed so far, from where the last reading stopped, until `show` cannot go on.
    ///
    /// # Errors
    /// When the file cannot be read or makes no sense.
    pub fn read(&mut self, show: &mut Show<'_>) -> Result<ControlFlow<std::io::Error>, AppsError> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match self.file.read_at(&mut chunk, self.position) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other.map_err(AppsError::file("reading", &self.path))?,
            };
            let mut rest = &chunk[..count];
            while let Some((stream, piece)) = self.first_piece(rest)? {
                let length = HEADER + piece.len();
                self.position += length as u64;
                rest = &rest[length..];
                let outcome = show(stream, piece);
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

    /// As [`OutputReader::read`], and goes on until the app has ended.
    ///
    /// # Errors
    /// As [`OutputReader::read`].
    pub fn follow(&mut self, show: &mut Show<'_>) -> Result<ControlFlow<std::io::Error>, AppsError> {
        let (end, changes) = (self.end()?, Changes::of(&self.path));
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
            }
        }
    }

    /// The first piece of `data`, if it is whole.
    fn first_piece<'a>(&self, data: &'a [u8]) -> Result<Option<(Stream, &'a [u8])>, AppsError> {
        let Some((header, rest)) = data.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [first, length @ ..] = header;
        let length = u32::from_le_bytes(*length) as usize;
        let stream = stream(*first).filter(|_| length <= MAXIMUM_PIECE).ok_or_else(|| {
            let reason = format!("byte {} begins no piece of output", self.position);
            AppsError::Damaged { path: self.path.clone(), reason }
        })?;
        Ok(rest.get(..length).map(|piece| (stream, piece)))
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

/// A descriptor that is readable when a file has grown.
pub(crate) struct Changes(OwnedFd);

impl Changes {
    /// Those of a file; nothing where the kernel cannot tell.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
        inotify::add_watch(&changes, path, inotify::WatchFlags::MODIFY).ok()?;
        Some(Self(changes))
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

fn number(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    }
}

fn stream(number: u8) -> Option<Stream> {
    match number {
        1 => Some(Stream::Stdout),
        2 => Some(Stream::Stderr),
        _ => None,
    }
}
