//! Following what a deployed app prints, over all its processes.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::{Deployment, DeploymentName, Deployments};
use crate::output::Changes;
use crate::{AppsError, OutputReader, Show};

/// How often a file is looked for that is not there yet.
const UNTIL_FIRST: Duration = Duration::from_millis(100);
/// How often it is looked whether the app is still deployed, while it prints nothing.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// The output as it is read now.
struct Open {
    reader: OutputReader,
    changes: Option<Changes>,
    inode: u64,
}

impl Deployments {
    /// Where what the app prints next will begin.
    #[must_use]
    pub fn end_of_output(&self, name: &DeploymentName) -> u64 {
        fs_err::metadata(self.output_file(name)).map_or(0, |metadata| metadata.len())
    }

    /// Gives what the app has printed from the place `from` on to `show`, and what it goes on to print, also what it has not
    /// begun yet, until it is stopped for good or `show` cannot go on.
    ///
    /// # Errors
    /// When the file cannot be read or makes no sense.
    pub fn follow(
        &self,
        deployment: &Deployment,
        from: u64,
        show: &mut Show<'_>,
    ) -> Result<ControlFlow<std::io::Error>, AppsError> {
        let name = deployment.full_name();
        let path = self.output_file(&name);
        let (mut open, mut from): (Option<Open>, _) = (None, Some(from));
        loop {
            // Asked before reading: what was printed before the end is shown before it.
            let goes_on = self.is_same(deployment)? || self.host_state(&name)?.is_running();
            if let Some(open) = &mut open {
                let outcome = open.reader.read(show)?;
                if outcome.is_break() {
                    return Ok(outcome);
                }
            }
            let inode = fs_err::metadata(&path).ok().map(|metadata| metadata.ino());
            if let Some(inode) = inode.filter(|inode| open.as_ref().is_none_or(|open| open.inode != *inode)) {
                // The first, or one that was begun anew because the former had become long.
                open = Some(Open::at(&path, inode, from.take())?);
                continue;
            }
            if !goes_on {
                return Ok(ControlFlow::Continue(()));
            }
            match open.as_ref().and_then(|open| open.changes.as_ref()) {
                Some(changes) => changes.wait(BETWEEN_LOOKS)?,
                None => std::thread::sleep(UNTIL_FIRST),
            }
        }
    }

    /// Whether this app is deployed, and not another one that got its name.
    fn is_same(&self, deployment: &Deployment) -> Result<bool, AppsError> {
        let present = self.record(&deployment.full_name())?;
        Ok(present.is_some_and(|present| present.id == deployment.id && present.is_deployed()))
    }
}

impl Open {
    fn at(path: &Path, inode: u64, from: Option<u64>) -> Result<Self, AppsError> {
        let mut reader = OutputReader::open_endless(path)?;
        // One that is shorter was begun anew meanwhile.
        let length = fs_err::metadata(path)?.len();
        if let Some(from) = from.filter(|from| (1..=length).contains(from)) {
            reader.skip_to(from);
        }
        Ok(Self { reader, changes: Changes::of(path), inode })
    }
}
