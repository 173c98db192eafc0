//! `micromamba` and `micromamba_install`: packages of conda channels, in one environment.
//!
//! They are solved here and linked straight into the step's upper, which makes one layer. What only works inside (scripts of
//! packages, bytecode, removing what was there before) is done in a sandbox over it and makes another. Scripts that are to be
//! run before packages are linked are, and what they change is a layer beneath.

use std::collections::BTreeMap;
use std::path::Path;

use lamina_bases::debian_slim_plan;
use lamina_conda::{
    AFTER, BEFORE, CondaError, Finishing, Installing, PREFIX, PROGRAM, Prepared, Preparing, Report, Request,
    Resolution, Script, Settings, SpecFile, VirtualSystem,
};
use lamina_ground::{DEFAULT_PATH, Stack};
use lamina_image::{DebianSlim, Digest, Facts, KeyMaterial, Micromamba, MicromambaInstall, Node, Release, Step};
use lamina_sandbox::Exit;
use lamina_store::{CommitRules, Committed, Lock, Work};

use super::commands::Run;
use super::project::read;
use super::{Kind, LayerKind, Made, MetadataKind, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::log::StepLog;
use crate::secrets::refuse_kept;
use crate::state::State;

/// Names the environment's prefix in images that have one.
const ROOT: &str = "MAMBA_ROOT_PREFIX";
/// What is done inside.
const INSIDE: &str = include_str!("conda.sh");

impl Kind for Micromamba {
    /// Debian, and packages in an environment on it.
    fn lower(&self, node: &Node) -> Result<Vec<Node>, BuildError> {
        let version = self.python_version.as_deref().unwrap_or(&self.local_python);
        // The versions that other bases have.
        debian_slim_plan(self.python_version.as_deref(), &self.local_python, None).map_err(BuildError::invalid)?;
        let release = self.release.unwrap_or(Release::Bookworm);
        let own = match release {
            Release::Bookworm => "3.11",
            Release::Trixie => "3.13",
        };
        let debian = Node {
            id: format!("{}.debian", node.id),
            title: format!("debian_slim(python_version=\"{own}\")"),
            step: Step::DebianSlim(DebianSlim {
                python_version: Some(own.to_owned()),
                local_python: own.to_owned(),
                release: Some(release),
            }),
            force_build: false,
            ..node.clone()
        };
        let environment = Node {
            inputs: vec![debian.id.clone()],
            step: Step::MicromambaInstall(MicromambaInstall {
                packages: vec![format!("python={version}"), "pip".to_owned()],
                spec_file: None,
                channels: Vec::new(),
                creates: true,
            }),
            ..node.clone()
        };
        Ok(vec![debian, environment])
    }
}

impl MetadataKind for Micromamba {
    /// Only the steps that it stands for are planned.
    fn apply(&self, _node: &Node, _state: &mut State) -> Result<(), BuildError> {
        Ok(())
    }
}

/// The text of the file of a step.
fn file(step: &MicromambaInstall) -> Result<Option<SpecFile>, BuildError> {
    let Some(path) = step.spec_file.as_deref().map(Path::new) else { return Ok(None) };
    let missing = || BuildError::FileNotFound(format!("spec file `{}` does not exist", path.display()));
    let text = read(path)?.ok_or_else(missing)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(Some(SpecFile { name, text }))
}

impl Kind for MicromambaInstall {
    fn check(&self) -> Result<(), BuildError> {
        file(self).map(drop)
    }
}

impl LayerKind for MicromambaInstall {
    /// The order counts, as on the command line. What the channels have today is no part of the key, nor is where this
    /// machine reads them.
    fn plan(&self, _planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        let file = file(self)?;
        material.add("kind", "micromamba_install");
        material.add("packages", self.packages.clone());
        material.add("channels", self.channels.clone());
        if let Some(file) = &file {
            material.add("spec_file", file.text.clone());
        }
        if self.creates {
            material.add("creates", true);
            material.add("optional", PROGRAM);
        }
        Ok(Box::new(CondaPlan { step: self.clone(), file }))
    }
}

struct CondaPlan {
    step: MicromambaInstall,
    file: Option<SpecFile>,
}

impl Recipe for CondaPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let has_environment =
            context.parent.config.environment.get(ROOT).is_some_and(|root| root.trim_end_matches('/') == PREFIX);
        if !self.step.creates && !has_environment {
            return Err(StepError::Failed {
                message: "the image has no environment of conda packages".to_owned(),
                hint: Some("start from `modal.Image.micromamba()`".to_owned()),
            });
        }
        self.install(context, log)
    }
}

