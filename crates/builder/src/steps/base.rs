//! `debian_slim`.

use lamina_bases::{BaseError, DebianPlan, debian_slim_plan, dpkg};
use lamina_ground::causes;
use lamina_image::KeyMaterial;

use super::{Made, StepContext, StepError};
use crate::BuildError;
use crate::log::StepLog;

pub(crate) struct BasePlan {
    debian: DebianPlan,
}

/// The base is chosen by Python version alone. Which packages the mirror has today is no part of the key: a base is
/// used until it is forced.
pub(crate) fn plan(python: Option<&str>, local: &str, material: &mut KeyMaterial) -> Result<BasePlan, BuildError> {
    let debian =
        debian_slim_plan(python, local).map_err(|error| BuildError::Invalid { message: causes(&error), hint: None })?;
    material.add("kind", "debian_slim");
    material.add("suite", debian.suite.name());
    material.add("python", serde_json::to_value(&debian.python).unwrap_or_default());
    material.add("series", debian.series.as_str());
    Ok(BasePlan { debian })
}

impl BasePlan {
    pub(crate) fn execute(self, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let tools = context.tools;
        let report = |progress: lamina_bases::BaseProgress| {
            context.progress(progress.what, progress.done, progress.total);
        };
        let bases = lamina_bases::Tools {
            store: &tools.store,
            launcher: &tools.launcher,
            fetch: &tools.fetch,
            id_map: &tools.id_map,
            uv: tools.programs.uv.as_deref(),
            report: &report,
            cancel: context.cancel,
        };
        let outcome = lamina_bases::bootstrap(&self.debian, &bases, log);
        let (work, facts) = outcome.map_err(base_error)?;
        Ok(Made::Work { work, rules: dpkg::commit_rules(Vec::new()), facts: Box::new(facts), held: None })
    }
}

fn base_error(error: BaseError) -> StepError {
    match error {
        BaseError::Cancelled(_) => StepError::Other(BuildError::Cancelled),
        BaseError::Store(error) => StepError::from(error),
        error => StepError::of(&error),
    }
}
