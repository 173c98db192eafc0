//! The root after its packages are configured: what must not differ from one bootstrap to the next.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use lamina_store::{Job, JobError, WorkerContext};
use serde::{Deserialize, Serialize};

use super::lay_out::HELPERS;
use super::tree::{Attributes, Tree};
use crate::mirror::image_sources;
use crate::{DebianPlan, PythonSource, Suite};

/// Files that only tell when something happened, or how it was before.
const SCRATCH: [&str; 18] = [
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/systemd/random-seed",
];

/// Logs, by directory and ending.
const LOGS: [&str; 2] = ["var/log", "var/log/apt"];

/// Files that are mounted over when something runs, or filled in by a booting machine.
const MOUNT_POINTS: [&str; 4] = ["etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf"];

/// 2000-01-01 in days since 1970, as the day of the last change of every password.
const PASSWORD_DAY: &str = "10957";

/// Makes the root independent of the time and place it was made at.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tidy {
    /// The work whose upper is the root.
    pub(crate) work: String,
    /// The release, for `apt`'s sources.
    pub(crate) suite: Suite,
    /// The series of Debian's own Python, which gets links under the names that others have; none for another.
    pub(crate) series: Option<String>,
}

impl Tidy {
    /// What to tidy after bootstrapping `plan` into `work`.
    pub(crate) fn of(plan: &DebianPlan, work: &str) -> Self {
        let series = (plan.python == PythonSource::Debian).then(|| plan.series.clone());
        Self { work: work.to_owned(), suite: plan.suite, series }
    }
}

impl Job for Tidy {
    const NAME: &'static str = "bases.tidy";
    type Output = ();

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        let mut tree = Tree::open(&context.upper(&self.work))?;
        for path in HELPERS.iter().map(|(path, _)| path).chain(&SCRATCH) {
            tree.remove(Path::new(path))?;
        }
        for directory in LOGS {
            for name in tree.names(Path::new(directory))? {
                if Path::new(&name).extension() == Some(OsStr::new("log")) {
                    tree.remove(&Path::new(directory).join(name))?;
                }
            }
        }
        for path in MOUNT_POINTS {
            tree.replace(Path::new(path), 0o644, b"")?;
        }
        tree.edit(Path::new("etc/shadow"), same_password_day)?;
        tree.replace(Path::new("etc/apt/sources.list"), 0o644, image_sources(self.suite).as_bytes())?;
        if let Some(series) = self.series {
            let mut link =
                |path: &str, target: &str| tree.symlink(Path::new(path), OsStr::new(target), Attributes::root(0o777));
            link("usr/local/bin/python", "/usr/bin/python3")?;
            // Where programs written for other Pythons look for packages; Debian's own looks at the target alone.
            link(&format!("usr/local/lib/python{series}/site-packages"), "dist-packages")?;
        }
        Ok(())
    }
}

/// `/etc/shadow` with the same day everywhere.
fn same_password_day(shadow: &str) -> String {
    let lines = shadow.lines().map(|line| {
        let mut fields: Vec<_> = line.split(':').collect();
        if let Some(day) = fields.get_mut(2).filter(|day| !day.is_empty()) {
            *day = PASSWORD_DAY;
        }
        fields.join(":") + "\n"
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_changed_on_the_same_day() {
        let shadow = "root:*:20000:0:99999:7:::\ndaemon:*::0:99999:7:::\n";
        assert_eq!(same_password_day(shadow), "root:*:10957:0:99999:7:::\ndaemon:*::0:99999:7:::\n");
    }
}
