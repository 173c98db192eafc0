//! Keeping the processes of apps that run by themselves: they are started, and started again if they were killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lamina_apps::{AppState, AppsError, Deployment, DeploymentName, DeploymentWatch, Deployments, HostProcess};
use lamina_events::CancelToken;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::program::OwnProgram;
use super::{runs_by_itself, start_deployed};
use crate::EngineError;

/// The systemd unit that keeps apps: what runs in it ends with it.
pub const KEEPING_UNIT: &str = "modal-apps.service";

/// The first and the longest pause before a process that has ended is started again; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// Signals by which somebody ends a process on purpose, as exit codes: hang-up, Ctrl-C, `kill`.
const ON_PURPOSE: [u8; 3] = [129, 130, 143];

/// What is told of apps that are kept.
#[derive(Debug)]
pub enum KeepingNews<'a> {
    /// The process of an app was started.
    Started(&'a DeploymentName),
    /// It could not be started, which is tried again after a pause.
    NotStarted(&'a DeploymentName, &'a EngineError, Duration),
    /// It has ended, as its state says. It is started again after a pause; without one, when somebody calls the app.
    Ended(&'a DeploymentName, AppState, Option<Duration>),
    /// It is ended, because it is to end with the process that keeps it.
    Stopping(&'a DeploymentName),
    /// Something cannot be found out, or done.
    Trouble(&'a AppsError),
}

/// Why apps are kept no longer.
#[derive(Debug, PartialEq, Eq)]
pub enum KeepingEnd {
    /// Nobody wants it any more.
    Cancelled,
    /// Another program lies in the place of this one, here. The apps go on: it is to keep them.
    Replaced(PathBuf),
}

/// Starts the processes of all apps that [run by themselves](runs_by_itself), and starts them again if they end without
/// anybody's wish, until `cancel` comes; those that belong to this process are ended in order then. It also ends when
/// something happens after this program was replaced. Nothing wakes up while nothing happens.
///
/// # Errors
/// When apps cannot be watched.
pub fn keep_deployed(
    deployments: &Deployments,
    cancel: &CancelToken,
    tell: &mut dyn FnMut(KeepingNews<'_>),
) -> Result<KeepingEnd, AppsError> {
    let own = OwnProgram::note()?;
    let changes = DeploymentWatch::new(deployments)?;
    let (cancelled, held) = io::pipe()?;
    let _cancelled_then = cancel.on_cancel(move || drop(held));
    let mut keeper = Keeper { deployments, cancel, tell, apps: BTreeMap::new(), damaged: BTreeSet::new() };
    while !cancel.is_cancelled() {
        // In this order: what changes after the look is told.
        changes.renew()?;
        if !keeper.is_starting()
            && let Some(program) = own.replacement()
        {
            return Ok(KeepingEnd::Replaced(program.to_owned()));
        }
        keeper.take_stock();
        keeper.go_on()?;
        keeper.wait(&changes, &cancelled)?;
    }
    keeper.stop();
    Ok(KeepingEnd::Cancelled)
}

struct Keeper<'a> {
    deployments: &'a Deployments,
    cancel: &'a CancelToken,
    tell: &'a mut dyn FnMut(KeepingNews<'_>),
    apps: BTreeMap<DeploymentName, Kept>,
    /// Those of which something kept makes no sense, which was told.
    damaged: BTreeSet<DeploymentName>,
}

/// An app that is kept.
struct Kept {
    state: State,
    /// The pause before the next start.
    pause: Duration,
}

enum State {
    /// It is looked at then.
    Due(Instant),
    Starting(Start),
    /// It runs, since this time at least.
    Runs(HostProcess, Instant),
    /// Somebody has ended it: who calls it starts it again.
    Rests,
}

impl Kept {
    fn new() -> Self {
        Self { state: State::Due(Instant::now()), pause: PAUSES.0 }
    }

    /// Has it be looked at after a pause, which it gives.
    fn put_off(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSES.1);
        self.state = State::Due(Instant::now() + pause);
        pause
    }

    /// What tells that it is to be looked at.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Starting(start) => Some(start.ended.as_fd()),
            State::Runs(process, _) => Some(process.as_fd()),
            State::Due(_) | State::Rests => None,
        }
    }
}

/// An app that is being started, by a thread: others do not wait for it.
struct Start {
    thread: JoinHandle<Result<(), EngineError>>,
    /// Hung up when the thread has done its work.
    ended: PipeReader,
}

impl Start {
    fn begin(deployments: &Deployments, name: &DeploymentName, cancel: &CancelToken) -> io::Result<Self> {
        let (ended, held) = io::pipe()?;
        let (deployments, name, cancel) = (deployments.clone(), name.clone(), cancel.clone());
        let work = move || {
            let _held = held;
            start_deployed(&deployments, &name, &cancel)
        };
        Ok(Self { thread: std::thread::Builder::new().spawn(work)?, ended })
    }
}

