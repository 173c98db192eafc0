//! The root after its packages are configured: without what was there for that, and with what images have of their own. What
//! package managers leave behind goes when the base is committed, as after any step that installs packages.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use lamina_store::{Job, JobError, WorkerContext};
use serde::{Deserialize, Serialize};

use super::lay_out::HELPERS;
use super::tree::{Attributes, Tree};
use crate::mirror::image_sources;
use crate::{DebianPlan, PythonSource, Suite};

/// Files that are mounted over when something runs, or filled in by a booting machine.
const MOUNT_POINTS: [&str; 4] = ["etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf"];

/// Makes the root what later steps expect.
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
        for (path, _) in HELPERS {
            tree.remove(Path::new(path))?;
        }
        for path in MOUNT_POINTS {
            tree.replace(Path::new(path), 0o644, b"")?;
        }
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
