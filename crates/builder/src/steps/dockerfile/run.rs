//! `RUN`.

use std::collections::{BTreeMap, BTreeSet};

use lamina_dockerfile::{Bind, Cache, Command, RunMount, Secret, Sharing};
use lamina_ground::Stack;
use lamina_image::{Digest, DockerfileRun, DockerfileStep, KeyMaterial};
use lamina_sandbox::{InjectedFile, Mount, Network};
use lamina_store::{CommitRules, Copy, Lock, Onto, Placed};
use serde_json::{Map, Value};

use super::{absolute, copy, expand_one, mistake};
use crate::BuildError;
use crate::host::DIRECTORY;
use crate::log::StepLog;
use crate::state::State;
use crate::steps::commands::{Run, toolchain};
use crate::steps::{Made, Planning, Recipe, StepContext, StepError};
use crate::toolchain::Need;

/// Most bytes of a directory in memory that says nothing about it.
const MEMORY: u64 = 1 << 30;
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
        make_absolute(&mut mount, state);
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

fn make_absolute(mount: &mut RunMount, state: &State) {
    let target = match mount {
        RunMount::Cache(cache) => &mut cache.target,
        RunMount::Bind(bind) => &mut bind.target,
        RunMount::Tmpfs(tmpfs) => &mut tmpfs.target,
        RunMount::Secret(secret) => match &mut secret.target {
            Some(target) => target,
            None => return,
        },
    };
    *target = absolute(target, state);
}

/// What the mounts of a command come to.
#[derive(Default)]
struct Prepared {
    mounts: Vec<Mount>,
    files: Vec<InjectedFile>,
    /// Layers over the image.
    over: Vec<Digest>,
    /// Links to files of secrets.
    links: Vec<(String, Placed)>,
    /// Variables with secrets.
    variables: Vec<(String, String)>,
    /// What is shown and cannot be changed: last, because other mounts may lie in it.
    read_only: Vec<Mount>,
    /// Directories of which nothing stays.
    discarded: Vec<String>,
}

