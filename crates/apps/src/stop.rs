//! Stopping an app: its process is asked, told, and killed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::background::has_words;
use crate::records::state_file;
use crate::state::StateFile;
use crate::{AppState, AppsError, BACKGROUND, DetachedApps};

/// How long a process that has just been started may take to say which one it is.
const START: Duration = Duration::from_secs(10);

/// How an app is ended: asked, told, killed; and how long each may take. Exit hooks of classes have 30 seconds.
const STEPS: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(40)),
    (Signal::INT, Duration::from_secs(5)),
    (Signal::KILL, Duration::from_secs(10)),
];

impl DetachedApps {
    /// Ends an app as Ctrl-C would; one that does not listen is told again, and then killed. False when it had ended
    /// already.
    ///
    /// # Errors
    /// When its process is not found, or does not end.
    pub fn stop(&self, id: &str) -> Result<bool, AppsError> {
        let state = state_file(&self.directory(id));
        let Some(process) = Process::of(&state, id, &[BACKGROUND, id])? else { return Ok(false) };
        process.stop()?;
        Ok(true)
    }
}

/// The process of a running app. Its descriptor is readable once it has ended.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    descriptor: OwnedFd,
    state: PathBuf,
    /// The app, for messages.
    app: String,
}

impl Process {
    /// Finds the process that holds a state file, and whose command line begins with these words; nothing when it has ended.
    pub(crate) fn of(state: &Path, app: &str, words: &[&str]) -> Result<Option<Self>, AppsError> {
        let Some(pid) = pid(state, app)? else { return Ok(None) };
        let descriptor = pidfd_open(pid, PidfdFlags::empty());
        let is_right = has_words(pid, words);
        // As its lock is still held, the number was not given to another process before it was looked at.
        if !StateFile::read(state)?.is_running() {
            return Ok(None);
        }
        match descriptor {
            Ok(descriptor) if is_right => {
                Ok(Some(Self { pid, descriptor, state: state.to_owned(), app: app.to_owned() }))
            }
            Ok(_) | Err(Errno::SRCH) => Err(AppsError::Unseen { id: app.to_owned(), pid: pid.as_raw_pid() }),
            Err(errno) => Err(std::io::Error::from(errno).into()),
        }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends it: it is asked, told, killed.
    pub(crate) fn stop(&self) -> Result<(), AppsError> {
        for (signal, patience) in STEPS {
            self.signal(signal)?;
            if self.is_gone_within(patience)? {
                // One that was killed could not say so.
                return StateFile::note_death(&self.state, u8::try_from(128 + signal.as_raw()).unwrap_or(1));
            }
        }
        Err(AppsError::NotEnded { id: self.app.clone(), pid: self.pid.as_raw_pid() })
    }

    fn signal(&self, signal: Signal) -> std::io::Result<()> {
        match pidfd_send_signal(&self.descriptor, signal) {
            // It is gone already.
            Err(Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    fn is_gone_within(&self, patience: Duration) -> std::io::Result<bool> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(std::io::Error::other)?;
            match poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], Some(&timeout)) {
                Err(Errno::INTR) => {}
                other => return Ok(other? > 0),
            }
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The number of an app's process; nothing when the app has ended.
fn pid(state: &Path, app: &str) -> Result<Option<Pid>, AppsError> {
    let asked = Instant::now();
    loop {
        match StateFile::read(state)? {
            AppState::Running { pid: Some(pid) } => return Ok(Pid::from_raw(pid.cast_signed())),
            AppState::Running { pid: None } if asked.elapsed() < START => {
                std::thread::sleep(Duration::from_millis(20));
            }
            AppState::Running { pid: None } => return Err(AppsError::NoProcess(app.to_owned())),
            _ => return Ok(None),
        }
    }
}
