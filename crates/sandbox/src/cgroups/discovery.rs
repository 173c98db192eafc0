//! Where control groups can be made: version 1, version 2, both or none.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::process::Pid;

/// Directories of dead and living engines begin with this.
const PREFIX: &str = "lamina-";
/// The part of the processes of the groups above that all sandboxes of an engine together do not get.
const RESERVED_PART: u64 = 8;

/// A controller that Lamina uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// Which interface a hierarchy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// For each controller, the directory in which this engine makes groups. It may not exist yet.
#[derive(Debug, Default)]
pub(super) struct Parents {
    found: Vec<(Controller, Version, PathBuf)>,
    /// Most processes of the group that this engine is in and of those above it, if they are limited.
    processes: Option<u64>,
}

impl Parents {
    /// Looks at the hierarchies that a process is in, or this one.
    ///
    /// Version 1 lets only root move processes of other ids, which those of a sandbox are.
    pub(super) fn discover(process: Option<Pid>) -> Self {
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = format!("{PREFIX}{}-{}", std::process::id(), start_time("self").unwrap_or(0));
        let version_one = rustix::process::geteuid().is_root();
        Self::from_tables(&membership(process), &mounts, &own, version_one)
    }

    /// The same, from the text of `/proc/self/cgroup` and `/proc/self/mountinfo`, with version 1 or without.
    fn from_tables(memberships: &str, mounts: &str, own: &str, version_one: bool) -> Self {
        let hierarchies: Vec<Hierarchy> = mounts.lines().filter_map(Hierarchy::parse).collect();
        let mut found = Vec::new();
        for controller in Controller::ALL.into_iter().filter(|_| version_one) {
            let first = hierarchies.iter().find(|hierarchy| hierarchy.has(controller));
            if let Some(directory) = first.and_then(|hierarchy| hierarchy.directory(memberships))
                && is_writable(&directory)
            {
                found.push((controller, Version::One, directory.join(own)));
            }
        }
        let second = hierarchies.iter().find(|hierarchy| hierarchy.version == Version::Two);
        if let Some(directory) = second.and_then(|hierarchy| hierarchy.directory(memberships)) {
            let missing: Vec<Controller> = Controller::ALL
                .into_iter()
                .filter(|controller| !found.iter().any(|(c, _, _)| c == controller))
                .collect();
            let top = second.map(|hierarchy| hierarchy.mount_point.clone()).unwrap_or_default();
            if let Some((parent, controllers)) = delegated(&directory, &top, &missing) {
                found.extend(controllers.into_iter().map(|c| (c, Version::Two, parent.join(own))));
            }
        }
        let processes = found.iter().find(|(controller, ..)| *controller == Controller::Pids);
        let processes = processes.and_then(|(_, _, own)| own.parent()).and_then(most_processes);
        Self { found, processes }
    }

    /// Makes the directory of this engine in one hierarchy, and lets the groups below it have their limits. Together they
    /// cannot have all processes that this engine and others beside it may have.
    pub(super) fn make_own(&self, own: &Path) -> io::Result<()> {
        fs_err::create_dir_all(own)?;
        for (controller, version, _) in self.found.iter().filter(|(.., path)| path == own) {
            if *version == Version::Two {
                fs_err::write(own.join("cgroup.subtree_control"), format!("+{}", controller.name()))?;
            }
            if let (Controller::Pids, Some(processes)) = (controller, self.processes) {
                fs_err::write(own.join("pids.max"), (processes - processes / RESERVED_PART).to_string())?;
            }
        }
        Ok(())
    }

    /// Most processes of one sandbox: where there are not so many altogether, half of those that there can be.
    pub(super) fn clamp_processes(&self, wanted: u64) -> u64 {
        self.processes.map_or(wanted, |processes| wanted.min(processes / 2))
    }

    /// Whether there is a place for groups of every controller.
    pub(super) fn is_complete(&self) -> bool {
        Controller::ALL.into_iter().all(|controller| self.of(controller).is_some())
    }

