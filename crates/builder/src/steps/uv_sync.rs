//! `uv_sync`.

use std::fmt::Write as _;
use std::path::Path;

use lamina_bases::quote;
use lamina_ground::DEFAULT_PATH;
use lamina_image::{Digest, Facts, KeyMaterial, UvSync};

use super::installer::{self, Installation};
use super::project::UvProject;
use super::{Kind, LayerKind, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::host::DIRECTORY;
use crate::log::StepLog;

/// Where the project's files are inside.
const PROJECT: &str = "/.uv";
/// Programs of the environment that is made there.
const PROGRAMS: &str = "/.uv/.venv/bin";

struct SyncPlan {
    step: UvSync,
    pyproject: String,
    lock: Option<String>,
}

/// The project of a step, which has what is asked of it.
fn project(step: &UvSync) -> Result<UvProject, BuildError> {
    let project = UvProject::read(Path::new(&step.project))?;
    project.check(&step.extras, &step.groups, step.frozen)?;
    Ok(project)
}

impl Kind for UvSync {
    fn check(&self) -> Result<(), BuildError> {
        project(self).map(drop)
    }
}

impl LayerKind for UvSync {
    /// The project and its lock are read here: their texts are part of the image, and of the key.
    fn plan(&self, _planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        let UvProject { pyproject, lock } = project(self)?;
        let (pyproject, lock) = (pyproject.text, lock.map(|lock| lock.text));
        material.add("kind", "uv_sync");
        material.add("pyproject", Digest::of(pyproject.as_bytes()).hex());
        material.add("lock", lock.as_ref().map(|lock| Digest::of(lock.as_bytes()).hex()));
        material.add("groups", self.groups.clone());
        material.add("extras", self.extras.clone());
        material.add("frozen", self.frozen);
        material.add("extra_options", self.extra_options.clone());
        material.add("uv_version", self.uv_version.clone());
        Ok(Box::new(SyncPlan { step: self.clone(), pyproject, lock }))
    }
}

impl SyncPlan {
    /// The arguments of `uv`, in the documented order.
    fn arguments(&self) -> String {
        let mut arguments = format!("sync --project={PROJECT} --no-install-workspace --compile-bytecode");
        for (flag, names) in [("--group", &self.step.groups), ("--extra", &self.step.extras)] {
            for name in names {
                let _ = write!(arguments, " {}", quote(&format!("{flag}={name}")));
            }
        }
        if self.step.frozen && self.lock.is_some() {
            arguments += " --frozen";
        }
        arguments + " " + &self.step.extra_options
    }

    /// Installs, in the sandbox.
    fn install(
        &self,
        context: &StepContext<'_>,
        toolchain: Option<Digest>,
        log: &mut StepLog,
    ) -> Result<Made, StepError> {
        let (sync, tools) = installer::uv(self.step.uv_version.as_deref(), &self.arguments(), context)?;
        let named = [("pyproject.toml", Some(&self.pyproject)), ("uv.lock", self.lock.as_ref())];
        let files: Vec<_> =
            named.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.clone().into_bytes()))).collect();
        let mut script = format!("set -e\numask 022\nmkdir -p {PROJECT}\n");
        for (name, _) in &files {
            let _ = writeln!(script, "cat {DIRECTORY}/{name} > {PROJECT}/{name}");
        }
        script += &sync;
        let path = context.parent.config.environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let mut facts = Facts::default();
        facts.config.environment.insert("PATH".to_owned(), format!("{PROGRAMS}:{path}"));
        Installation { script, files, tools, toolchain, facts, ..Installation::default() }.run(context, log)
    }
}

impl Recipe for SyncPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        installer::with_compilers(false, context, log, |toolchain, log| self.install(context, toolchain, log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_frozen_only_where_there_is_one() {
        let step = UvSync {
            project: "/x".to_owned(),
            groups: vec!["test".to_owned()],
            extras: vec!["more".to_owned()],
            frozen: true,
            extra_options: "--no-dev".to_owned(),
            uv_version: None,
        };
        let mut plan = SyncPlan { step, pyproject: String::new(), lock: Some(String::new()) };
        insta::assert_snapshot!(plan.arguments(), @"sync --project=/.uv --no-install-workspace --compile-bytecode '--group=test' '--extra=more' --frozen --no-dev");
        plan.lock = None;
        assert!(!plan.arguments().contains("--frozen"));
    }
}
