//! `RUN`.

use std::collections::BTreeMap;

use lamina_dockerfile::{Bind, Command, RunMount};
use lamina_ground::Stack;
use lamina_image::{DockerfileRun, DockerfileStep, KeyMaterial};
use lamina_sandbox::{InjectedFile, Network};
use lamina_store::CommitRules;
use serde_json::{Map, Value};

use super::mounts::Mounted;
use super::{absolute, copy, expand_one, mistake};
use crate::BuildError;
use crate::host::DIRECTORY;
use crate::log::StepLog;
use crate::state::State;
use crate::steps::commands::{Run, toolchain};
use crate::steps::{Made, Planning, Recipe, StepContext, StepError};
use crate::toolchain::Need;

/// The name of a script under `/dev/lamina`.
const SCRIPT: &str = "heredoc";

struct RunPlan {
    step: DockerfileStep,
    run: DockerfileRun,
    mounts: Vec<RunMount>,
    /// What mounts show of the local directory, in their order.
    contexts: Vec<copy::ContextLayers>,
    /// Values of `ARG`.
    arguments: BTreeMap<String, String>,
}

pub(super) fn plan(
    step: &DockerfileStep,
    run: &DockerfileRun,
    planning: &Planning<'_>,
    material: &mut KeyMaterial,
) -> Result<Box<dyn Recipe>, BuildError> {
    let state = planning.parent;
    let mut mounts = Vec::new();
    for mount in &run.mounts {
        let expanded = expand_one(step, state, &quoted(mount))?;
        let mut mount = RunMount::parse(&expanded).map_err(|error| mistake(step, error.to_string()))?;
        if let Some(target) = target(&mut mount) {
            *target = absolute(target, state);
            if target.split('/').all(|part| matches!(part, "" | ".")) {
                return Err(mistake(step, "nothing is mounted over `/`: name a directory as `target=`"));
            }
        }
        mounts.push(mount);
    }
    if let Some(network) = run.network.as_deref().filter(|network| !["default", "host", "none"].contains(network)) {
        return Err(mistake(step, format!("`--network={network}` is none of `default`, `host` and `none`")));
    }
    material.add("kind", "run");
    let command = serde_json::to_value((&run.command, &run.documents));
    material.add_exact("command", command.map_err(|error| BuildError::failed(std::io::Error::from(error)))?);
    let arguments = state.stage.arguments.clone();
    if !arguments.is_empty() {
        let values = arguments.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        material.add_exact("arguments", values.collect::<Map<_, _>>());
        // Once the image's variables won.
        if arguments.keys().any(|name| state.config.environment.contains_key(name)) {
            material.add("order", "arguments");
        }
    }
    if !run.mounts.is_empty() {
        material.add("mounts", run.mounts.clone());
    }
    if run.network.as_deref() == Some("none") {
        material.add("network", "none");
    }
    let mut contexts = Vec::new();
    for mount in &mounts {
        if let RunMount::Bind(Bind { from: None, source, .. }) = mount {
            contexts.push(copy::context_layer(step, run.context.as_ref(), std::slice::from_ref(source), planning)?);
        }
    }
    if !contexts.is_empty() {
        material.add("files", contexts.iter().map(copy::ContextLayers::content).collect::<Vec<_>>());
    }
    Ok(Box::new(RunPlan { step: step.clone(), run: run.clone(), mounts, contexts, arguments }))
}

/// The text of a mount, of which quotes stay what they are: only variables are replaced.
fn quoted(mount: &str) -> String {
    mount.replace('"', "\\\"").replace('\'', "\\'")
}

/// Where a mount is, if it is anywhere.
fn target(mount: &mut RunMount) -> Option<&mut String> {
    match mount {
        RunMount::Cache(cache) => Some(&mut cache.target),
        RunMount::Bind(bind) => Some(&mut bind.target),
        RunMount::Tmpfs(tmpfs) => Some(&mut tmpfs.target),
        RunMount::Secret(secret) => secret.target.as_mut(),
    }
}

impl Recipe for RunPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let store = context.workshop.store;
        let mounted = Mounted { step: &self.step, mounts: &self.mounts, contexts: &self.contexts, context };
        let _locks = mounted.lock_caches()?;
        let prepared = mounted.prepare()?;
        let mut files = Vec::new();
        let program = self.program(context.parent, &mut files);
        let mut environment: Vec<(&str, &str)> =
            self.run.proxies.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let given = self.arguments.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let secrets = prepared.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        environment.extend(given.chain(secrets));
        let toolchain = toolchain(Need::of(&self.words()), context, log)?;
        let work = store.new_work()?;
        let isolated = self.run.network.as_deref() == Some("none");
        let run = Run {
            program: Some(program),
            user: context.parent.config.user.clone(),
            over_image: &environment,
            mounts: prepared.mounts,
            injected: files,
            tools: Stack::from_bottom_up(prepared.over),
            toolchain,
            network: if isolated { Network::Isolated } else { Network::Host },
            ..Run::default()
        };
        let exit = run.execute(context, &work, log)?;
        let mut rules = CommitRules { drop_empty: exit.created_mountpoints, ..CommitRules::default() };
        rules.drop_empty.extend(prepared.discarded.iter().map(|path| format!("/{path}")));
        rules.exclude.below = prepared.discarded;
        Ok(Made::Work { work, rules, facts: Box::default(), held: None })
    }
}

impl RunPlan {
    /// All that it says, whatever its form.
    fn words(&self) -> String {
        let text = match &self.run.command {
            Command::Exec(words) => words.join(" "),
            Command::Shell(text) => text.clone(),
        };
        let documents = self.run.documents.iter().map(|document| &*document.content);
        std::iter::once(&*text).chain(documents).collect::<Vec<_>>().join("\n")
    }

    /// What is executed.
    fn program(&self, state: &State, files: &mut Vec<InjectedFile>) -> Vec<String> {
        let text = match &self.run.command {
            Command::Exec(words) => return words.clone(),
            Command::Shell(text) => text,
        };
        let mut shell = state.config.shell.clone().unwrap_or_else(|| ["/bin/sh", "-c"].map(str::to_owned).to_vec());
        let documents = &self.run.documents;
        let script = match &documents[..] {
            // The document is the command.
            [document] if is_document(text) => {
                if let Some(first) = document.content.strip_prefix("#!") {
                    let line = first.lines().next().unwrap_or_default().trim();
                    let (program, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
                    let contents = document.content.clone().into_bytes();
                    files.push(InjectedFile { name: SCRIPT.to_owned(), contents, mode: 0o555 });
                    let argument = Some(argument.trim().to_owned()).filter(|argument| !argument.is_empty());
                    let path = format!("{DIRECTORY}/{SCRIPT}");
                    return std::iter::once(program.to_owned()).chain(argument).chain([path]).collect();
                }
                document.content.clone()
            }
            documents => {
                let mut script = text.clone();
                for document in documents {
                    script.push('\n');
                    script.push_str(&document.content);
                    script.push_str(&document.name);
                }
                script
            }
        };
        shell.push(script);
        shell
    }
}

/// Whether a command is a here-document and nothing else.
fn is_document(text: &str) -> bool {
    text.starts_with("<<") && !text.contains(char::is_whitespace)
}
