//! Changes of deployed apps: new versions, going back to old ones, and their end.

use std::collections::BTreeMap;

use lamina_events::CancelToken;
use lamina_ground::{random_id, seconds_since_1970};
use lamina_store::Lock;
use serde_json::Value;

use super::record::{self, sync_directory};
use super::{Deployment, DeploymentName, Deployments, Version, names_in};
use crate::AppsError;
use crate::records::make_private;

/// Versions of an app that are kept, the newest ones: what they need stays in the store.
pub(crate) const KEPT_VERSIONS: usize = 50;

/// Apps that were stopped and that are remembered when another one is deployed.
pub(crate) const KEPT_STOPPED: usize = 100;

/// A version that is deployed.
#[derive(Clone)]
pub struct NewVersion<'a> {
    /// What it consists of.
    pub content: &'a Value,
    /// Whether what the present version consists of comes to the same.
    pub is_same: &'a dyn Fn(&Value) -> bool,
    /// The version of the `modal` package that it is deployed with.
    pub client: &'a str,
    /// Who deploys it.
    pub by: &'a str,
    /// The commit of the source.
    pub commit: Option<&'a str>,
    /// What its deployer calls it.
    pub tag: &'a str,
    /// Tags of the app, if they are to be others.
    pub tags: Option<&'a BTreeMap<String, String>>,
}

impl std::fmt::Debug for NewVersion<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NewVersion").field("client", &self.client).field("by", &self.by).finish_non_exhaustive()
    }
}

/// What deploying came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// The app.
    pub deployment: Deployment,
    /// Whether there is a new version; the last one was the same otherwise.
    pub is_new: bool,
}

impl Deployments {
    /// Makes a version the one that calls get, unless the current one is the same. `waiting` is called once if somebody
    /// else changes the app for a while.
    ///
    /// # Errors
    /// When it cannot be written, in which case the last version stays, or `cancel` comes first.
    pub fn deploy(
        &self,
        name: &DeploymentName,
        new: &NewVersion<'_>,
        cancel: &CancelToken,
        waiting: impl FnOnce(),
    ) -> Result<Deployed, AppsError> {
        let _alone = self.change(name, cancel, waiting)?;
        let before = self.record(name)?.filter(Deployment::is_deployed);
        let now = seconds_since_1970();
        let mut deployment = if let Some(deployment) = before {
            deployment
        } else {
            self.clear(name)?;
            // What cannot be removed now is the next time.
            let _ = self.forget_stopped(name, cancel);
            Deployment {
                id: random_id("ap"),
                name: name.name.clone(),
                environment: name.environment.clone(),
                created: now,
                stopped: None,
                current: 0,
                tags: BTreeMap::new(),
                versions: Vec::new(),
            }
        };
        let tags = new.tags.unwrap_or(&deployment.tags).clone();
        let last = deployment.versions.last();
        let is_same = last.is_some_and(|last| new.tag.is_empty() || last.tag == new.tag)
            && self.present_content(&deployment)?.as_ref().is_some_and(new.is_same);
        if is_same && tags == deployment.tags {
            return Ok(Deployed { deployment, is_new: false });
        }
        deployment.tags = tags;
        let version = Version {
            number: deployment.versions.last().map_or(0, |last| last.number) + 1,
            deployed: now,
            client: new.client.to_owned(),
            by: new.by.to_owned(),
            commit: new.commit.map(str::to_owned),
            tag: new.tag.to_owned(),
            rollback_of: None,
        };
        record::write_content(&self.version_file(name, version.number), new.content)?;
        self.adopt_version(name, deployment, version)
    }

    /// What the current version consists of; nothing if that is damaged, which a new version mends.
    fn present_content(&self, deployment: &Deployment) -> Result<Option<Value>, AppsError> {
        match record::read_content(&self.version_file(&deployment.full_name(), deployment.current)) {
            Err(AppsError::Damaged { .. }) => Ok(None),
            read => read,
        }
    }