impl CondaPlan {
    fn install(&self, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let store = context.workshop.store;
        let views = store.view_paths(&context.parent.layers);
        let environment = lamina_conda::installed(store, &views).map_err(conda_error)?;
        let resolution = self.resolve(&environment, context, log).map_err(conda_error)?;
        let mut facts = Facts::default();
        facts.config.environment = variables(&context.parent.config.environment);
        facts.config.environment.extend(resolution.variables.clone());
        let work = store.new_work()?;
        let held = store.hold_off_collection()?;
        let installation =
            lamina_conda::Installation { work: &work, layers: &views, environment: &environment, prepared: None };
        let workshop = &context.workshop;
        match lamina_conda::install(&resolution, &installation, workshop).map_err(conda_error)? {
            Installing::Done(report) => {
                Linked { work, held, report, below: Stack::new() }.finish(&resolution, facts, context, log)
            }
            Installing::Unprepared(preparing, lines) => {
                for line in &lines {
                    log.line(line);
                }
                drop(held);
                let (below, prepared, held) = prepare(&preparing, &facts, context, log)?;
                let mut layers = context.parent.layers.clone();
                layers.put(below.digest);
                let views = store.view_paths(&layers);
                let prepared = Some(prepared);
                let installation = lamina_conda::Installation { layers: &views, prepared, ..installation };
                let Installing::Done(report) =
                    lamina_conda::install(&resolution, &installation, workshop).map_err(conda_error)?
                else {
                    let message = "the packages were prepared, and are to be prepared again".to_owned();
                    return Err(StepError::Failed { message, hint: None });
                };
                let tools = Stack::from_bottom_up([below.digest]);
                let above = Linked { work, held, report, below: tools }.finish(&resolution, facts, context, log)?;
                Ok(Made::Over { below, above: Box::new(above) })
            }
        }
    }

    fn resolve(
        &self,
        environment: &lamina_conda::Environment,
        context: &StepContext<'_>,
        log: &mut StepLog,
    ) -> Result<Resolution, CondaError> {
        let request = Request {
            packages: self.step.packages.clone(),
            optional: if self.step.creates { vec![PROGRAM.to_owned()] } else { Vec::new() },
            file: self.file.clone(),
            channels: self.step.channels.clone(),
            refresh: context.node.force_build,
        };
        let mut variables: BTreeMap<String, String> = context.parent.config.environment.clone().into_iter().collect();
        variables.extend(context.node.variables().map(|(name, value)| (name.to_owned(), value.to_owned())));
        let cuda = lamina_devices::cuda_version().filter(|_| !context.node.gpu.is_empty());
        let system = context.parent.facts.system.as_ref();
        let system = VirtualSystem { system, cuda, variables: &variables };
        let settings = Settings::of_host()?;
        let mut say = |line: &str| log.line(line);
        lamina_conda::resolve(&request, environment, &system, &settings, &context.workshop, &mut say)
    }
}

