//! `debian_slim`.

use lamina_bases::{BaseError, DebianPlan, Suite, debian_slim_plan, dpkg};
use lamina_image::{DebianSlim, KeyMaterial, Node, Release};

use super::{Kind, LayerKind, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::log::StepLog;

struct BasePlan {
    debian: DebianPlan,
}

impl Kind for DebianSlim {}

impl LayerKind for DebianSlim {
    /// The base is chosen by Python version, and the release if one is wanted. Which packages the mirror has today is no part of the key: a base is
    /// used until it is forced.
    fn plan(&self, _planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        let pinned = self.release.map(|release| match release {
            Release::Bookworm => Suite::Bookworm,
            Release::Trixie => Suite::Trixie,
        });
        let debian = debian_slim_plan(self.python_version.as_deref(), &self.local_python, pinned);
        let debian = debian.map_err(BuildError::invalid)?;
        material.add("kind", "debian_slim");
        material.add("suite", debian.suite.name());
        let python =
            serde_json::to_value(&debian.python).map_err(|error| BuildError::failed(std::io::Error::from(error)))?;
        material.add("python", python);
        material.add("series", debian.series.as_str());
        material.add("questions", "none");
        Ok(Box::new(BasePlan { debian }))
    }
}

impl Recipe for BasePlan {
    fn stays_pristine(&self, _node: &Node, _before: bool) -> bool {
        true
    }

    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let outcome = lamina_bases::bootstrap(&self.debian, &context.workshop, log);
        let (work, facts) = outcome.map_err(base_error)?;
        Ok(Made::Work { work, rules: dpkg::commit_rules(Vec::new()), facts: Box::new(facts), held: None })
    }
}

fn base_error(error: BaseError) -> StepError {
    match error {
        BaseError::Cancelled(_) => StepError::Other(BuildError::Cancelled),
        BaseError::Store(error) => StepError::from(error),
        error => StepError::of(error),
    }
}
