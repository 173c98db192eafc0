//! `WORKDIR`: a setting, and a layer with the directory.

use lamina_ground::Stack;
use lamina_image::{DockerfileStep, Facts, KeyMaterial, RuntimeConfig};

use lamina_store::Placed;

use super::{expand_one, ids};
use crate::BuildError;
use crate::log::StepLog;
use crate::steps::{Made, Planning, Recipe, StepContext, StepError};

struct WorkdirPlan {
    step: DockerfileStep,
    path: String,
}

pub(super) fn plan(
    step: &DockerfileStep,
    path: &str,
    planning: &Planning<'_>,
    material: &mut KeyMaterial,
) -> Result<Box<dyn Recipe>, BuildError> {
    // One that names nothing stays where it is, as with Docker: a variable in it is empty or not set.
    let path = expand_one(step, planning.parent, path)?;
    let mut config = planning.parent.config.clone();
    config.enter_directory(&path);
    let path = config.working_directory.unwrap_or(path);
    material.add("kind", "workdir");
    material.add_exact("path", path.as_str());
    Ok(Box::new(WorkdirPlan { step: step.clone(), path }))
}

impl Recipe for WorkdirPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, _log: &mut StepLog) -> Result<Made, StepError> {
        let user = context.parent.config.user.as_deref();
        let owner = user.map(|user| ids::ids(&self.step, user, context)).transpose()?.unwrap_or_default();
        let directory = [(self.path.clone(), Placed::Directory(owner.0, owner.1))];
        let top = context.workshop.store.placed_layer(&directory, &context.parent.layers)?;
        let config = RuntimeConfig { working_directory: Some(self.path), ..RuntimeConfig::default() };
        Ok(Made::Layers { below: Stack::new(), top, facts: Box::new(Facts { config, ..Facts::default() }) })
    }

    fn stays_pristine(&self, _node: &lamina_image::Node, before: bool) -> bool {
        before
    }
}
