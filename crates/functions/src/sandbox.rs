//! Containers made of sandboxes.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lamina_devices::{DevicesError, Lease, Lender};
use lamina_ground::{EnvVars, Stack, StorePath, causes, null_device};
use lamina_image::container::{INTERPRETERS, RUNNER};
use lamina_sandbox::{
    Entered, Entry, Exit, ExitStatus, Launcher, Limits, Mount, Network, Sandbox, SandboxError, SandboxSpec, Signal,
    Stdio, TerminalSpec, Upper, memory_has_attributes,
};
use lamina_store::{Store, StoreError, Work};
use lamina_volumes::Volumes;

use crate::runner::ContainerVolume;
use crate::spec::ContainerSpec;
use crate::starter::{ContainerEnd, ContainerProcess, ContainerStarter, StartError, StartedContainer};
use crate::terminal::Terminal;

/// Most processes and threads of a container: far above any honest use, and short of what would stop the machine.
const PROCESS_LIMIT: u64 = 16_384;
/// With less free memory than this, changes of containers go to disk.
const MEMORY_FOR_CHANGES: u64 = 2 << 30;

/// The part of the machine's memory that no container without a limit gets, and the least such reserve.
const RESERVED_PART: u64 = 20;
const LEAST_RESERVE: u64 = 512 << 20;

/// Starts containers of one service.
#[derive(Debug)]
pub struct SandboxStarter {
    launcher: Launcher,
    devices: Arc<Lender>,
    store: Store,
    spec: ContainerSpec,
    terminal: Option<Arc<dyn Terminal>>,
}

impl SandboxStarter {
    /// Containers as `spec` says; each has a terminal if the user's can be asked for.
    #[must_use]
    pub fn new(
        launcher: Launcher,
        devices: Arc<Lender>,
        store: Store,
        spec: ContainerSpec,
        terminal: Option<Arc<dyn Terminal>>,
    ) -> Self {
        Self { launcher, devices, store, spec, terminal }
    }

    /// Starts the runner with the interpreter that the PATH names, or else the one that the base brought. An entrypoint is
    /// given the first name: it may change the PATH, and whether it finds something is not seen from outside.
    fn spawn(&self, launcher: &Launcher, mut sandbox: SandboxSpec) -> Result<(Sandbox, Ends), StartError> {
        let mut missing = None;
        for python in INTERPRETERS.into_iter().chain(self.spec.python.as_deref()) {
            sandbox.argv.clone_from(&self.spec.entrypoint);
            sandbox.argv.extend([python, RUNNER].map(str::to_owned));
            let (stdio, ends) = streams().map_err(StartError::engine("its streams cannot be made"))?;
            match launcher.spawn(&sandbox, stdio) {
                Ok(started) => return Ok((started, ends)),
                Err(error @ SandboxError::CommandNotFound { .. }) => missing = missing.or(Some(error)),
                Err(error) => return Err(error.into()),
            }
        }
        Err(missing.unwrap_or(SandboxError::Lost).into())
    }
}

impl ContainerStarter for SandboxStarter {
    fn start(&self, task: &str) -> Result<StartedContainer, StartError> {
        let (upper, work) = self.spec.upper(&self.store)?;
        let terminal = self.terminal.as_ref().map(|user| TerminalSpec { size: user.size(), is_stdio: false });
        let mut spec = SandboxSpec { upper, socket_as_fd3: true, ..self.spec.sandbox(&self.store, task, terminal) };
        let lease = self.spec.lend(&self.devices, &self.store)?;
        if let Some(lease) = &lease {
            lease.give(&mut spec, &self.store);
        }
        let (sandbox, ends) = self.spawn(lease.as_ref().map_or(&self.launcher, Lease::launcher), spec)?;
        let terminal = sandbox.take_terminal();
        let written = self.spec.volumes.iter().filter(|volume| !volume.read_only).map(|volume| volume.id.clone());
        let written = Mutex::new(written.collect());
        let process = Arc::new(Process { sandbox, store: self.store.clone(), written, _work: work, _lease: lease });
        Ok(StartedContainer { socket: ends.socket, stdout: ends.stdout, stderr: ends.stderr, terminal, process })
    }
}

impl ContainerSpec {
    /// The GPUs of a container, if it has any.
    ///
    /// # Errors
    /// When this machine has no such GPUs, or they cannot be reached.
    pub fn lend(&self, devices: &Lender, store: &Store) -> Result<Option<Lease>, DevicesError> {
        if self.gpu.is_empty() {
            return Ok(None);
        }
        devices.lend(&self.gpu, store, &self.layers).map(Some)
    }

    /// Where the changes of a container go: into memory where there is enough, unless they would count against its own
    /// limit. On disk they are in a place that goes with the second part of the answer.
    ///
    /// # Errors
    /// When there is no such place to be had.
    pub fn upper(&self, store: &Store) -> Result<(Upper, Option<Work>), StoreError> {
        let available = available_memory().unwrap_or(0);
        if self.memory_bytes.is_none() && available >= MEMORY_FOR_CHANGES && memory_has_attributes() {
            return Ok((Upper::Memory { limit_bytes: available / 2 }, None));
        }
        let work = store.new_work()?;
        Ok((Upper::Store { upper: work.upper(), work: work.work_directory() }, Some(work)))
    }

    /// A sandbox in which such containers, or a shell beside them, run, with a terminal if one is
    /// given; its changes go into memory.
    #[must_use]
    pub fn sandbox(&self, store: &Store, task: &str, terminal: Option<TerminalSpec>) -> SandboxSpec {
        self.sandbox_on(store.view_paths(&self.layers), task, terminal)
    }

