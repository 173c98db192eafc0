//! Planning: the key of a step, and whether its layers are there. It changes nothing and reports nothing.

use std::sync::Arc;

use lamina_events::Miss;
use lamina_image::{Facts, KeyMaterial, LayerKey, Node, NodeId};
use lamina_registry::Reference;
use lamina_store::LayerRecord;
use serde_json::{Map, Value};

use crate::backend::Backend;
use crate::state::State;
use crate::steps::{LayerKind, LocalFiles, Planning, Recipe};
use crate::{BuildError, secrets};

/// Records that a step which is not cached is compared with, to say why it is not.
const COMPARED_RECORDS: u32 = 20;

/// What a build would do for one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    /// The node of the definition.
    pub node: NodeId,
    /// The method call as the user wrote it.
    pub title: String,
    /// The key of the step's layers, if it makes layers and its inputs are known.
    pub key: Option<LayerKey>,
    /// What would be done.
    pub outlook: Outlook,
}

/// What a build would do for a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// Nothing: its layers are there.
    Hit,
    /// Execute it.
    Miss(Miss),
    /// That depends on the result of this node, which it uses and which has to be made.
    Unknown(NodeId),
    /// Nothing: it makes no layer.
    Metadata,
}

/// A step whose key is known.
pub(crate) struct Planned {
    pub(crate) material: KeyMaterial,
    /// How its layers are made.
    pub(crate) recipe: Box<dyn Recipe>,
    /// Whether the image holds signed packages of its base's archive only, after the step.
    pub(crate) pristine: bool,
    pub(crate) found: Found,
}

impl Planned {
    /// Whether what the step makes may hold something of secrets, of a volume or of what this machine alone has: files of a local
    /// directory, an image of its own, one of its own registry.
    pub(crate) fn is_private(&self, node: &Node) -> bool {
        let part = |name: &str| self.material.part(name).and_then(Value::as_str).unwrap_or_default();
        let is_own_image = match part("kind") {
            "local_image" => true,
            "from_registry" => part("reference").parse().is_ok_and(|reference: Reference| reference.is_local()),
            _ => false,
        };
        let has = |name: &str| self.material.part(name).is_some();
        !node.secrets.is_empty() || is_own_image || ["files", "volumes"].iter().any(|name| has(name))
    }
}

/// Whether the layers of a step are there.
pub(crate) enum Found {
    Hit(Box<(LayerRecord, Facts)>),
    Miss(Miss),
}

/// Computes a step's key and looks for its layers.
pub(crate) fn plan(
    kind: &dyn LayerKind,
    node: &Node,
    inputs: &[Arc<State>],
    forced: bool,
    backend: &dyn Backend,
) -> Result<Planned, BuildError> {
    let (material, recipe) = describe(kind, node, inputs, backend)?;
    let pristine = recipe.stays_pristine(node, inputs.first().is_some_and(|input| input.pristine));
    let found = match find(&material.key(), forced, backend)? {
        Some(hit) => Found::Hit(Box::new(hit)),
        None => Found::Miss(miss(node, &material, forced, backend)?),
    };
    Ok(Planned { material, recipe, pristine, found })
}

/// Everything that can influence a step's result, and how it is made.
pub(crate) fn describe(
    kind: &dyn LayerKind,
    node: &Node,
    inputs: &[Arc<State>],
    local: &dyn LocalFiles,
) -> Result<(KeyMaterial, Box<dyn Recipe>), BuildError> {
    let mut material = KeyMaterial::new(std::env::consts::ARCH);
    let nothing = State::default();
    let parent = inputs.first().map_or(&nothing, Arc::as_ref);
    material.add("parent", parent.content().hex());
    if let Some(others) = inputs.get(1..).filter(|others| !others.is_empty()) {
        material.add("inputs", others.iter().map(|input| input.content().hex()).collect::<Vec<_>>());
    }
    let config = serde_json::to_value(parent.config.of_steps())
        .map_err(|error| BuildError::failed(std::io::Error::from(error)))?;
    material.add_exact("config", config);
    material.add("secrets", secrets::names(&node.secrets));
    if !node.environment.is_empty() {
        let variables = node.environment.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        material.add_exact("environment", variables.collect::<Map<_, _>>());
    }
    if !node.gpu.is_empty() {
        material.add_exact("gpu", node.gpu.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    let recipe = kind.plan(&Planning { parent, local }, &mut material);
    let recipe = recipe.map_err(|error| match &node.place {
        Some(place) => error.on_line(place),
        None => error,
    })?;
    Ok((material, recipe))
}

/// The recorded layers, unless what is recorded about the image cannot be read: then they are made anew.
pub(crate) fn find(
    key: &LayerKey,
    forced: bool,
    backend: &dyn Backend,
) -> Result<Option<(LayerRecord, Facts)>, BuildError> {
    if forced {
        return Ok(None);
    }
    Ok(backend
        .find(key)?
        .and_then(|record| Some((record.facts.read()?, record)))
        .map(|(facts, record)| (record, facts)))
}

/// Why the cache does not have a step.
fn miss(node: &Node, material: &KeyMaterial, forced: bool, backend: &dyn Backend) -> Result<Miss, BuildError> {
    let kind = material.part("kind").and_then(Value::as_str).unwrap_or_default();
    if forced {
        return Ok(match kind {
            // Its layers are only made where the store lacks them.
            "from_registry" | "local_image" if backend.find(&material.key())?.is_some() => Miss::CheckedAgain,
            "from_registry" | "local_image" => Miss::New,
            _ => Miss::Forced,
        });
    }
    let recent = backend.recent(kind, COMPARED_RECORDS)?;
    Ok(former(&recent, &node.title, material).map_or(Miss::New, |former| {
        match material.differences(&former.material) {
            parts if parts.is_empty() => Miss::Lost,
            parts => Miss::Changed { parts },
        }
    }))
}

/// The record that a step most likely is a new version of: the same call, or a call on the same parent that has something
/// in common with it.
fn former<'a>(recent: &'a [LayerRecord], title: &str, material: &KeyMaterial) -> Option<&'a LayerRecord> {
    let related = |record: &&LayerRecord| {
        let shares = |name: &str| match (record.material.get(name), material.part(name)) {
            (Some(Value::Array(theirs)), Some(Value::Array(ours))) => theirs.iter().any(|one| ours.contains(one)),
            _ => false,
        };
        record.material.get("parent") == material.part("parent") && (shares("packages") || shares("commands"))
    };
    recent.iter().find(|record| record.title == title).or_else(|| recent.iter().find(related))
}

#[cfg(test)]
mod tests;
