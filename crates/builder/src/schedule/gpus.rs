//! GPUs of steps, looked for before anything is made.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lamina_devices::DevicesError;
use lamina_ground::{Hint, causes};
use lamina_image::NodeId;

use super::Builder;
use crate::BuildError;
use crate::plan::{Outlook, PlannedStep};

impl Builder<'_> {
    /// Refuses to build if a step that may have to be executed asks for GPUs that this machine lacks; names all such steps.
    /// What is cached needs none.
    pub(super) fn check_gpus(&self, targets: &[&str]) -> Result<(), BuildError> {
        let mut lacking: BTreeMap<NodeId, DevicesError> = BTreeMap::new();
        for node in (0..self.graph.len()).map(|place| self.graph.step(place).0).filter(|node| !node.gpu.is_empty()) {
            if let Err(error) = self.backend.check_gpus(&node.gpu) {
                lacking.insert(node.id.clone(), error);
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        let needed = self.plan(targets)?;
        let refused = needed.iter().filter(|step| matches!(step.outlook, Outlook::Miss(_) | Outlook::Unknown(_)));
        let refused: Vec<_> = refused.filter_map(|step| Some((step, lacking.get(&step.node)?))).collect();
        refusal(&refused).map_or(Ok(()), Err)
    }
}

/// One error for all steps; its kind and its advice are those of the first.
fn refusal(steps: &[(&PlannedStep, &DevicesError)]) -> Option<BuildError> {
    let (_, first) = steps.first()?;
    let of_step = |(step, error): &(&PlannedStep, &DevicesError)| format!("`{}`: {}", step.title, causes(*error));
    let message = if let [step] = steps {
        of_step(step)
    } else {
        let lines: Vec<String> = steps.iter().map(|step| format!("\n  {}", of_step(step))).collect();
        format!("{} steps ask for GPUs that this machine does not have:{}", steps.len(), lines.concat())
    };
    Some(BuildError::Refused { class: first.class(), message, hint: first.hint().map(Cow::into_owned) })
}