    /// As [`Self::sandbox`], with directories for its layers.
    pub(crate) fn sandbox_on(
        &self,
        layers: Stack<StorePath>,
        task: &str,
        terminal: Option<TerminalSpec>,
    ) -> SandboxSpec {
        let mut env: Vec<(String, String)> = self.environment(task).into_iter().collect();
        if let (Some(_), Ok(kind)) = (terminal, std::env::var(EnvVars::TERM)) {
            env.retain(|(name, _)| name != "TERM");
            env.push(("TERM".to_owned(), kind));
        }
        SandboxSpec {
            hostname: "modal".to_owned(),
            layers,
            upper: Upper::Memory { limit_bytes: available_memory().unwrap_or(MEMORY_FOR_CHANGES) / 2 },
            resolv_conf: fs_err::read("/etc/resolv.conf").ok(),
            hosts: fs_err::read("/etc/hosts").ok(),
            env,
            cwd: self.directory(),
            user: self.user.clone(),
            limits: Limits {
                memory_bytes: self.memory_bytes,
                memory_guard_bytes: memory_guard(),
                cpus: self.cpus,
                pids: Some(PROCESS_LIMIT),
            },
            network: if self.block_network { Network::Isolated } else { Network::Host },
            mounts: self.volumes.iter().map(mount).collect(),
            terminal,
            ..SandboxSpec::default()
        }
    }
}

/// How a volume is mounted.
fn mount(volume: &ContainerVolume) -> Mount {
    let ContainerVolume { path, source, read_only, .. } = volume;
    Mount::Bind { source: source.clone(), target: path.clone(), read_only: *read_only }
}

/// Our ends of a container's descriptors.
struct Ends {
    socket: std::os::unix::net::UnixStream,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Makes a container's descriptors.
fn streams() -> std::io::Result<(Stdio, Ends)> {
    let (stdout, stdout_writer) = std::io::pipe()?;
    let (stderr, stderr_writer) = std::io::pipe()?;
    let (socket, inner) = std::os::unix::net::UnixStream::pair()?;
    let stdio = Stdio {
        stdin: null_device()?,
        stdout: stdout_writer.into(),
        stderr: stderr_writer.into(),
        socket: Some(inner.into()),
    };
    Ok((stdio, Ends { socket, stdout: stdout.into(), stderr: stderr.into() }))
}

struct Process {
    sandbox: Sandbox,
    store: Store,
    /// Ids of the volumes that it may have written to, until they were committed.
    written: Mutex<Vec<String>>,
    /// Where its changes are, removed together with it.
    _work: Option<Work>,
    /// Its GPUs.
    _lease: Option<Lease>,
}

impl ContainerProcess for Process {
    fn kill(&self) {
        self.sandbox.kill();
    }

    fn nudge(&self) {
        // The one signal that does nothing to the processes that the runner may have started.
        self.sandbox.signal(Signal::WindowChange);
    }

    fn enter(&self, entry: &Entry, stdio: &Stdio) -> Result<Entered, SandboxError> {
        self.sandbox.enter(entry, stdio)
    }

    fn wait(&self, patience: Duration) -> Option<ContainerEnd> {
        let end = match self.sandbox.wait_timeout(patience) {
            Ok(exit) => ContainerEnd::from(&exit?),
            Err(error) => ContainerEnd::Lost(causes(&error)),
        };
        self.commit();
        Some(end)
    }
}

impl Process {
    /// Has what a container wrote to its volumes reach the disk, once it has ended.
    fn commit(&self) {
        for id in std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner)) {
            if let Err(error) = Volumes::new(&self.store).commit(&id) {
                tracing::warn!(volume = id, %error, "a volume was not committed at the end of a container");
            }
        }
    }
}

impl From<&Exit> for ContainerEnd {
    fn from(exit: &Exit) -> Self {
        if exit.out_of_memory {
            return Self::OutOfMemory;
        }
        if let Some(shortage) = exit.out_of_disk {
            return Self::OutOfDisk(shortage);
        }
        match exit.status {
            ExitStatus::Exited(code) => Self::Exited(code),
            ExitStatus::Signaled(signal) => Self::Signaled(signal),
        }
    }
}

/// Memory that the machine could give without swapping, in bytes.
fn available_memory() -> Option<u64> {
    memory("MemAvailable:")
}

/// Most memory of a container whose function has no limit: what is free now but for a reserve, and never less than half
/// of what the machine has, because a container may live longer than what uses the rest now.
fn memory_guard() -> Option<u64> {
    let (total, available) = (memory("MemTotal:")?, available_memory()?);
    let reserve = (total / RESERVED_PART).max(LEAST_RESERVE);
    Some(available.saturating_sub(reserve).max(total / 2))
}

/// An amount that the kernel reports, in bytes.
fn memory(name: &str) -> Option<u64> {
    let text = fs_err::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_memory_explains_every_end() {
        let exit = |status, out_of_memory| Exit {
            status,
            out_of_memory,
            out_of_disk: None,
            max_rss_bytes: 0,
            created_mountpoints: Vec::new(),
        };
        assert_eq!(ContainerEnd::from(&exit(ExitStatus::Signaled(9), true)), ContainerEnd::OutOfMemory);
        assert_eq!(ContainerEnd::from(&exit(ExitStatus::Signaled(9), false)), ContainerEnd::Signaled(9));
        assert_eq!(ContainerEnd::from(&exit(ExitStatus::Exited(2), false)), ContainerEnd::Exited(2));
    }

    #[test]
    fn the_machines_memory_is_known() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
        let (guard, total) = (memory_guard().unwrap(), memory("MemTotal:").unwrap());
        assert!((total / 2..total).contains(&guard), "{guard} of {total}");
    }
}