impl Keeper<'_> {
    /// Whether an app is being started.
    fn is_starting(&self) -> bool {
        self.apps.values().any(|kept| matches!(kept.state, State::Starting(_)))
    }

    /// Finds out which apps there are to keep.
    fn take_stock(&mut self) {
        let all = match self.deployments.survey() {
            Ok(all) => all,
            Err(error) => return (self.tell)(KeepingNews::Trouble(&error)),
        };
        let (mut names, mut damaged) = (BTreeSet::new(), all.damaged);
        for deployment in &all.sound {
            match runs_by_itself(self.deployments, deployment) {
                Ok(true) => {
                    names.insert(deployment.full_name());
                }
                Ok(false) => {}
                Err(error) => damaged.push((deployment.full_name(), error)),
            }
        }
        let told = std::mem::take(&mut self.damaged);
        for (name, error) in damaged {
            if !told.contains(&name) {
                (self.tell)(KeepingNews::Trouble(&error));
            }
            self.damaged.insert(name);
        }
        self.apps.retain(|name, _| names.contains(name));
        for name in names {
            self.apps.entry(name).or_insert_with(Kept::new);
        }
    }

    /// Sees to every app for which it is time.
    fn go_on(&mut self) -> io::Result<()> {
        let mut apps = std::mem::take(&mut self.apps);
        for (name, kept) in &mut apps {
            let is_told = kept.descriptor().map_or(Ok(false), is_readable)?;
            match std::mem::replace(&mut kept.state, State::Rests) {
                State::Due(time) if time <= Instant::now() => self.look(name, kept),
                State::Starting(start) if is_told => self.settle(name, kept, start),
                State::Runs(process, since) if is_told => {
                    if since.elapsed() >= PAUSES.1 {
                        kept.pause = PAUSES.0;
                    }
                    self.note_end(name, kept, Some(process.pid()));
                }
                State::Rests if self.deployments.host_state(name).is_ok_and(AppState::is_running) => {
                    self.look(name, kept);
                }
                state => kept.state = state,
            }
        }
        self.apps = apps;
        Ok(())
    }

    /// Finds the process of an app, or starts it.
    fn look(&mut self, name: &DeploymentName, kept: &mut Kept) {
        let found = self.deployments.host_process(name).and_then(|process| match process {
            Some(process) => Ok(State::Runs(process, Instant::now())),
            None => Ok(State::Starting(Start::begin(self.deployments, name, self.cancel)?)),
        });
        match found {
            Ok(state) => kept.state = state,
            Err(error) => self.complain(kept, &error),
        }
    }

    /// An attempt to start it is over.
    fn settle(&mut self, name: &DeploymentName, kept: &mut Kept, start: Start) {
        // One that panicked has printed why, and what became of it is seen.
        match start.thread.join().unwrap_or(Ok(())) {
            Ok(()) => (self.tell)(KeepingNews::Started(name)),
            Err(_) if self.cancel.is_cancelled() => return,
            Err(error) => return (self.tell)(KeepingNews::NotStarted(name, &error, kept.put_off())),
        }
        match self.deployments.host_process(name) {
            Ok(Some(process)) => kept.state = State::Runs(process, Instant::now()),
            Ok(None) => self.note_end(name, kept, None),
            Err(error) => self.complain(kept, &error),
        }
    }

    /// Its process, of this number, has ended.
    fn note_end(&mut self, name: &DeploymentName, kept: &mut Kept, pid: Option<u32>) {
        match self.deployments.host_state(name) {
            // What is left of it may still hold the lock.
            Ok(AppState::Running { pid: Some(other) }) if Some(other) != pid => kept.state = State::Due(Instant::now()),
            Ok(state @ AppState::Ended { code, .. }) if ON_PURPOSE.contains(&code) => {
                (self.tell)(KeepingNews::Ended(name, state, None));
            }
            Ok(state) => (self.tell)(KeepingNews::Ended(name, state, Some(kept.put_off()))),
            Err(error) => self.complain(kept, &error),
        }
    }

    fn complain(&mut self, kept: &mut Kept, error: &AppsError) {
        kept.put_off();
        (self.tell)(KeepingNews::Trouble(error));
    }

    /// Waits until it is time for an app, or something has changed.
    fn wait(&self, changes: &DeploymentWatch, cancelled: &PipeReader) -> io::Result<()> {
        let due = self.apps.values().filter_map(|kept| match &kept.state {
            State::Due(time) => Some(time.saturating_duration_since(Instant::now())),
            _ => None,
        });
        let timeout = due.min().and_then(|left| Timespec::try_from(left).ok());
        let descriptors = self.apps.values().filter_map(Kept::descriptor).chain([changes.as_fd(), cancelled.as_fd()]);
        let mut polled: Vec<_> = descriptors.map(|one| PollFd::from_borrowed_fd(one, PollFlags::IN)).collect();
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Ends what is to end with this process, all at once: exit hooks take their time.
    fn stop(self) {
        let all = match self.deployments.list() {
            Ok(all) => all,
            Err(error) => return (self.tell)(KeepingNews::Trouble(&error)),
        };
        let names = all.iter().map(Deployment::full_name);
        let running = names.filter_map(|name| Some((self.deployments.host_process(&name).ok().flatten()?, name)));
        let ours: Vec<_> = running.filter(|(process, _)| process.belongs_here(KEEPING_UNIT)).collect();
        for (_, name) in &ours {
            (self.tell)(KeepingNews::Stopping(name));
        }
        let stopped: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = ours.iter().map(|(process, _)| scope.spawn(|| process.stop())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(()))).collect()
        });
        for error in stopped.into_iter().filter_map(Result::err) {
            (self.tell)(KeepingNews::Trouble(&error));
        }
    }
}

fn is_readable(descriptor: BorrowedFd<'_>) -> io::Result<bool> {
    match poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], Some(&Timespec::default())) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let mut kept = Kept::new();
        let pauses: Vec<u64> = (0..11).map(|_| kept.put_off().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert!(matches!(kept.state, State::Due(time) if time > Instant::now() + PAUSES.1 / 2));
    }
}