    /// The directory for groups of a controller.
    pub(super) fn of(&self, controller: Controller) -> Option<(Version, &Path)> {
        self.found.iter().find(|(c, _, _)| *c == controller).map(|(_, version, path)| (*version, path.as_path()))
    }

    /// This engine's directories.
    fn own_directories(&self) -> impl Iterator<Item = &Path> {
        self.found.iter().map(|(_, _, path)| path.as_path())
    }

    /// Removes this engine's directories; false if something is left.
    pub(super) fn remove_own(&self) -> bool {
        self.own_directories().filter(|directory| !remove_tree(directory)).count() == 0
    }

    /// A hierarchy that is an ordinary directory.
    #[cfg(test)]
    pub(super) fn of_test(directory: &Path) -> Self {
        Self { found: vec![(Controller::Memory, Version::One, directory.join("own"))], processes: None }
    }

    /// Removes the directories of engines that are gone. Only empty groups can be removed, so a mistake harms nobody.
    pub(super) fn sweep(&self) {
        for parent in self.own_directories().filter_map(Path::parent) {
            let Ok(entries) = fs_err::read_dir(parent) else {
                continue;
            };
            for entry in entries.flatten() {
                if entry.file_name().to_str().is_some_and(is_of_dead_engine) {
                    remove_tree(&entry.path());
                }
            }
        }
    }
}

/// One mounted hierarchy.
#[derive(Debug)]
struct Hierarchy {
    version: Version,
    /// The directory of the hierarchy that is mounted.
    root: PathBuf,
    mount_point: PathBuf,
    /// Options of the superblock: for version 1, its controllers.
    options: String,
}

impl Hierarchy {
    /// Reads a line of `mountinfo`.
    fn parse(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, mount_point) = (mount.next()?, mount.next()?);
        let mut filesystem = filesystem.split(' ');
        let version = match filesystem.next()? {
            "cgroup" => Version::One,
            "cgroup2" => Version::Two,
            _ => return None,
        };
        let options = filesystem.nth(1)?.to_owned();
        Some(Self { version, root: root.into(), mount_point: mount_point.into(), options })
    }

    /// Whether this is a version 1 hierarchy with the controller.
    fn has(&self, controller: Controller) -> bool {
        self.version == Version::One && self.options.split(',').any(|option| option == controller.name())
    }

    /// The directory of this process's own group.
    fn directory(&self, memberships: &str) -> Option<PathBuf> {
        let path = memberships.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let matches = match self.version {
                Version::Two => controllers.is_empty(),
                Version::One => {
                    let first = controllers.split(',').next().filter(|name| !name.is_empty())?;
                    self.options.split(',').any(|option| option == first)
                }
            };
            matches.then_some(path)
        })?;
        // In a container the path may be one that only the host knows; then what is mounted is what there is.
        let relative = Path::new(path).strip_prefix(&self.root).unwrap_or(Path::new(""));
        let directory = self.mount_point.join(relative);
        Some(if directory.is_dir() { directory } else { self.mount_point.clone() })
    }
}

/// The groups that a process is in, or this one, as the kernel lists them.
pub(super) fn membership(process: Option<Pid>) -> String {
    let process = process.map_or_else(|| "self".to_owned(), |process| process.to_string());
    fs_err::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default()
}

