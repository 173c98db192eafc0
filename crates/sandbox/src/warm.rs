//! Making pid 1 of sandboxes, at once or ahead of time.
//!
//! Moving a process into a control group waits until every processor has noticed, 10 ms on an idle machine and longer
//! than everything else that a start needs. So a pid 1 can be made and moved before it is known what will run in it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lamina_wire::{Receiver, Sender};
use rustix::process::{Pid, Signal, pidfd_send_signal};

use crate::SandboxError;
use crate::cgroups::{Group, Groups};
use crate::protocol::{ProcessReply, ProcessRequest, receive, send};
use crate::wait::wait_readable;

/// Longest time that the kernel may take to end a killed sandbox before it is left to itself.
const LONGEST_END: Duration = Duration::from_secs(5);

/// The processes of a sandbox, from its pid 1 on. Dropping it kills them all.
#[derive(Debug)]
pub(crate) struct Process {
    /// The host's id of pid 1.
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) group: Group,
}

impl Process {
    /// Kills everything inside.
    pub(crate) fn kill(&self) {
        // It may have ended already, which is no failure.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // The control group can only be removed when the last process is gone.
        let _ = wait_readable(self.pidfd.as_fd(), Instant::now().checked_add(LONGEST_END));
    }
}

/// A pid 1 that waits to be told what to become.
#[derive(Debug)]
pub(crate) struct WarmProcess {
    pub(crate) process: Process,
    /// The connection with it.
    pub(crate) control: UnixStream,
}

/// Has the launcher make pid 1s.
#[derive(Debug)]
pub(crate) struct Starter {
    connection: Mutex<Connection>,
    /// The launcher.
    launcher: Pid,
    /// Shared by all launchers of an engine.
    groups: Arc<OnceLock<Arc<Groups>>>,
    /// Whether they are removed with this launcher.
    owns_groups: bool,
}

/// One request at a time: the answer takes as long as one `clone3`.
#[derive(Debug)]
struct Connection {
    sender: Sender,
    receiver: Receiver,
}

impl Starter {
    /// Speaks with a launcher over `socket`.
    pub(crate) fn new(socket: UnixStream, launcher: Pid) -> Result<Self, SandboxError> {
        let connection = Connection { sender: Sender::new(socket.try_clone()?), receiver: Receiver::new(socket) };
        Ok(Self { connection: Mutex::new(connection), launcher, groups: Arc::default(), owns_groups: true })
    }

    /// Speaks with a further launcher, which uses the control groups of another one.
    pub(crate) fn beside(socket: UnixStream, launcher: Pid, other: &Self) -> Result<Self, SandboxError> {
        Ok(Self { groups: Arc::clone(&other.groups), owns_groups: false, ..Self::new(socket, launcher)? })
    }

    /// The control groups; looked for with the first sandbox, since that takes a while.
    pub(crate) fn groups(&self) -> &Arc<Groups> {
        self.groups.get_or_init(|| Arc::new(Groups::discover(self.launcher)))
    }

    /// Makes one, outside of any control group.
    pub(crate) fn make(&self) -> Result<WarmProcess, SandboxError> {
        let (pid, pidfd, control) = self.ask(&ProcessRequest::Init)?;
        Ok(WarmProcess { process: Process { pid, pidfd, group: self.groups().create() }, control })
    }

    /// Has the launcher make a process.
    fn ask(&self, request: &ProcessRequest) -> Result<(u32, OwnedFd, UnixStream), SandboxError> {
        let (control, theirs) = UnixStream::pair()?;
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        send(&connection.sender, request, &[theirs.as_fd()])?;
        let (pid, fds) = match receive::<ProcessReply>(&mut connection.receiver)? {
            Some((ProcessReply::Made { pid }, fds)) => (pid, fds),
            Some((ProcessReply::Failed(failure), _)) => return Err(failure.into()),
            None => return Err(SandboxError::Lost),
        };
        drop(connection);
        let pidfd = fds.into_iter().next().ok_or(SandboxError::Lost)?;
        Ok((pid, pidfd, control))
    }

    /// Makes one in the control groups that most sandboxes need.
    fn make_in_group(&self) -> Result<WarmProcess, SandboxError> {
        let mut warm = self.make()?;
        warm.process.group.admit(warm.process.pid)?;
        Ok(warm)
    }

    /// Removes the control groups of sandboxes that have been killed.
    pub(crate) fn remove_groups(&self) {
        if let Some(groups) = self.groups.get().filter(|_| self.owns_groups) {
            groups.close();
        }
    }

    /// Ends the launcher.
    pub(crate) fn shut_down(&self) {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).sender.shutdown();
    }
}

/// The pid 1 that is made ahead of time: one at most.
#[derive(Debug)]
pub(crate) struct WarmPool {
    starter: Arc<Starter>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Makes it.
    thread: Option<JoinHandle<Result<WarmProcess, SandboxError>>>,
    /// Whether one was missing before: then there may be more sandboxes to come, and each is followed by a new one.
    was_missing: bool,
}

impl WarmPool {
    /// An empty one.
    pub(crate) fn new(starter: Arc<Starter>) -> Self {
        Self { starter, state: Mutex::default() }
    }

    /// Has one made in the background, unless there is one.
    pub(crate) fn fill(&self) {
        let mut state = self.state();
        if state.thread.is_none() {
            let starter = Arc::clone(&self.starter);
            let builder = std::thread::Builder::new().name("warm pool".to_owned());
            // Without one, sandboxes start later, no more.
            state.thread = builder.spawn(move || starter.make_in_group()).ok();
        }
    }

    /// Has another one made, if one was missing before.
    pub(crate) fn refill(&self) {
        if self.state().was_missing {
            self.fill();
        }
    }

    /// Takes it.
    pub(crate) fn take(&self) -> Option<WarmProcess> {
        let thread = {
            let mut state = self.state();
            state.was_missing |= state.thread.is_none();
            state.thread.take()
        };
        let warm = thread?.join().ok()?.ok()?;
        let has_ended = wait_readable(warm.process.pidfd.as_fd(), Some(Instant::now())).unwrap_or(true);
        (!has_ended).then_some(warm)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
