//! `apt_install`: the package manager of the image's base, inside the sandbox, with its lists and archives shared between
//! builds.

use lamina_bases::{apt, dpkg};
use lamina_image::{KeyMaterial, Node};
use lamina_sandbox::Mount;
use lamina_store::{Store, StoreError, Work};

use super::commands::Run;
use super::{Made, StepContext, StepError};
use crate::host::DIRECTORY;
use crate::log::StepLog;

pub(crate) struct AptPlan {
    packages: Vec<String>,
}

/// The order of the packages is the user's and enters the key: apt sees it.
pub(crate) fn plan(packages: &[String], material: &mut KeyMaterial) -> AptPlan {
    material.add("kind", "apt_install");
    material.add("packages", packages.to_vec());
    AptPlan { packages: packages.to_vec() }
}

impl AptPlan {
    pub(crate) fn execute(self, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let store = &context.tools.store;
        let work = store.new_work()?;
        let install = apt::Install {
            facts: &context.parent.facts,
            packages: &self.packages,
            is_signed: context.parent.pristine && keeps_pristine(context.node, &self.packages),
            refresh: context.node.force_build,
        };
        let caches = install.caches();
        let mounts = caches.iter().map(|cache| mount(store, &work, cache)).collect::<Result<_, _>>()?;
        let commands = [install.command(DIRECTORY)];
        let run = Run { commands: &commands, environment: &apt::Install::ENVIRONMENT, mounts, ..Run::default() };
        let exit = run.execute(context, &work, log)?;
        // Whoever can plant files in the caches decides what other images install. So only an apt that nobody but Debian
        // has touched may add to them; the others read.
        if install.is_signed {
            for cache in &caches {
                store.harvest_cache(&work, &cache.name, &apt::Install::shared())?;
            }
        }
        let rules = dpkg::commit_rules(exit.created_mountpoints);
        Ok(Made::Work { work, rules, facts: Box::default(), held: None })
    }
}

/// Whether a step runs nothing but packages that the base's archive has signed.
pub(crate) fn keeps_pristine(node: &Node, packages: &[String]) -> bool {
    apt::brings_only_packages(packages, node.variables().map(|(name, _)| name))
}

/// A cache of the store as an overlay: the step's own changes stay beside it until they are harvested.
fn mount(store: &Store, work: &Work, cache: &apt::Cache) -> Result<Mount, StoreError> {
    let lower = store.cache_directory(&cache.name)?;
    let (upper, work) = store.new_cache_upper(work, &cache.name)?;
    Ok(Mount::Cache { lower, upper, work, target: cache.target.to_owned() })
}
