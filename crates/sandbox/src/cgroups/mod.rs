//! Limits by control groups, made on the engine's side with its own rights, below its own group.
//!
//! Every engine has one directory per hierarchy, `lamina-<pid>-<start time>`, and below it one group per sandbox. Groups
//! of engines that are gone are removed when the next one looks. Where a controller is in no writable hierarchy, the limit
//! falls back to a resource limit, or is off; [`LimitsReport`] says which.

mod discovery;
mod scope;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Pid;

use crate::Limits;
use crate::features::Feature;
use crate::rlimits::Fallback;
use discovery::{Controller, Parents, Version};
pub(crate) use scope::Scope;

/// Period in which processor time is shared out, in microseconds.
const PERIOD: u64 = 100_000;
/// Pid 1 of the sandbox is not one of the user's processes.
const OWN_PROCESSES: u64 = 1;
/// How often, and after which pause, which grows, the removal of groups is tried again whose last processes are not quite
/// gone: five seconds in all.
const REMOVAL_ATTEMPTS: u32 = 71;
const REMOVAL_PAUSE: Duration = Duration::from_millis(2);

/// How a limit is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// By a control group, for all processes of a sandbox together.
    ControlGroup,
    /// By a resource limit, for each process (memory) or user (processes).
    ResourceLimit,
    /// Not at all.
    Off,
}

/// How each limit is enforced on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsReport {
    /// `memory_bytes`.
    pub memory: Enforcement,
    /// `cpus`.
    pub cpus: Enforcement,
    /// `pids`.
    pub pids: Enforcement,
}

/// The control groups of this engine.
#[derive(Debug)]
pub(crate) struct Groups {
    parents: Parents,
    next: AtomicU64,
    /// Groups that could not be removed at once.
    leftovers: Mutex<Vec<PathBuf>>,
    /// Whether no group is made any more.
    closed: Mutex<bool>,
}

/// The group of one sandbox: one directory per hierarchy. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Group {
    groups: Arc<Groups>,
    name: String,
    directories: Vec<PathBuf>,
    /// How many of the directories, counted from the first, have the sandbox's processes.
    admitted: usize,
    memory: Option<(Version, PathBuf)>,
}

impl Groups {
    /// Looks for writable hierarchies, from the groups of the launcher upwards, and removes what dead engines left.
    pub(crate) fn discover(launcher: Pid) -> Self {
        let is_allowed = Feature::ControlGroups.is_allowed();
        Self::new(if is_allowed { Parents::discover(Some(launcher)) } else { Parents::default() })
    }

    fn new(parents: Parents) -> Self {
        parents.sweep();
        Self { parents, next: AtomicU64::new(0), leftovers: Mutex::default(), closed: Mutex::default() }
    }

    /// How each limit is enforced.
    pub(crate) fn report(&self) -> LimitsReport {
        let one = |controller, otherwise| match self.parents.of(controller) {
            Some(_) => Enforcement::ControlGroup,
            None => otherwise,
        };
        LimitsReport {
            memory: one(Controller::Memory, Enforcement::ResourceLimit),
            cpus: one(Controller::Cpu, Enforcement::Off),
            pids: one(Controller::Pids, Enforcement::ResourceLimit),
        }
    }

    /// A group without directories yet.
    pub(crate) fn create(self: &Arc<Self>) -> Group {
        self.retry_leftovers();
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        Group { groups: Arc::clone(self), name, directories: Vec::new(), admitted: 0, memory: None }
    }

    fn leftovers(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries to remove the groups that could not be removed before.
    fn retry_leftovers(&self) {
        self.leftovers().retain(|directory| !remove(directory));
    }
}

impl Groups {
    /// Removes every group, also those that some thread still holds, and makes no more. The processes in them must have
    /// been killed.
    pub(crate) fn close(&self) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *closed, true) {
            return;
        }
        // One that was killed just before this one began had processes then that had not ended.
        self.parents.sweep();
        for attempt in 0..REMOVAL_ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(REMOVAL_PAUSE * attempt);
            }
            if self.parents.remove_own() {
                return;
            }
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.close();
    }
}

impl Group {
    /// Moves a process into the group before its limits are known. Processor time is left to [`Group::limit`]: few
    /// sandboxes limit it.
    pub(crate) fn admit(&mut self, pid: u32) -> io::Result<()> {
        for controller in [Controller::Memory, Controller::Pids] {
            self.directory(controller)?;
        }
        self.attach(pid)
    }

