//! Stopping an app: its process is asked, told, and killed.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::background::is_background;
use crate::{AppState, AppsError, DetachedApps};

/// How long a process that has just been started may take to say which one it is.
const START: Duration = Duration::from_secs(10);

/// How an app is ended: asked, told, killed; and how long each may take.
const STEPS: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(10)),
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
        let Some(process) = Process::of(self, id)? else { return Ok(false) };
        for (signal, patience) in STEPS {
            process.signal(signal)?;
            if process.is_gone_within(patience)? {
                // One that was killed could not say so.
                self.note_death(id, u8::try_from(128 + signal.as_raw()).unwrap_or(1))?;
                return Ok(true);
            }
        }
        Err(AppsError::NotEnded { id: id.to_owned(), pid: process.pid.as_raw_pid() })
    }
}

/// The process of a running app.
struct Process {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Process {
    /// Finds it; nothing when the app has ended.
    fn of(apps: &DetachedApps, id: &str) -> Result<Option<Self>, AppsError> {
        let Some(pid) = pid(apps, id)? else { return Ok(None) };
        let descriptor = pidfd_open(pid, PidfdFlags::empty());
        let is_background = is_background(pid, id);
        // As its lock is still held, the number was not given to another process before it was looked at.
        if !is_running(apps, id)? {
            return Ok(None);
        }
        match descriptor {
            Ok(descriptor) if is_background => Ok(Some(Self { pid, descriptor })),
            Ok(_) | Err(Errno::SRCH) => Err(AppsError::Unseen { id: id.to_owned(), pid: pid.as_raw_pid() }),
            Err(errno) => Err(std::io::Error::from(errno).into()),
        }
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

fn is_running(apps: &DetachedApps, id: &str) -> Result<bool, AppsError> {
    Ok(apps.get(id)?.is_some_and(|app| app.state.is_running()))
}

/// The number of an app's process; nothing when the app has ended.
fn pid(apps: &DetachedApps, id: &str) -> Result<Option<Pid>, AppsError> {
    let asked = Instant::now();
    loop {
        match apps.get(id)?.map(|app| app.state) {
            Some(AppState::Running { pid: Some(pid) }) => return Ok(Pid::from_raw(pid.cast_signed())),
            Some(AppState::Running { pid: None }) if asked.elapsed() < START => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Some(AppState::Running { pid: None }) => return Err(AppsError::NoProcess(id.to_owned())),
            _ => return Ok(None),
        }
    }
}