/// The variables of an image whose environment is active.
fn variables(before: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let programs = format!("{PREFIX}/bin");
    let path = before.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let is_first = path.split(':').next() == Some(programs.as_str());
    let path = if is_first { path.to_owned() } else { format!("{programs}:{path}") };
    let variables = [
        (ROOT, PREFIX),
        ("CONDA_DEFAULT_ENV", "base"),
        ("CONDA_PREFIX", PREFIX),
        ("CONDA_PROMPT_MODIFIER", "(base) "),
        ("CONDA_SHLVL", "1"),
        ("PATH", &path),
    ];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Does what is to be done inside before packages are linked. Answers the layer of what that has changed, what has become of
/// the packages, and what keeps that.
fn prepare(
    preparing: &Preparing,
    facts: &Facts,
    context: &StepContext<'_>,
    log: &mut StepLog,
) -> Result<(Committed, Prepared, Lock), StepError> {
    let store = context.workshop.store;
    let sources = store.new_work()?;
    let held = store.hold_off_collection()?;
    preparing.unpack(&sources, &store.view_paths(&context.parent.layers), store).map_err(conda_error)?;
    let sources = store.commit_until(&sources, CommitRules::default(), context.workshop.cancel)?.digest;
    drop(held);
    let work = store.new_work()?;
    let lists = [
        ("conda-pre-unlink", scripts(&preparing.unlink)),
        ("conda-remove", list(&preparing.remove, '\0')),
        ("conda-pre-link", scripts(&preparing.link)),
    ];
    let exit = run_inside(&lists, &[], facts, Stack::from_bottom_up([sources]), &work, context, log)?;
    // Also of what is taken next.
    refuse_kept(&work, &context.node.secrets, store)?;
    let held = store.hold_off_collection()?;
    let prepared = preparing.take(&work, store.view_path(&sources), store).map_err(conda_error)?;
    let rules = CommitRules { package_times: true, drop_empty: exit.created_mountpoints, ..CommitRules::default() };
    let below = store.commit_until(&work, rules, context.workshop.cancel)?;
    Ok((below, prepared, held))
}

/// Packages in a step's upper.
struct Linked {
    work: Work,
    /// What keeps their objects.
    held: Lock,
    report: Report,
    /// The layer that was prepared for them.
    below: Stack<Digest>,
}

impl Linked {
    /// Makes the layer of the packages, and one over it where something is to be done inside.
    fn finish(
        self,
        resolution: &Resolution,
        facts: Facts,
        context: &StepContext<'_>,
        log: &mut StepLog,
    ) -> Result<Made, StepError> {
        let Self { work, held, report, below: mut tools } = self;
        report.lines.iter().for_each(|line| log.line(line));
        let facts = Facts { packages: report.packages, ..facts };
        let rules = CommitRules { package_times: true, ..CommitRules::default() };
        if report.finishing.is_nothing() && resolution.pip.is_empty() {
            return Ok(Made::Work { work, rules, facts: Box::new(facts), held: Some(held) });
        }
        let below = context.workshop.store.commit_until(&work, rules, context.workshop.cancel)?;
        drop(held);
        tools.put(below.digest);
        let above = finish(&report.finishing, resolution, tools, facts, context, log)?;
        Ok(Made::Over { below, above: Box::new(above) })
    }
}

/// Does what is to be done inside, over the layer with the packages.
fn finish(
    finishing: &Finishing,
    resolution: &Resolution,
    tools: Stack<Digest>,
    mut facts: Facts,
    context: &StepContext<'_>,
    log: &mut StepLog,
) -> Result<Made, StepError> {
    let store = context.workshop.store;
    let work = store.new_work()?;
    let mut environment = vec![("PIP_NO_CACHE_DIR", "1"), ("PIP_ROOT_USER_ACTION", "ignore")];
    if resolution.is_locked {
        environment.push(("PIP_NO_DEPS", "1"));
    }
    let exit = run_inside(&lists(finishing, resolution), &environment, &facts, tools, &work, context, log)?;
    if finishing.activates {
        let mut set = lamina_conda::activated(store, &work).map_err(conda_error)?;
        // Variables of the image are no place for what only the step may know.
        let secrets: Vec<&String> = context.node.secrets.iter().flat_map(|secret| secret.values.values()).collect();
        set.retain(|_, value| !secrets.iter().any(|secret| !secret.is_empty() && value.contains(secret.as_str())));
        facts.config.environment.extend(set);
    }
    let rules = CommitRules { package_times: true, drop_empty: exit.created_mountpoints, ..CommitRules::default() };
    Ok(Made::Work { work, rules, facts: Box::new(facts), held: None })
}

/// Runs the script with these lists of what is to be done, in the active environment.
fn run_inside(
    lists: &[(&str, Vec<u8>)],
    environment: &[(&str, &str)],
    facts: &Facts,
    tools: Stack<Digest>,
    work: &Work,
    context: &StepContext<'_>,
    log: &mut StepLog,
) -> Result<Exit, StepError> {
    let active = &facts.config.environment;
    let fixed: Vec<(&str, &str)> = active.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let files: Vec<(String, Vec<u8>)> = lists.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect();
    let run = Run {
        script: Some(INSIDE),
        commands: &[BEFORE.to_owned(), AFTER.to_owned()],
        environment,
        fixed: &fixed,
        files: &files,
        tools,
        ..Run::default()
    };
    run.execute(context, work, log)
}

/// Scripts, one in a line.
fn scripts(scripts: &[Script]) -> Vec<u8> {
    let line = |script: &Script| {
        let Script { path, name, version, build_number } = script;
        format!("{path}\t{name}\t{version}\t{build_number}")
    };
    list(scripts.iter().map(line), '\n')
}

/// What is to be done, in the files that the script reads.
fn lists(finishing: &Finishing, resolution: &Resolution) -> Vec<(&'static str, Vec<u8>)> {
    // A name with a line end in it would be two.
    let sources = finishing.sources.iter().filter(|path| !path.contains('\n'));
    let mut lists = vec![
        ("conda-remove", list(&finishing.remove, '\0')),
        ("conda-sources", list(sources, '\n')),
        ("conda-post-link", scripts(&finishing.scripts)),
        ("conda-requirements.txt", list(&resolution.pip, '\n')),
    ];
    if finishing.is_new {
        lists.push(("conda-is-new", Vec::new()));
    }
    if finishing.activates {
        lists.push(("conda-activates", Vec::new()));
    }
    lists
}

/// Items that end in a character each.
fn list(items: impl IntoIterator<Item = impl AsRef<str>>, end: char) -> Vec<u8> {
    let add = |mut text: String, item: &str| {
        text.push_str(item);
        text.push(end);
        text
    };
    items.into_iter().fold(String::new(), |text, item| add(text, item.as_ref())).into_bytes()
}

fn conda_error(error: CondaError) -> StepError {
    match error {
        CondaError::Cancelled(_) => StepError::Other(BuildError::Cancelled),
        error => StepError::of(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_active_once() {
        let first = variables(&[("PATH".to_owned(), "/usr/bin".to_owned())].into());
        assert_eq!(first["PATH"], "/opt/conda/bin:/usr/bin");
        assert_eq!(variables(&first), first);
    }
}
