//! The `state` file of a detached app: locked while it runs, it says which process it is and how it ended.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use lamina_ground::seconds_since_1970;
use lamina_store::Lock;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::AppsError;
use crate::files::{is_file, private_file, read_file};

/// Bytes of the file. It has them from the start, so that a full disk cannot keep an app from saying how it ended.
const LENGTH: usize = 64;

/// Whether a detached app runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppState {
    /// It runs.
    Running {
        /// Its process, once that has begun.
        pid: Option<u32>,
    },
    /// It has ended.
    Ended {
        /// Its exit code.
        code: u8,
        /// When, in seconds since 1970.
        time: u64,
    },
    /// It is gone and did not say how it ended: it was killed, or the machine went down.
    Died,
}

impl AppState {
    /// Whether it runs.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

/// The file, locked by whoever has it.
#[derive(Debug)]
pub(crate) struct StateFile {
    file: File,
    path: PathBuf,
}

impl StateFile {
    /// Makes it and locks it.
    pub(crate) fn create(path: &Path) -> Result<Self, AppsError> {
        let file = private_file().open(path)?.into_file();
        let state = Self { file, path: path.to_owned() };
        state.write("starting")?;
        // Those who ask whether it is locked hold it for a moment.
        lock(&state.file, FlockOperation::LockExclusive).map_err(AppsError::file("locking", path))?;
        Ok(state)
    }

    /// Makes it, or takes the one that is there, unless somebody has it; and what became of who had it before, if anybody had.
    pub(crate) fn acquire(path: &Path) -> Result<Option<(Self, Option<AppState>)>, AppsError> {
        let mut options = fs_err::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600).open(path)?.into_file();
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(AppsError::file("locking", path)(errno)),
        }
        let before = Some(fs_err::read(path)?).filter(|bytes| !bytes.is_empty()).map(|bytes| parse(&bytes));
        let state = Self { file, path: path.to_owned() };
        state.write("starting")?;
        Ok(Some((state, before)))
    }

    /// Takes it over from the process that made it.
    pub(crate) fn adopt(path: &Path, held: OwnedFd) -> Result<Self, AppsError> {
        let file = File::from(held);
        let status = |file: &File| file.metadata().map_err(AppsError::file("reading the status of", path));
        let (mine, expected) = (status(&file)?, fs_err::metadata(path)?);
        if (mine.dev(), mine.ino()) != (expected.dev(), expected.ino()) {
            let reason = "only the command that has made it may start its process".to_owned();
            return Err(AppsError::Damaged { path: path.to_owned(), reason });
        }
        let state = Self { file, path: path.to_owned() };
        state.write(&format!("running {}", std::process::id()))?;
        Ok(state)
    }

    /// Notes how the app ended.
    pub(crate) fn end(&self, code: u8) -> Result<(), AppsError> {
        self.write(&format!("ended {code} {}", seconds_since_1970()))
    }

    /// Notes how an app ended that was killed.
    pub(crate) fn note_death(path: &Path, code: u8) -> Result<(), AppsError> {
        if !is_file(path) || Lock::is_held(path)? {
            return Ok(());
        }
        let file = fs_err::OpenOptions::new().read(true).write(true).open(path)?.into_file();
        // Those who wait for its end hold it for a moment.
        lock(&file, FlockOperation::LockExclusive).map_err(AppsError::file("locking", path))?;
        if parse(&fs_err::read(path)?) == AppState::Died {
            Self { file, path: path.to_owned() }.end(code)?;
        }
        Ok(())
    }

    /// What others see of it.
    pub(crate) fn read(path: &Path) -> Result<AppState, AppsError> {
        let is_held = is_file(path) && Lock::is_held(path)?;
        let Some(bytes) = read_file(path)? else { return Ok(AppState::Died) };
        if !is_held {
            return Ok(parse(&bytes));
        }
        let pid = words(&bytes).and_then(|words| match words[..] {
            ["running", pid] => pid.parse().ok().filter(|pid| (1..=i32::MAX.cast_unsigned()).contains(pid)),
            _ => None,
        });
        Ok(AppState::Running { pid })
    }

    fn write(&self, text: &str) -> Result<(), AppsError> {
        let line = format!("{text:<width$}\n", width = LENGTH - 1);
        self.file.write_all_at(line.as_bytes(), 0).map_err(AppsError::file("writing", &self.path))
    }
}

impl From<StateFile> for OwnedFd {
    fn from(state: StateFile) -> Self {
        state.file.into()
    }
}

/// Waits until the app with this state file is gone.
pub(crate) fn wait_for_end(path: &Path) -> Result<(), AppsError> {
    if !is_file(path) {
        return Ok(());
    }
    let file = fs_err::File::open(path)?;
    lock(file.file(), FlockOperation::LockShared).map_err(AppsError::file("locking", path))
}

fn lock(file: &File, operation: FlockOperation) -> Result<(), Errno> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// What the file of an app says that does not run.
fn parse(bytes: &[u8]) -> AppState {
    let ended = words(bytes).and_then(|words| match words[..] {
        ["ended", code, time] => Some(AppState::Ended { code: code.parse().ok()?, time: time.parse().ok()? }),
        _ => None,
    });
    ended.unwrap_or(AppState::Died)
}

fn words(bytes: &[u8]) -> Option<Vec<&str>> {
    Some(std::str::from_utf8(bytes).ok()?.split_whitespace().collect())
}