impl Recipe for RunPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let store = context.workshop.store;
        let _locks = self.lock_caches(context)?;
        let mut prepared = self.prepare(context)?;
        prepared.mounts.append(&mut prepared.read_only);
        let program = self.program(context.parent, &mut prepared.files);
        if !prepared.links.is_empty() {
            prepared.over.push(store.placed_layer(&prepared.links, &context.parent.layers)?.digest);
        }
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
            injected: prepared.files,
            tools: Stack::from_bottom_up(prepared.over),
            toolchain,
            network: if isolated { Network::Isolated } else { Network::Host },
            ..Run::default()
        };
        let exit = run.execute(context, &work, log)?;
        let mut rules = CommitRules { drop_empty: exit.created_mountpoints, ..CommitRules::default() };
        rules.drop_empty.extend(prepared.discarded.iter().map(|path| format!("/{path}")));
        rules.exclude.below = prepared.discarded;
        rules.exclude.files = prepared.links.iter().map(|(path, _)| path.trim_start_matches('/').to_owned()).collect();
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

    fn prepare(&self, context: &StepContext<'_>) -> Result<Prepared, StepError> {
        let mut prepared = Prepared::default();
        let (mut contexts, mut others) = (self.contexts.iter(), context.others.iter());
        for mount in &self.mounts {
            match mount {
                RunMount::Cache(cache) => add_cache(cache, context, &mut prepared)?,
                RunMount::Secret(secret) => self.add_secret(secret, context, &mut prepared)?,
                RunMount::Tmpfs(tmpfs) => prepared.mounts.push(Mount::Tmpfs {
                    target: tmpfs.target.clone(),
                    mode: 0o1777,
                    limit_bytes: tmpfs.size.unwrap_or(MEMORY),
                }),
                RunMount::Bind(bind) => {
                    let from = match &bind.from {
                        Some(_) => others.next().map(|state| state.layers.clone()),
                        None => contexts.next().map(copy::ContextLayers::layers),
                    };
                    self.add_bind(bind, &from.unwrap_or_default(), context, &mut prepared)?;
                }
            }
        }
        Ok(prepared)
    }

    /// Keeps the caches that are not shared for this command. Each is taken once, and all in one order: no two commands wait for each
    /// other.
    fn lock_caches(&self, context: &StepContext<'_>) -> Result<Vec<Lock>, StepError> {
        let workshop = context.workshop;
        let names: BTreeSet<String> = self
            .mounts
            .iter()
            .filter_map(|mount| match mount {
                // One after the other is also right for those who want one each.
                RunMount::Cache(cache) if cache.sharing != Sharing::Shared => Some(cache_name(cache)),
                _ => None,
            })
            .collect();
        let lock = |name: String| workshop.store.lock(&format!("cache-{name}"), workshop.cancel, || ());
        names.into_iter().map(|name| Ok(lock(name)?)).collect()
    }

    /// Shows a part of another image: as a layer, because nothing of it may change.
    fn add_bind(
        &self,
        bind: &Bind,
        from: &Stack<Digest>,
        context: &StepContext<'_>,
        prepared: &mut Prepared,
    ) -> Result<(), StepError> {
        let copy = Copy {
            sources: std::slice::from_ref(&bind.source),
            target: bind.target.trim_end_matches('/'),
            owner: None,
            mode: None,
            parents: false,
            exclude: &[],
            onto: Onto::Hidden,
        };
        let layer = context.workshop.store.copy(&copy, from, &context.parent.layers);
        prepared.over.push(layer.map_err(|error| StepError::from(mistake(&self.step, error.to_string())))?.digest);
        prepared.discarded.push(bind.target.trim_matches('/').to_owned());
        if !bind.writable {
            prepared.read_only.push(Mount::ReadOnly { target: bind.target.clone() });
        }
        Ok(())
    }

    /// Gives a secret by the name of its variable.
    fn add_secret(&self, secret: &Secret, context: &StepContext<'_>, prepared: &mut Prepared) -> Result<(), StepError> {
        let value = context.node.variables().filter(|(name, _)| *name == secret.id).last();
        let Some((_, value)) = value else {
            if !secret.required {
                return Ok(());
            }
            let message = format!(
                "the secret `{}` is required and not given: pass `secrets=[modal.Secret.from_dict({{\"{}\": …}})]`",
                secret.id, secret.id
            );
            return Err(mistake(&self.step, message).into());
        };
        if let Some(variable) = &secret.variable {
            prepared.variables.push((variable.clone(), value.to_owned()));
        }
        if let Some(target) = &secret.target {
            let name = format!("secret-{}", prepared.links.len());
            // Files of `/dev/lamina` are root's: others can read those that are to be theirs.
            let mode = if secret.uid == 0 && secret.gid == 0 { secret.mode & 0o777 } else { 0o444 };
            prepared.links.push((target.clone(), Placed::Link(format!("{DIRECTORY}/{name}"))));
            prepared.files.push(InjectedFile { name, contents: value.as_bytes().to_vec(), mode });
        }
        Ok(())
    }
}

/// Whether a command is a here-document and nothing else.
fn is_document(text: &str) -> bool {
    text.starts_with("<<") && !text.contains(char::is_whitespace)
}

/// What the directory of a cache is called.
fn cache_name(cache: &Cache) -> String {
    format!("mount-{}", &Digest::of(cache.id.as_bytes()).hex()[..16])
}

/// Shows a directory that stays.
fn add_cache(cache: &Cache, context: &StepContext<'_>, prepared: &mut Prepared) -> Result<(), StepError> {
    let workshop = context.workshop;
    let name = cache_name(cache);
    let source = workshop.store.cache_directory(&name)?;
    let owner = super::cache::SetOwner { cache: name, mode: cache.mode, uid: cache.uid, gid: cache.gid };
    workshop.store.job(&owner, &[]).map_err(lamina_store::StoreError::from)?;
    prepared.mounts.push(Mount::Bind { source, target: cache.target.clone(), read_only: cache.read_only });
    Ok(())
}