    /// Limits the group, and moves the process into it as far as it is not there; the fallback holds the limits that no
    /// controller enforces.
    pub(crate) fn limit(&mut self, limits: &Limits, pid: u32) -> io::Result<Fallback> {
        let mut fallback = Fallback::default();
        if let Some(bytes) = limits.memory_bytes.or(limits.memory_guard_bytes) {
            match self.directory(Controller::Memory)? {
                Some((version, directory)) => limit_memory(version, &directory, bytes)?,
                None => fallback.memory_bytes = limits.memory_bytes,
            }
        }
        if let Some(pids) = limits.pids {
            match self.directory(Controller::Pids)? {
                Some((_, directory)) => {
                    let pids = self.groups.parents.clamp_processes(pids).saturating_add(OWN_PROCESSES);
                    fs_err::write(directory.join("pids.max"), pids.to_string())?;
                }
                None => fallback.pids = Some(pids),
            }
        }
        if let Some(cpus) = limits.cpus
            && let Some((version, directory)) = self.directory(Controller::Cpu)?
        {
            limit_cpus(version, &directory, cpus)?;
        }
        self.attach(pid)?;
        Ok(fallback)
    }

    /// The group's directory in the hierarchy of a controller, made if need be; none where there is no such hierarchy.
    fn directory(&mut self, controller: Controller) -> io::Result<Option<(Version, PathBuf)>> {
        let Some((version, parent)) = self.groups.parents.of(controller) else {
            return Ok(None);
        };
        let directory = parent.join(&self.name);
        // Another controller of the same hierarchy may have made it.
        if !self.directories.contains(&directory) {
            let closed = self.groups.closed.lock().unwrap_or_else(PoisonError::into_inner);
            if *closed {
                return Err(io::Error::other("no sandbox is started any more"));
            }
            match fs_err::create_dir(&directory) {
                // The engine's own directory is made with its first group.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.groups.parents.make_own(parent)?;
                    fs_err::create_dir(&directory)?;
                }
                result => result?,
            }
            self.directories.push(directory.clone());
        }
        if controller == Controller::Memory {
            self.memory = Some((version, directory.clone()));
        }
        Ok(Some((version, directory)))
    }

    /// Moves a process into the directories that it is not in.
    fn attach(&mut self, pid: u32) -> io::Result<()> {
        for directory in &self.directories[self.admitted..] {
            fs_err::write(directory.join("cgroup.procs"), pid.to_string())?;
            self.admitted += 1;
        }
        Ok(())
    }

    /// Whether the kernel killed a process of the group for want of memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        self.memory.as_ref().is_some_and(|(version, directory)| {
            let file = match version {
                Version::One => "memory.oom_control",
                Version::Two => "memory.events",
            };
            fs_err::read_to_string(directory.join(file)).is_ok_and(|text| counter(&text, "oom_kill") > 0)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let left = self.directories.drain(..).filter(|directory| !remove(directory));
        self.groups.leftovers().extend(left);
    }
}

/// Removes a group; false if it still has processes.
fn remove(directory: &Path) -> bool {
    match fs_err::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The value after `name` in a file of `name value` lines.
fn counter(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

fn limit_memory(version: Version, directory: &Path, bytes: u64) -> io::Result<()> {
    let bytes = bytes.to_string();
    match version {
        Version::One => {
            fs_err::write(directory.join("memory.limit_in_bytes"), &bytes)?;
            // With swap. Not there where the kernel does not account for it.
            write_if_present(&directory.join("memory.memsw.limit_in_bytes"), &bytes)
        }
        Version::Two => {
            fs_err::write(directory.join("memory.max"), &bytes)?;
            write_if_present(&directory.join("memory.swap.max"), "0")
        }
    }
}

fn limit_cpus(version: Version, directory: &Path, cpus: f64) -> io::Result<()> {
    let quota = quota(cpus);
    match version {
        Version::One => {
            fs_err::write(directory.join("cpu.cfs_period_us"), PERIOD.to_string())?;
            fs_err::write(directory.join("cpu.cfs_quota_us"), quota.to_string())
        }
        Version::Two => fs_err::write(directory.join("cpu.max"), format!("{quota} {PERIOD}")),
    }
}

/// Microseconds of processor time per period; the kernel takes no less than a thousand.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "clamped")]
fn quota(cpus: f64) -> u64 {
    (cpus * PERIOD as f64).clamp(1000.0, 1e12) as u64
}

fn write_if_present(path: &Path, value: &str) -> io::Result<()> {
    if path.exists() { fs_err::write(path, value) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_clamped() {
        assert_eq!(quota(1.5), 150_000);
        assert_eq!(quota(0.0), 1000);
        assert_eq!(quota(-1.0), 1000);
    }

    #[test]
    fn what_a_dead_engine_holds_at_first_is_removed_at_the_end() {
        let root = tempfile::tempdir().unwrap();
        let parents = Parents::of_test(root.path());
        // As a group with processes: it cannot be removed.
        let held = root.path().join(format!("lamina-{}-1", std::process::id()));
        fs_err::create_dir_all(held.join("0")).unwrap();
        fs_err::write(held.join("process"), "").unwrap();
        let groups = Groups::new(parents);
        assert!(held.exists());
        fs_err::remove_file(held.join("process")).unwrap();
        groups.close();
        assert!(!held.exists());
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "oom_kill_disable 7\nunder_oom 0\noom_kill 2\n";
        assert_eq!(counter(text, "oom_kill"), 2);
        assert_eq!(counter(text, "oom"), 0);
    }
}
