//! What packages that are named by address say about themselves, by the digest that they are named with: one that is
//! unpacked already is not fetched again to be asked.

use std::os::fd::OwnedFd;

use lamina_packages::file_name;
use lamina_store::{Job, JobError, Store, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::manifest::{descriptions, manifest_name};

/// A package that was fetched before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) sha256: String,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// Its `info/index.json`.
    pub(crate) index: String,
}

/// Name of the description of the package with this digest, of whatever kind that is.
fn name(digest: &str) -> String {
    file_name(digest, Some("about"))
}

/// What is known of the package with this digest, if it is unpacked.
pub(crate) fn recall(digest: &str, store: &Store) -> Result<Option<Known>, JobError> {
    store.job(&RecallPackage { digest: digest.to_owned() }, &[])
}

/// Keeps what packages with these digests have said.
pub(crate) fn remember(packages: Vec<(String, Known)>, store: &Store) -> Result<(), JobError> {
    if packages.is_empty() { Ok(()) } else { store.job(&RememberPackages { packages }, &[]) }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct RecallPackage {
    digest: String,
}

impl Job for RecallPackage {
    const NAME: &'static str = "conda.recall";
    type Output = Option<Known>;

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Option<Known>, JobError> {
        let (descriptions, name) = (descriptions(context), name(&self.digest));
        // One that is damaged is written again.
        let known: Option<Known> = descriptions.load_published(&name).unwrap_or_default();
        let known = known.filter(|known| descriptions.is_published(&manifest_name(&known.sha256)));
        if known.is_some() {
            descriptions.touch(&name);
        }
        Ok(known)
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct RememberPackages {
    packages: Vec<(String, Known)>,
}

impl Job for RememberPackages {
    const NAME: &'static str = "conda.remember";
    type Output = ();

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<(), JobError> {
        let descriptions = descriptions(context);
        let mut names = Vec::new();
        for (digest, known) in &self.packages {
            names.push(name(digest));
            descriptions.save(&name(digest), known)?;
        }
        descriptions.publish(&names)
    }
}