/// The nearest directory of a version 2 hierarchy, from our own group upwards, in which groups with controllers can be
/// made. Our own group cannot have any: it has processes, and version 2 allows only one of both.
fn delegated(own: &Path, top: &Path, wanted: &[Controller]) -> Option<(PathBuf, Vec<Controller>)> {
    for directory in own.ancestors().take_while(|directory| directory.starts_with(top)) {
        // Processes are moved below this directory, for which the kernel asks for the right to write this file.
        if !is_writable(directory) || !is_writable(&directory.join("cgroup.procs")) {
            return None;
        }
        if has_processes(directory) {
            continue;
        }
        let control = directory.join("cgroup.subtree_control");
        let read = || fs_err::read_to_string(&control).unwrap_or_default();
        for controller in wanted {
            if !lists(&read(), *controller) {
                // Refused where the directory has processes or not the controller itself.
                let _ = fs_err::write(&control, format!("+{}", controller.name()));
            }
        }
        let enabled: Vec<Controller> =
            wanted.iter().copied().filter(|controller| lists(&read(), *controller)).collect();
        if !enabled.is_empty() {
            return Some((directory.into(), enabled));
        }
    }
    None
}

/// Whether a group has processes of its own, which keeps groups below it from having limits; the topmost one of a machine
/// may have both. Its `cgroup.subtree_control` does not say so: it takes `cpu` and `pids` all the same, for threads only.
fn has_processes(group: &Path) -> bool {
    let has_type = group.join("cgroup.type").exists();
    has_type && fs_err::read_to_string(group.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty())
}

/// The least limit on processes of a group and those above it, as far as they have one.
fn most_processes(group: &Path) -> Option<u64> {
    let limits = group.ancestors().map_while(|above| fs_err::read_to_string(above.join("pids.max")).ok());
    // One that is not limited says `max`.
    limits.filter_map(|limit| limit.trim().parse().ok()).min()
}

fn lists(controllers: &str, controller: Controller) -> bool {
    controllers.split_ascii_whitespace().any(|name| name == controller.name())
}

fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, Access::WRITE_OK).is_ok()
}

/// Whether a directory's name is that of an engine which no longer runs.
fn is_of_dead_engine(name: &str) -> bool {
    let ids = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    let Some((Ok(pid), Ok(started))) = ids.map(|(pid, started)| (pid.parse::<u32>(), started.parse::<u64>())) else {
        return false;
    };
    start_time(&pid.to_string()) != Some(started)
}

/// When a process started that has not ended, in clock ticks since boot.
fn start_time(pid: &str) -> Option<u64> {
    let text = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may contain anything; the start time is field 22.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    // One that has ended stays until its parent asks, which may be never.
    fields.next().filter(|state| !matches!(*state, "Z" | "X"))?;
    fields.nth(18)?.parse().ok()
}

