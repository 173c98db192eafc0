//! Dockerfiles: what they stand for, and what their instructions do.

mod add;
mod cache;
mod copy;
mod ids;
mod lower;
mod mounts;
mod run;
mod settings;
mod workdir;

use std::collections::BTreeMap;

use lamina_dockerfile::{WordError, Words};
use lamina_image::{Action, Dockerfile, DockerfileStep, KeyMaterial, Node};
use lamina_store::JobTable;

use super::{Kind, LayerKind, MetadataKind, Planning, Recipe};
use crate::BuildError;
use crate::error::Mistake;
use crate::state::State;

/// Adds the jobs of the store worker that instructions need.
pub(crate) fn jobs(table: JobTable) -> JobTable {
    table.register::<add::Unpack>().register::<cache::Prepare>().register::<ids::FindIds>()
}

impl Kind for Dockerfile {
    fn lower(&self, node: &Node) -> Result<Vec<Node>, BuildError> {
        lower::lower(self, node)
    }
}

impl MetadataKind for Dockerfile {
    /// It is lowered before anything is planned.
    fn apply(&self, _node: &Node, _state: &mut State) -> Result<(), BuildError> {
        Ok(())
    }
}

impl Kind for DockerfileStep {}

impl MetadataKind for DockerfileStep {
    fn apply(&self, node: &Node, state: &mut State) -> Result<(), BuildError> {
        state.title.clone_from(&node.title);
        settings::apply(self, state)
    }
}

impl LayerKind for DockerfileStep {
    fn plan(&self, planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        match &self.action {
            Action::Run(run) => run::plan(self, run, planning, material),
            Action::Copy(copy) => copy::plan(self, copy, planning, material),
            Action::Workdir(path) => workdir::plan(self, path, planning, material),
            // The others make no layers.
            _ => Err(mistake(self, "it makes no layer")),
        }
    }
}

/// What is wrong with an instruction.
fn mistake(step: &DockerfileStep, message: impl Into<String>) -> BuildError {
    BuildError::invalid(Mistake::Dockerfile { place: step.place.clone(), message: message.into() })
}

/// The values of variables where an instruction stands: an `ARG` hides what the image has, until an `ENV` of its name.
fn variables(state: &State) -> BTreeMap<String, String> {
    let mut variables = state.config.environment.clone();
    variables.extend(state.stage.arguments.clone());
    variables
}

/// The words of an instruction, expanded.
fn expand(
    step: &DockerfileStep,
    state: &State,
    expand: impl FnOnce(&Words<'_>) -> Result<Vec<String>, WordError>,
) -> Result<Vec<String>, BuildError> {
    let variables = variables(state);
    expand(&Words { variables: &variables, escape: step.escape }).map_err(|error| mistake(step, error.to_string()))
}

/// One word of an instruction, expanded.
fn expand_one(step: &DockerfileStep, state: &State, word: &str) -> Result<String, BuildError> {
    Ok(expand(step, state, |words| Ok(vec![words.expand(word)?]))?.concat())
}

/// Several words, each of which stays one.
fn expand_each(step: &DockerfileStep, state: &State, words: &[String]) -> Result<Vec<String>, BuildError> {
    expand(step, state, |expander| words.iter().map(|word| expander.expand(word)).collect())
}

/// A path below the working directory, whose slash at the end counts.
fn absolute(path: &str, state: &State) -> String {
    let directory = state.config.working_directory.as_deref().unwrap_or("/");
    if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", directory.trim_end_matches('/')) }
}