    /// Makes a new version that is the same as an earlier one, or as the current one: what runs is replaced.
    ///
    /// # Errors
    /// When there is no such app or version, or it cannot be written.
    pub fn repeat(
        &self,
        name: &DeploymentName,
        number: u32,
        by: &str,
        cancel: &CancelToken,
    ) -> Result<Deployed, AppsError> {
        self.get(name)?;
        let _alone = self.change(name, cancel, || ())?;
        let deployment = self.get(name)?;
        // Whether it is there is what matters.
        let _ = self.content(&deployment, Some(number))?;
        let Some(old) = deployment.versions.iter().find(|version| version.number == number).cloned() else {
            return Err(AppsError::Damaged {
                path: self.record_file(name),
                reason: format!("it does not mention version `{number}`"),
            });
        };
        let version = Version {
            number: deployment.versions.last().map_or(0, |last| last.number) + 1,
            deployed: seconds_since_1970(),
            by: by.to_owned(),
            rollback_of: Some(number),
            ..old
        };
        let target = self.version_file(name, version.number);
        // Left over from somebody who was killed here.
        let _ = fs_err::remove_file(&target);
        fs_err::hard_link(self.version_file(name, number), &target)?;
        sync_directory(&target)?;
        self.adopt_version(name, deployment, version)
    }

    /// Notes that the app has ended for good; false if it had already.
    ///
    /// # Errors
    /// When there is no such app, or it cannot be written.
    pub fn end(&self, deployment: &Deployment, cancel: &CancelToken) -> Result<bool, AppsError> {
        let name = deployment.full_name();
        let _alone = self.change(&name, cancel, || ())?;
        let present = self.record(&name)?.filter(|present| present.id == deployment.id && present.is_deployed());
        let Some(mut present) = present else { return Ok(false) };
        present.stopped = Some(seconds_since_1970());
        present.write(&self.record_file(&name))?;
        // What it needed may go. Where that cannot be removed now, it goes with the next app of that name.
        let _ = fs_err::remove_dir_all(self.versions(&name));
        let _ = fs_err::remove_dir_all(self.directory(&name).join("calls"));
        Ok(true)
    }

    /// Replaces all tags of an app.
    ///
    /// # Errors
    /// When there is no such app, or it cannot be written.
    pub fn set_tags(
        &self,
        name: &DeploymentName,
        tags: BTreeMap<String, String>,
        cancel: &CancelToken,
    ) -> Result<(), AppsError> {
        self.get(name)?;
        let _alone = self.change(name, cancel, || ())?;
        Deployment { tags, ..self.get(name)? }.write(&self.record_file(name))
    }

    /// Records a version whose content is written, as the current one, and forgets the oldest.
    fn adopt_version(
        &self,
        name: &DeploymentName,
        mut deployment: Deployment,
        version: Version,
    ) -> Result<Deployed, AppsError> {
        deployment.current = version.number;
        deployment.versions.push(version);
        let surplus = deployment.versions.len().saturating_sub(KEPT_VERSIONS);
        deployment.versions.drain(..surplus);
        deployment.write(&self.record_file(name))?;
        // Also what somebody left behind who was killed; where it cannot be removed now, it is the next time.
        for file in names_in(&self.versions(name))? {
            let is_known = deployment.versions.iter().any(|version| format!("{}.json", version.number) == file);
            if !is_known {
                let _ = fs_err::remove_file(self.versions(name).join(file));
            }
        }
        Ok(Deployed { deployment, is_new: true })
    }

    /// Forgets what an app of that name has left which was stopped.
    fn clear(&self, name: &DeploymentName) -> Result<(), AppsError> {
        for left in [self.directory(name).join("calls"), self.versions(name)] {
            if left.exists() {
                fs_err::remove_dir_all(&left)?;
            }
        }
        make_private(&self.versions(name))
    }

    /// Forgets all but the newest of the other apps that were stopped.
    fn forget_stopped(&self, present: &DeploymentName, cancel: &CancelToken) -> Result<(), AppsError> {
        let mut stopped: Vec<_> = self.list()?.into_iter().filter(|app| !app.is_deployed()).collect();
        stopped.retain(|app| app.full_name() != *present);
        stopped.sort_by_key(|app| std::cmp::Reverse(app.stopped));
        for app in stopped.iter().skip(KEPT_STOPPED) {
            let name = app.full_name();
            let _alone = self.change(&name, cancel, || ())?;
            if self.record(&name)?.is_some_and(|now| now.id == app.id) && !self.host_state(&name)?.is_running() {
                fs_err::remove_dir_all(self.directory(&name))?;
            }
        }
        Ok(())
    }

    /// Keeps others from changing the app until the answer is dropped.
    fn change(&self, name: &DeploymentName, cancel: &CancelToken, waiting: impl FnOnce()) -> Result<Lock, AppsError> {
        for directory in [
            self.layout.deployments(),
            self.layout.deployments().join(&name.environment),
            self.directory(name),
            self.versions(name),
        ] {
            make_private(&directory)?;
        }
        Ok(Lock::take_soon(&self.directory(name).join("lock"), cancel, waiting)?.keep_file())
    }
}
