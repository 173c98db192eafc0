//! Watching deployed apps from outside: whether any come, change or go, and the processes of those that run.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use lamina_store::Layout;
use rustix::fs::inotify;
use rustix::process::{Pid, getpid};

use super::{DeploymentName, Deployments, names_in};
use crate::AppsError;
use crate::stop::Process;

/// The process of a deployed app, as others see it. Its descriptor is readable once it has ended.
#[derive(Debug)]
pub struct HostProcess(Process);

impl HostProcess {
    /// The number of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid().as_raw_pid().cast_unsigned()
    }

    /// Ends it, as Ctrl-C would; one that does not listen is killed.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self) -> Result<(), AppsError> {
        self.0.stop()
    }

    /// Whether it is to end with this process, which has started it, or is of the same service of systemd, called `unit`.
    #[must_use]
    pub fn belongs_here(&self, unit: &str) -> bool {
        let groups = |process: &str| fs_err::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
        parent(self.0.pid()) == Some(getpid())
            || are_of_one_service(&groups("self"), &groups(&self.pid().to_string()), unit)
    }
}

impl AsFd for HostProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Deployments {
    /// The process of an app, if it runs.
    ///
    /// # Errors
    /// When it runs, and cannot be found.
    pub fn host_process(&self, name: &DeploymentName) -> Result<Option<HostProcess>, AppsError> {
        Ok(self.find_host(name)?.map(HostProcess))
    }
}

/// The process that has started another one, as long as it lives.
fn parent(pid: Pid) -> Option<Pid> {
    let text = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have some itself.
    let parent = text.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?;
    Pid::from_raw(parent.parse().ok()?)
}

/// Whether two processes, of which `/proc` tells these control groups, are both in that of a service, or below it.
fn are_of_one_service(one: &str, other: &str, unit: &str) -> bool {
    let mut services = one.lines().filter(|line| line.strip_suffix(unit).is_some_and(|rest| rest.ends_with('/')));
    services.any(|service| {
        let rest =
            |line: &'_ str| line.strip_prefix(service).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        other.lines().any(rest)
    })
}

/// Tells of apps that come, change and go, and of processes of theirs that begin to listen: its descriptor is readable then.
#[derive(Debug)]
pub struct DeploymentWatch {
    inotify: OwnedFd,
    layout: Layout,
}

impl DeploymentWatch {
    /// Tells of nothing before [`DeploymentWatch::renew`].
    ///
    /// # Errors
    /// When the kernel has none left for this user.
    pub fn new(deployments: &Deployments) -> Result<Self, AppsError> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).map_err(std::io::Error::from)?;
        Ok(Self { inotify, layout: deployments.layout.clone() })
    }

    /// Forgets what it has told, and watches all that there is now, also if it was not there before. What is read after
    /// that is as new as what is told next.
    ///
    /// # Errors
    /// When something cannot be watched: it would not be noticed.
    pub fn renew(&self) -> Result<(), AppsError> {
        while rustix::io::read(&self.inotify, &mut [0; 4096]).is_ok_and(|count| count > 0) {}
        let root = self.layout.deployments();
        if !self.add(&root)? {
            // Nothing was deployed yet, or the store was removed: what is missing will be made in what there is.
            let above = root.ancestors().skip(1);
            for directory in above {
                if self.add(directory)? {
                    break;
                }
            }
            return Ok(());
        }
        for environment in names_in(&root)? {
            let environment = root.join(environment);
            self.add(&environment)?;
            for app in names_in(&environment)? {
                let app = environment.join(app);
                // The socket of its process is made in the second.
                self.add(&app)?;
                self.add(&app.join("host"))?;
            }
        }
        Ok(())
    }

    /// Watches a directory; false if there is none.
    fn add(&self, directory: &Path) -> Result<bool, AppsError> {
        use inotify::WatchFlags as Flags;
        use rustix::io::Errno;

        let flags = Flags::CREATE | Flags::MOVED_TO | Flags::DELETE_SELF | Flags::MOVE_SELF | Flags::ONLYDIR;
        match inotify::add_watch(&self.inotify, directory, flags) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(false),
            Err(errno) => Err(AppsError::file("watching", directory)(errno)),
        }
    }
}

impl AsFd for DeploymentWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn tells(watch: &DeploymentWatch) -> bool {
        poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&Timespec::default())).unwrap() > 0
    }

    #[test]
    fn what_comes_is_told_wherever_it_begins() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("not/yet");
        let layout = Layout::of_no_store(root.clone());
        let watch = DeploymentWatch::new(&Deployments::new(layout.clone())).unwrap();
        watch.renew().unwrap();
        assert!(!tells(&watch));
        let app = layout.deployments().join("main/app");
        let steps =
            [directory.path().join("not"), root, layout.deployments(), layout.deployments().join("main"), app.clone()];
        for step in steps.iter().chain([&app.join("host")]) {
            fs_err::create_dir(step).unwrap();
            assert!(tells(&watch), "{}", step.display());
            watch.renew().unwrap();
            assert!(!tells(&watch), "{}", step.display());
        }
        for file in ["app.json", "host/socket"] {
            fs_err::write(app.join(file), "").unwrap();
            assert!(tells(&watch), "{file}");
            watch.renew().unwrap();
        }
        fs_err::write(app.join("host/socket"), "more").unwrap();
        assert!(!tells(&watch), "what a process writes is not told");
        fs_err::remove_dir_all(directory.path().join("not")).unwrap();
        assert!(tells(&watch));
        watch.renew().unwrap();
        fs_err::create_dir(directory.path().join("not")).unwrap();
        assert!(tells(&watch), "a store that was removed may be made again");
    }

    #[test]
    fn processes_of_one_service_are_told_from_others() {
        let unit = "modal-apps.service";
        let watcher = "12:pids:/user.slice\n0::/user.slice/app.slice/modal-apps.service\n";
        let of_one = |other: &str| are_of_one_service(watcher, other, unit);
        assert!(of_one("0::/user.slice/app.slice/modal-apps.service\n"));
        assert!(of_one("0::/user.slice/app.slice/modal-apps.service/lamina-1\n"));
        assert!(!of_one("0::/user.slice/app.slice/modal-apps.service2\n"));
        assert!(!of_one("12:pids:/user.slice\n0::/user.slice/session-1.scope\n"));
        let elsewhere = "0::/user.slice/session-1.scope\n";
        assert!(!are_of_one_service(elsewhere, elsewhere, unit), "who is in no such service shares none");
        assert!(!are_of_one_service("0::/a-modal-apps.service\n", "0::/a-modal-apps.service\n", unit));
    }

    #[test]
    fn a_process_has_a_parent() {
        assert_eq!(parent(getpid()), rustix::process::getppid());
    }
}