/// Removes a directory of groups, as far as they are empty; false if something is left.
fn remove_tree(directory: &Path) -> bool {
    for entry in fs_err::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs_err::remove_dir(entry.path());
        }
    }
    super::remove(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount_line(point: &Path, kind: &str, options: &str) -> String {
        format!("30 25 0:26 / {} rw,relatime - {kind} {kind} rw,{options}\n", point.display())
    }

    #[test]
    fn version_one_is_used_where_our_own_group_is() {
        let root = tempfile::tempdir().unwrap();
        let memory = root.path().join("memory");
        fs_err::create_dir_all(memory.join("user/session")).unwrap();
        let mounts = mount_line(&memory, "cgroup", "memory");
        let parents = Parents::from_tables("4:memory:/user/session\n0::/\n", &mounts, "own", true);
        let expected = memory.join("user/session/own");
        assert_eq!(parents.of(Controller::Memory), Some((Version::One, expected.as_path())));
        assert_eq!(parents.of(Controller::Pids), None);
        let parents = Parents::from_tables("4:memory:/user/session\n0::/\n", &mounts, "own", false);
        assert_eq!(parents.of(Controller::Memory), None);
    }

    #[test]
    fn a_path_that_only_the_host_knows_means_what_is_mounted() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mount_line(root.path(), "cgroup", "cpu,cpuacct");
        let parents = Parents::from_tables("2:cpu,cpuacct:/docker/0123\n", &mounts, "own", true);
        assert_eq!(parents.of(Controller::Cpu), Some((Version::One, root.path().join("own").as_path())));
    }

    #[test]
    fn version_two_takes_the_nearest_directory_with_controllers() {
        let root = tempfile::tempdir().unwrap();
        let scope = root.path().join("app.slice/shell.scope");
        fs_err::create_dir_all(&scope).unwrap();
        for (directory, enabled) in [(scope.parent().unwrap(), "memory pids\n"), (&scope, "")] {
            fs_err::write(directory.join("cgroup.procs"), "").unwrap();
            fs_err::write(directory.join("cgroup.subtree_control"), enabled).unwrap();
        }
        let wanted = [Controller::Memory, Controller::Pids];
        // A directory here takes any text; a kernel refuses it for the scope, which has processes.
        fs_err::remove_file(scope.join("cgroup.subtree_control")).unwrap();
        fs_err::create_dir(scope.join("cgroup.subtree_control")).unwrap();
        let (parent, controllers) = delegated(&scope, root.path(), &wanted).unwrap();
        assert_eq!(parent, scope.parent().unwrap());
        assert_eq!(controllers, wanted);
    }

    #[test]
    fn version_two_makes_no_groups_beside_processes() {
        let root = tempfile::tempdir().unwrap();
        let session = root.path().join("user.slice/user-0.slice/session-1.scope");
        fs_err::create_dir_all(&session).unwrap();
        let slice = session.parent().unwrap();
        for (group, processes) in [(&*session, "71\n"), (slice, "")] {
            fs_err::write(group.join("cgroup.type"), "domain\n").unwrap();
            fs_err::write(group.join("cgroup.procs"), processes).unwrap();
            fs_err::write(group.join("cgroup.subtree_control"), "").unwrap();
        }
        fs_err::write(slice.join("cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        let (parent, controllers) = delegated(&session, root.path(), &Controller::ALL).unwrap();
        assert_eq!((&*parent, &*controllers), (slice, &Controller::ALL[..]));
        // A kernel takes this for threads.
        assert_eq!(fs_err::read_to_string(session.join("cgroup.subtree_control")).unwrap(), "");
    }

    #[test]
    fn groups_of_an_engine_get_their_controllers_and_leave_processes_to_others() {
        let root = tempfile::tempdir().unwrap();
        let user = root.path().join("user.slice/user-0.slice");
        fs_err::create_dir_all(&user).unwrap();
        for (group, most) in [(&*user, "max\n"), (user.parent().unwrap(), "800\n")] {
            fs_err::write(group.join("cgroup.procs"), "").unwrap();
            fs_err::write(group.join("cgroup.subtree_control"), "cpu memory pids\n").unwrap();
            fs_err::write(group.join("pids.max"), most).unwrap();
        }
        let mounts = mount_line(root.path(), "cgroup2", "");
        let parents = Parents::from_tables("0::/user.slice/user-0.slice\n", &mounts, "own", false);
        let (_, own) = parents.of(Controller::Pids).unwrap();
        assert_eq!(own, user.join("own"));
        parents.make_own(own).unwrap();
        // An ordinary file has what was written last, a kernel's has all.
        assert_eq!(fs_err::read_to_string(own.join("cgroup.subtree_control")).unwrap(), "+pids");
        assert_eq!(fs_err::read_to_string(own.join("pids.max")).unwrap(), "700");
        assert_eq!(parents.clamp_processes(16_384), 400);
        assert_eq!(parents.clamp_processes(100), 100);
    }

    #[test]
    fn living_engines_are_not_dead() {
        let name = format!("{PREFIX}{}-{}", std::process::id(), start_time("self").unwrap());
        assert!(!is_of_dead_engine(&name));
        assert!(is_of_dead_engine(&format!("{PREFIX}{}-1", std::process::id())));
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let name = format!("{PREFIX}{}-{}", ended.id(), start_time(&ended.id().to_string()).unwrap_or(1));
        while !is_of_dead_engine(&name) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        ended.wait().unwrap();
        assert!(!is_of_dead_engine("lamina-other"));
        assert!(!is_of_dead_engine("system.slice"));
    }
}
