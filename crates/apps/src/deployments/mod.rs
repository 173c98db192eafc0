//! Deployed apps: apps that are data, whose process starts when somebody calls them.

mod changes;
mod follow;
mod host;
mod kept;
mod record;
#[cfg(test)]
mod tests;
mod watch;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lamina_ground::nearest;
use lamina_store::Layout;
use serde_json::Value;

use crate::AppsError;

pub use changes::{Deployed, NewVersion};
pub use host::{HOST, RunningHost};
pub use kept::{KeptCalls, PendingCall};
pub use record::{Deployment, DeploymentName, Version};
pub use watch::{DeploymentWatch, HostProcess};

/// The deployed apps of a store.
#[derive(Debug, Clone)]
pub struct Deployments {
    layout: Layout,
}

/// The deployed apps of a store, by what is known of them.
#[derive(Debug, Default)]
pub struct Survey {
    /// Those whose records can be read.
    pub sound: Vec<Deployment>,
    /// The others, and why.
    pub damaged: Vec<(DeploymentName, AppsError)>,
}

impl Deployments {
    /// Those of the store with this layout.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// All of them whose records make sense, also those that were stopped, by environment and name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Deployment>, AppsError> {
        Ok(self.survey()?.sound)
    }

    /// All of them, also those that were stopped, by environment and name: one whose record makes no sense is no reason
    /// not to see the others.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn survey(&self) -> Result<Survey, AppsError> {
        let mut names = Vec::new();
        for environment in names_in(&self.layout.deployments())? {
            let here = names_in(&self.layout.deployments().join(&environment))?;
            names.extend(here.iter().filter_map(|name| DeploymentName::new(&environment, name).ok()));
        }
        names.sort();
        let mut found = Survey::default();
        for name in names {
            match self.record(&name) {
                Ok(record) => found.sound.extend(record),
                Err(error) => found.damaged.push((name, error)),
            }
        }
        Ok(found)
    }

    /// The app of this name, if it is deployed.
    ///
    /// # Errors
    /// When there is none: the error names those that are called alike.
    pub fn get(&self, name: &DeploymentName) -> Result<Deployment, AppsError> {
        match self.record(name)?.filter(Deployment::is_deployed) {
            Some(deployment) => Ok(deployment),
            None => Err(self.unknown(name)?),
        }
    }

    /// The app that a user means by its name in an environment, or by its id, also one that was stopped; nothing if there
    /// is none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find(&self, environment: &str, target: &str) -> Result<Option<Deployment>, AppsError> {
        if let Ok(name) = DeploymentName::new(environment, target)
            && let Some(deployment) = self.record(&name)?
        {
            return Ok(Some(deployment));
        }
        Ok(self.list()?.into_iter().find(|deployment| deployment.id == target))
    }

    /// What a version of an app consists of; the current one where no number is given.
    ///
    /// # Errors
    /// When there is no such version, or what is kept of it is damaged.
    pub fn content(&self, deployment: &Deployment, number: Option<u32>) -> Result<Value, AppsError> {
        let number = number.unwrap_or(deployment.current);
        let missing = || AppsError::UnknownVersion {
            name: deployment.full_name(),
            number,
            first: deployment.versions.first().map_or(1, |version| version.number),
            current: deployment.current,
        };
        let name = deployment.full_name();
        let content = record::read_content(&self.version_file(&name, number)).map_err(|error| match error {
            AppsError::Damaged { path, reason } => AppsError::DamagedVersion { name, number, path, reason },
            other => other,
        });
        content?.ok_or_else(missing)
    }

    /// Why there is no app of this name.
    fn unknown(&self, name: &DeploymentName) -> Result<AppsError, AppsError> {
        let all = self.list()?;
        let here = all.iter().filter(|it| it.is_deployed() && it.environment == name.environment);
        let nearest = nearest(&name.name, here.map(|it| &*it.name));
        let elsewhere = all.iter().find(|it| it.is_deployed() && it.name == name.name).map(|it| it.environment.clone());
        Ok(AppsError::NotDeployed { name: name.clone(), nearest, elsewhere })
    }

    fn record(&self, name: &DeploymentName) -> Result<Option<Deployment>, AppsError> {
        let record = Deployment::read(&self.record_file(name)).map_err(|error| match error {
            AppsError::Damaged { path, reason } => AppsError::DamagedRecord { name: name.clone(), path, reason },
            other => other,
        })?;
        // One that was copied here says of another what it says.
        Ok(record.filter(|record| record.full_name() == *name))
    }

    fn directory(&self, name: &DeploymentName) -> PathBuf {
        self.layout.deployments().join(&name.environment).join(&name.name)
    }

    fn record_file(&self, name: &DeploymentName) -> PathBuf {
        self.directory(name).join("app.json")
    }

    fn versions(&self, name: &DeploymentName) -> PathBuf {
        self.directory(name).join("versions")
    }

    fn version_file(&self, name: &DeploymentName, number: u32) -> PathBuf {
        self.versions(name).join(format!("{number}.json"))
    }
}

/// Names of what is in a directory; none if there is no such directory.
fn names_in(directory: &Path) -> Result<Vec<String>, AppsError> {
    match fs_err::read_dir(directory) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
    }
}
