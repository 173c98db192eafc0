//! Following what a deployed app prints, over all its processes.

use std::ops::ControlFlow;
use std::time::Duration;

use super::{Deployment, Deployments};
use crate::{AppsError, LogPosition, LogReader, Show};

/// How often a log is looked for that is not there yet.
const UNTIL_FIRST: Duration = Duration::from_millis(100);
/// How often it is looked whether the app is still deployed, while it prints nothing.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

impl Deployments {
    /// Gives what the log of the app has from where its reader stands to `show`, and what comes, also what has not begun
    /// yet, until the app is stopped for good or `show` cannot go on.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn follow(
        &self,
        deployment: &Deployment,
        log: &mut LogReader,
        show: &mut Show<'_>,
    ) -> Result<ControlFlow<std::io::Error>, AppsError> {
        let name = deployment.full_name();
        let mut changes = log.changes();
        loop {
            // Asked before reading: what was printed before the end is shown before it.
            let goes_on = self.is_same(deployment)? || self.host_state(&name)?.is_running();
            let outcome = log.read(show)?;
            if outcome.is_break() || !goes_on {
                return Ok(outcome);
            }
            if let Some(changes) = &changes {
                changes.wait(BETWEEN_LOOKS)?;
            } else {
                std::thread::sleep(UNTIL_FIRST);
                changes = log.changes();
            }
        }
    }

    /// The log of an app that may not have run yet, from a place on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log_from(&self, deployment: &Deployment, from: Option<LogPosition>) -> Result<LogReader, AppsError> {
        let mut log = self.log_to_come(&deployment.full_name());
        if let Some(from) = from {
            log.skip_to(from)?;
        }
        Ok(log)
    }

    /// Whether this app is deployed, and not another one that got its name.
    fn is_same(&self, deployment: &Deployment) -> Result<bool, AppsError> {
        let present = self.record(&deployment.full_name())?;
        Ok(present.is_some_and(|present| present.id == deployment.id && present.is_deployed()))
    }
}
