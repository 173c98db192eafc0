//! `apt_install`: the package manager of the image's base, inside the sandbox, with its lists and archives shared between
//! builds.

use lamina_bases::{apt, dpkg};
use lamina_image::{AptInstall, KeyMaterial, Node};
use lamina_sandbox::Mount;
use lamina_store::{Store, StoreError, Work};

use super::commands::Run;
use super::{Kind, LayerKind, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::host::DIRECTORY;
use crate::log::StepLog;

struct AptPlan {
    packages: Vec<String>,
}

impl Kind for AptInstall {}

impl LayerKind for AptInstall {
    /// The order of the packages is the user's and enters the key: apt sees it.
    fn plan(&self, _planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        material.add("kind", "apt_install");
        material.add("packages", self.packages.clone());
        Ok(Box::new(AptPlan { packages: self.packages.clone() }))
    }
}

impl Recipe for AptPlan {
    fn stays_pristine(&self, node: &Node, before: bool) -> bool {
        before && keeps_pristine(node, &self.packages)
    }

    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let store = context.workshop.store;
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
fn keeps_pristine(node: &Node, packages: &[String]) -> bool {
    apt::brings_only_packages(packages, node.variables().map(|(name, _)| name))
}

/// A cache of the store as an overlay: the step's own changes stay beside it until they are harvested.
fn mount(store: &Store, work: &Work, cache: &apt::Cache) -> Result<Mount, StoreError> {
    let lower = store.cache_directory(&cache.name)?;
    let (upper, work) = store.new_cache_upper(work, &cache.name)?;
    Ok(Mount::Cache { lower, upper, work, target: cache.target.to_owned() })
}
