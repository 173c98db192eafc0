//! The engine's side: asking the launcher for sandboxes and waiting for them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lamina_ground::null_device;
use lamina_wire::{Receiver, Sender};
use rustix::process::pidfd_send_signal;

use crate::cgroups::LimitsReport;
use crate::disk::{DiskGuard, DiskShortage, DiskWatch};
use crate::helper_process::HelperProcess;
use crate::protocol::{Begin, Go, Report, receive, send};
use crate::rlimits::Fallback;
use crate::wait::wait_readable;
use crate::warm::{Process, Starter, WarmPool, WarmProcess};
use crate::{Mount, SandboxError, SandboxSpec, Signal, Upper};

/// Asks for sandboxes. Clones share the one launcher process; it ends, with all its sandboxes, when the last is dropped
/// and no [`Sandbox`] of it is left.
#[derive(Debug, Clone)]
pub struct Launcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// First, so that it is gone before the launcher is.
    pool: WarmPool,
    starter: Arc<Starter>,
    /// Until it has ended.
    process: Mutex<Option<HelperProcess>>,
    disk: DiskGuard,
    /// Names of the host's resources that the helpers have taken hold of.
    resources: Vec<String>,
}

impl Launcher {
    /// Speaks with the launcher `process` over `socket`, which has these `resources`; `disk` is the store's. It
    /// uses the control groups of the `other` launcher, if there is one.
    pub(crate) fn new(
        socket: UnixStream,
        process: HelperProcess,
        disk: DiskGuard,
        resources: Vec<String>,
        other: Option<&Self>,
    ) -> Result<Self, SandboxError> {
        let starter = Arc::new(match other {
            Some(other) => Starter::beside(socket, process.id(), &other.inner.starter)?,
            None => Starter::new(socket, process.id())?,
        });
        let pool = WarmPool::new(Arc::clone(&starter));
        let inner = Inner { pool, starter, process: Mutex::new(Some(process)), disk, resources };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How limits are enforced on this machine.
    #[must_use]
    pub fn limits(&self) -> LimitsReport {
        self.inner.starter.groups().report()
    }

    /// Says that a sandbox will be wanted soon: what can be done for it now is done in the background.
    pub fn prepare(&self) {
        self.inner.pool.fill();
    }

    /// Ends the launcher with all its sandboxes and clears away what they leave, whoever still holds one of them. Nothing
    /// is started any more.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Starts a sandbox; returns when its command runs.
    ///
    /// # Errors
    /// When the sandbox cannot be set up or the command cannot be executed.
    pub fn spawn(&self, spec: &SandboxSpec, stdio: Stdio) -> Result<Sandbox, SandboxError> {
        let sandbox = self.spawn_alone(spec, stdio, || true)?.ok_or(SandboxError::Lost);
        self.inner.pool.refill();
        sandbox
    }

    /// Bytes of the store's disk that are to stay free, as sandboxes are watched for.
    ///
    /// # Errors
    /// When the disk cannot be looked at.
    pub fn disk_reserve(&self) -> std::io::Result<u64> {
        self.inner.disk.reserve()
    }

    /// As [`Self::spawn`], but for a sandbox that none is expected to follow, and only if `agreed` says so. It is asked last:
    /// what it waits for is waited for while the sandbox is set up. Nothing of the image runs before.
    ///
    /// # Errors
    /// As [`Self::spawn`].
    pub fn spawn_alone(
        &self,
        spec: &SandboxSpec,
        stdio: Stdio,
        agreed: impl FnOnce() -> bool,
    ) -> Result<Option<Sandbox>, SandboxError> {
        let Inner { pool, starter, disk, resources, .. } = &*self.inner;
        for mount in &spec.mounts {
            if let Mount::Host { resource, .. } = mount
                && !resources.contains(resource)
            {
                return Err(SandboxError::UnknownResource { name: resource.clone() });
            }
        }
        let WarmProcess { process, control } = pool.take().map_or_else(|| starter.make(), Ok)?;
        tracing::info!(
            pid = process.pid,
            program = spec.argv.first(),
            layers = ?spec.layers,
            upper = ?spec.upper,
            mounts = ?spec.mounts,
            user = ?spec.user,
            limits = ?spec.limits,
            network = ?spec.network,
            "sandbox"
        );
        // From here on dropping the sandbox ends pid 1.
        let mut sandbox = Sandbox {
            process,
            state: Mutex::new(State { receiver: Receiver::new(control.try_clone()?), exit: None }),
            control: Sender::new(control),
            terminal: Mutex::new(None),
            disk: None,
            command: SandboxSpec {
                env: spec.env.clone(),
                cwd: spec.cwd.clone(),
                user: spec.user.clone(),
                network: spec.network,
                ignore_sync: spec.ignore_sync,
                ..SandboxSpec::default()
            },
            fallback: Fallback::default(),
            _launcher: self.clone(),
        };
        stdio.open_pipes_to_the_command();
        let (message, payload) = Begin::pack(spec);
        sandbox.control.send(&serde_json::to_vec(&message)?, &payload, &stdio.descriptors())?;
        drop(stdio);
        // The control group is put in order while pid 1 mounts.
        let pid = sandbox.process.pid;
        let fallback = sandbox.process.group.limit(&spec.limits, pid)?;
        sandbox.fallback = fallback;
        let is_writable = |mount: &Mount| matches!(mount, Mount::Bind { read_only: false, .. });
        if matches!(spec.upper, Upper::Store { .. }) || spec.mounts.iter().any(is_writable) {
            sandbox.disk = Some(disk.watch(sandbox.process.pidfd.try_clone()?)?);
        }
        if fallback != Fallback::default() {
            tracing::info!(pid, fallback = ?fallback, "limits that no control group enforces");
        }
        if !agreed() {
            return Ok(None);
        }
        send(&sandbox.control, &Go { fallback }, &[])?;
        let started = receive::<Report>(&mut sandbox.state().receiver)?;
        match started {
            Some((Report::Started, fds)) => {
                *sandbox.terminal.lock().unwrap_or_else(PoisonError::into_inner) = fds.into_iter().next();
                Ok(Some(sandbox))
            }
            Some((Report::Failed(failure), _)) => Err(failure.into()),
            Some((Report::Exited { .. }, _)) | None => Err(SandboxError::Lost),
        }
    }
}

impl Inner {
    fn close(&self) {
        drop(self.pool.take());
        self.starter.shut_down();
        // It ends at the end of its connection, and the kernel kills what it has started; nothing can be done about a
        // failure here.
        let _ = self.process.lock().unwrap_or_else(PoisonError::into_inner).take().map(HelperProcess::wait);
        self.starter.remove_groups();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// The descriptors that the command starts with.
#[derive(Debug)]
pub struct Stdio {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
    /// Descriptor 3, if the sandbox has one.
    pub socket: Option<OwnedFd>,
}

impl Stdio {
    /// Streams that lead nowhere, and no socket.
    ///
    /// # Errors
    /// When the device cannot be opened.
    pub fn null() -> std::io::Result<Self> {
        Ok(Self { stdin: null_device()?, stdout: null_device()?, stderr: null_device()?, socket: None })
    }

    /// As pid 1 gets them.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let streams = [&self.stdin, &self.stdout, &self.stderr];
        streams.into_iter().chain(&self.socket).map(AsFd::as_fd).collect()
    }

    /// Lets the command open pipes by name, as in `> /dev/stdout`: they belong to whoever made them, which is another id
    /// than the command's. Their permissions are for nobody else, since no path but that of the descriptor leads there.
    pub(crate) fn open_pipes_to_the_command(&self) {
        const PIPE_FILESYSTEM: i64 = 0x5049_5045;
        for fd in [&self.stdin, &self.stdout, &self.stderr] {
            if rustix::fs::fstatfs(fd).is_ok_and(|filesystem| filesystem.f_type == PIPE_FILESYSTEM) {
                // Another owner's cannot be opened by name, and are none of our making.
                let _ = rustix::fs::fchmod(fd, rustix::fs::Mode::from_raw_mode(0o666));
            }
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It returned this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

/// What is known about a sandbox after its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// How the command ended.
    pub status: ExitStatus,
    /// Whether the kernel killed a process of the sandbox because of its memory limit.
    pub out_of_memory: bool,
    /// What the store's disk had too little of, if the sandbox was killed for it.
    pub out_of_disk: Option<DiskShortage>,
    /// The most memory that one process of the sandbox had resident.
    pub max_rss_bytes: u64,
    /// Files and directories made in the upper only to be mounted over, outer ones first.
    pub created_mountpoints: Vec<String>,
}

/// A running sandbox. Dropping it kills everything inside.
#[derive(Debug)]
pub struct Sandbox {
    pub(crate) process: Process,
    state: Mutex<State>,
    /// To pid 1.
    pub(crate) control: Sender,
    terminal: Mutex<Option<OwnedFd>>,
    disk: Option<DiskWatch>,
    /// What further commands have in common with its own.
    pub(crate) command: SandboxSpec,
    /// Limits that no control group enforces.
    pub(crate) fallback: Fallback,
    /// Kept alive, because the sandbox would die with it.
    _launcher: Launcher,
}

#[derive(Debug)]
struct State {
    receiver: Receiver,
    exit: Option<Exit>,
}

impl Sandbox {
    /// The host's process id of pid 1.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Sends a signal to the process group of the command.
    pub fn signal(&self, signal: Signal) {
        // It may have ended already, which is no failure.
        let _ = pidfd_send_signal(&self.process.pidfd, signal.kernel());
    }

    /// Kills everything inside.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Waits for the end: no process is left and everything is unmounted when this returns.
    ///
    /// # Errors
    /// When the sandbox cannot be observed.
    pub fn wait(&self) -> Result<Exit, SandboxError> {
        loop {
            if let Some(exit) = self.wait_until(None)? {
                return Ok(exit);
            }
        }
    }

    /// Waits for the end for at most `timeout`.
    ///
    /// # Errors
    /// As [`Sandbox::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<Exit>, SandboxError> {
        self.wait_until(Instant::now().checked_add(timeout))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<Exit>, SandboxError> {
        // Without the lock, so that a thread that waits for long does not keep another one from waiting shortly.
        if !wait_readable(self.process.pidfd.as_fd(), deadline)? {
            return Ok(None);
        }
        let mut state = self.state();
        if let Some(exit) = &state.exit {
            return Ok(Some(exit.clone()));
        }
        let report = receive::<Report>(&mut state.receiver)?;
        let exit = self.describe(report.map(|(report, _)| report));
        tracing::info!(pid = self.process.pid, exit = ?exit, "end of a sandbox");
        state.exit = Some(exit.clone());
        Ok(Some(exit))
    }

    /// What pid 1 reported, or that it was killed before it could.
    fn describe(&self, report: Option<Report>) -> Exit {
        let (status, max_rss_kib, created_mountpoints) = match report {
            Some(Report::Exited { code, signal, max_rss_kib, created_mountpoints }) => {
                let status = match (code, signal) {
                    (Some(code), _) => ExitStatus::Exited(code),
                    (None, signal) => ExitStatus::Signaled(signal.unwrap_or(libc::SIGKILL)),
                };
                (status, max_rss_kib, created_mountpoints)
            }
            _ => (ExitStatus::Signaled(libc::SIGKILL), 0, Vec::new()),
        };
        Exit {
            status,
            out_of_memory: self.process.group.out_of_memory(),
            out_of_disk: self.disk.as_ref().and_then(DiskWatch::reached),
            max_rss_bytes: max_rss_kib * 1024,
            created_mountpoints,
        }
    }

    /// The engine's end of the terminal, once.
    #[must_use]
    pub fn take_terminal(&self) -> Option<OwnedFd> {
        self.terminal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
