//! `uv_sync`.

use std::fmt::Write as _;
use std::path::{Component, Path};

use lamina_bases::quote;
use lamina_ground::DEFAULT_PATH;
use lamina_image::{Digest, Facts, KeyMaterial, UvSync};
use lamina_wheels::{Installer, LockedProject, Resolution, WheelError};

use super::installer::{self, Installation};
use super::project::{ProjectFile, UvProject, add_compiling};
use super::python::{self, Place};
use super::{Kind, LayerKind, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::log::StepLog;

/// Where the project's files are inside.
const PROJECT: &str = "/.uv";
/// The environment that is made there.
const ENVIRONMENT: &str = "/.uv/.venv";
/// Variables that lead `uv` to another Python than the PATH does.
const OTHER_PYTHONS: [&str; 3] = ["CONDA_DEFAULT_ENV", "CONDA_PREFIX", "VIRTUAL_ENV"];

struct SyncPlan {
    step: UvSync,
    pyproject: String,
    lock: Option<String>,
    /// Whether the lock has something that can only be built.
    builds: bool,
    /// A setting of the project's with which more counts than its lock.
    unusual_setting: Option<String>,
    /// The Pythons that the project is for.
    requires_python: Option<String>,
    /// Packages that the project has beside it, each with its path if it names one.
    local_sources: Vec<(String, Option<String>)>,
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
        let project = project(self)?;
        let (unusual_setting, requires_python) = (project.unusual_setting(), project.requires_python());
        let local_sources = project.pyproject.local_sources().into_iter();
        let local_sources = local_sources.map(|(name, path)| (name.to_owned(), path.map(str::to_owned))).collect();
        material.add("kind", "uv_sync");
        add_compiling(&project.pyproject, project.lock.as_ref(), material);
        let builds = project.lock.as_ref().is_some_and(ProjectFile::has_sources_only);
        let (pyproject, lock) = (project.pyproject.text, project.lock.map(|lock| lock.text));
        material.add("pyproject", Digest::of(pyproject.as_bytes()).hex());
        material.add("lock", lock.as_ref().map(|lock| Digest::of(lock.as_bytes()).hex()));
        material.add("groups", self.groups.clone());
        material.add("extras", self.extras.clone());
        material.add("frozen", self.frozen);
        material.add("extra_options", self.extra_options.clone());
        material.add("uv_version", self.uv_version.clone());
        let step = self.clone();
        Ok(Box::new(SyncPlan { step, pyproject, lock, builds, unusual_setting, requires_python, local_sources }))
    }
}

impl SyncPlan {
    /// The options for groups and extras, in the documented order.
    fn wanted(&self) -> impl Iterator<Item = String> {
        let options = |flag: &'static str, names: &[String]| {
            names.iter().map(|name| format!("{flag}={name}")).collect::<Vec<_>>()
        };
        options("--group", &self.step.groups).into_iter().chain(options("--extra", &self.step.extras))
    }

    /// The arguments of `uv`, in the documented order.
    fn arguments(&self) -> String {
        let mut arguments = format!("sync --project={PROJECT} --no-install-workspace --compile-bytecode");
        for option in self.wanted() {
            let _ = write!(arguments, " {}", quote(&option));
        }
        if self.step.frozen && self.lock.is_some() {
            arguments += " --frozen";
        }
        arguments + " " + &self.step.extra_options
    }

    /// The wheels that the lock names, if linking them into an environment of the base's Python does.
    fn locked_wheels(&self, context: &StepContext<'_>) -> Result<(Place, Resolution), WheelError> {
        let sandbox = |reason: &str| WheelError::needs_sandbox(reason);
        let Some(lock) = self.lock.as_ref().filter(|_| self.step.frozen) else {
            return Err(sandbox("there is no lock that is taken as it is"));
        };
        if self.step.uv_version.is_some() {
            return Err(sandbox("a certain version of uv is asked for"));
        }
        let Some(own) = selection(&self.step.extra_options) else {
            return Err(sandbox(&format!("the options `{}` are uv's own", self.step.extra_options)));
        };
        if let Some(setting) = &self.unusual_setting {
            return Err(sandbox(&format!("the project sets `{setting}`")));
        }
        let environment = python::environment(context);
        if let Some(name) = OTHER_PYTHONS.into_iter().find(|name| environment.contains_key(*name)) {
            return Err(sandbox(&format!("`{name}` is set for it")));
        }
        let home = environment.get("HOME").map_or("/root", String::as_str).trim_end_matches('/');
        // An earlier project, interpreters that `uv` has installed, and files that say which one to take.
        let (pythons, pin) = (format!("{home}/.local/share/uv/python"), format!("{home}/.config/uv/.python-version"));
        let unwanted = [PROJECT, &pythons, &pin, "/.python-version", "/.python-versions"];
        let place = Place::find(Installer::Uv, PROJECT, &unwanted, context)?;
        if place.target.is_environment {
            return Err(sandbox("the Python that the image's PATH names is that of a virtual environment"));
        }
        if let Some(range) = &self.requires_python
            && lamina_wheels::version_is_in(&place.target.python, range) != Some(true)
        {
            return Err(sandbox(&format!("the project wants a Python `{range}`")));
        }
        let selection: Vec<String> = self.wanted().chain(own).collect();
        let project = LockedProject { pyproject: &self.pyproject, lock, selection: &selection };
        let resolution = lamina_wheels::locked(&project, &place.target, &context.workshop)?;
        Ok((place, resolution))
    }

    /// Has `uv` make everything but the packages, and links those.
    fn link(
        &self,
        place: &Place,
        resolution: &Resolution,
        context: &StepContext<'_>,
        log: &mut StepLog,
    ) -> Result<Result<Made, WheelError>, StepError> {
        let mut arguments = self.arguments();
        if place.is_foreign() {
            // There may be others, and the wheels are for this one.
            let _ = write!(arguments, " --python={}", quote(&place.target.interpreter));
        }
        for wheel in &resolution.wheels {
            let _ = write!(arguments, " --no-install-package={}", wheel.name);
        }
        let work = context.workshop.store.new_work()?;
        let rules = self.installation(&arguments, None, context)?.run_on(&work, context, log)?;
        let target = place.target.in_environment(ENVIRONMENT);
        let linked = place.link(resolution, &target, (Installer::Uv, None), (work, rules), context, log);
        Ok(linked.map(|mut made| {
            if let Made::Work { facts, .. } = &mut made {
                facts.config = Self::facts(context).config;
            }
            made
        }))
    }

    /// Installs, in the sandbox.
    fn install(
        &self,
        context: &StepContext<'_>,
        toolchain: Option<Digest>,
        log: &mut StepLog,
    ) -> Result<Made, StepError> {
        self.installation(&self.arguments(), toolchain, context)?.run(context, log)
    }

    /// Running `uv` on the project in the image.
    fn installation(
        &self,
        arguments: &str,
        toolchain: Option<Digest>,
        context: &StepContext<'_>,
    ) -> Result<Installation, StepError> {
        let (sync, tools) = installer::uv(self.step.uv_version.as_deref(), arguments, context)?;
        let named = [("pyproject.toml", Some(&*self.pyproject)), ("uv.lock", self.lock.as_deref())];
        let (files, copy) = installer::copied(&named, PROJECT);
        let script = format!("set -e\numask 022\n{copy}{sync}");
        let facts = Self::facts(context);
        Ok(Installation { script, files, tools, toolchain, facts, ..Installation::default() })
    }

    /// What may help where `uv` has failed in an image with this Python, after it said this.
    fn advice(&self, python: Option<&str>, said: &[String]) -> Option<String> {
        if let (Some(range), Some(python)) = (&self.requires_python, python)
            && lamina_wheels::version_is_in(python, range) == Some(false)
        {
            return Some(format!(
                "the project wants a Python `{range}`, and the image has {python}: name one as `python_version` of its base"
            ));
        }
        let is_said = |word: &str| said.iter().any(|line| line.contains(word));
        let (name, path) = self.local_sources.iter().find(|(name, path)| {
            path.as_ref().map_or_else(|| is_said("workspace"), |_| is_said(name) && is_said("file:///"))
        })?;
        let Some(path) = path else {
            return Some(format!(
                "`{name}` is a member of the project's workspace, of which nothing is copied into the image: name it by its \
                 path in `[tool.uv.sources]`, or install it in a step of its own"
            ));
        };
        let place = placed(path);
        Some(format!(
            "the project has `{name}` at `{path}`, and only its `pyproject.toml` and `uv.lock` are copied into the image: \
             copy it to `{place}` in a step before, as `.add_local_dir(…, \"{place}\", copy=True)` does"
        ))
    }

    /// What the step says about the image: the programs of the environment come first.
    fn facts(context: &StepContext<'_>) -> Facts {
        let path = context.parent.config.environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let mut facts = Facts::default();
        facts.config.environment.insert("PATH".to_owned(), format!("{ENVIRONMENT}/bin:{path}"));
        facts
    }
}

impl Recipe for SyncPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let linked = match self.locked_wheels(context) {
            Ok((place, resolution)) => self.link(&place, &resolution, context, log)?,
            Err(WheelError::NeedsSandbox { reason, builds }) => {
                Err(WheelError::NeedsSandbox { reason, builds: builds || self.builds })
            }
            Err(error) => Err(error),
        };
        let made = python::or_inside(linked, context, log, |toolchain, log| self.install(context, toolchain, log));
        made.map_err(|error| match error {
            StepError::Failed { message, hint } => {
                let python = context.parent.facts.python.as_ref().map(|python| python.version.as_str());
                // What the project says of itself is nearer to the point than what holds for any command.
                StepError::Failed { message, hint: self.advice(python, &log.tail()).or(hint) }
            }
            error => error,
        })
    }
}

/// Where something is inside that the project names by this path.
fn placed(path: &str) -> String {
    let mut parts = Vec::new();
    for part in Path::new(PROJECT).join(path).components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    format!("/{}", parts.join("/"))
}

/// Options that say what belongs to the environment, and mean the same to `uv export`; those with `=` have a value.
const SELECTING: [&str; 10] = [
    "--all-extras",
    "--all-groups",
    "--extra=",
    "--group=",
    "--no-default-groups",
    "--no-dev",
    "--no-extra=",
    "--no-group=",
    "--only-dev",
    "--only-group=",
];

/// The user's own options if each only says what belongs to the environment.
fn selection(options: &str) -> Option<Vec<String>> {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_.=".contains(character);
    let selects = |word: &str| {
        SELECTING.iter().any(|option| if option.ends_with('=') { word.starts_with(option) } else { word == *option })
    };
    options
        .split_whitespace()
        .map(|word| (word.chars().all(is_plain) && selects(word)).then(|| word.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_arguments_and_advice() {
        let step = UvSync {
            project: "/x".to_owned(),
            groups: vec!["test".to_owned()],
            extras: vec!["more".to_owned()],
            frozen: true,
            extra_options: "--no-dev".to_owned(),
            uv_version: None,
        };
        let mut plan = SyncPlan {
            step,
            pyproject: String::new(),
            lock: Some(String::new()),
            builds: false,
            unusual_setting: None,
            requires_python: Some(">=3.11".to_owned()),
            local_sources: vec![("lib".to_owned(), Some("../lib".to_owned())), ("member".to_owned(), None)],
        };
        insta::assert_snapshot!(plan.arguments(), @"sync --project=/.uv --no-install-workspace --compile-bytecode '--group=test' '--extra=more' --frozen --no-dev");
        plan.lock = None;
        assert!(!plan.arguments().contains("--frozen"));
        let advice = |python, said: &str| plan.advice(Some(python), &[said.to_owned()]).unwrap_or_default();
        insta::assert_snapshot!(advice("3.10.2", "error"), @"the project wants a Python `>=3.11`, and the image has 3.10.2: name one as `python_version` of its base");
        insta::assert_snapshot!(advice("3.11.2", "error: Failed to build `lib @ file:///lib`"), @r#"the project has `lib` at `../lib`, and only its `pyproject.toml` and `uv.lock` are copied into the image: copy it to `/lib` in a step before, as `.add_local_dir(…, "/lib", copy=True)` does"#);
        insta::assert_snapshot!(advice("3.11.2", "`member` references a workspace"), @"`member` is a member of the project's workspace, of which nothing is copied into the image: name it by its path in `[tool.uv.sources]`, or install it in a step of its own");
        assert_eq!(advice("3.11.2", "error: other"), "");
        assert_eq!(placed("libs/../x"), "/.uv/x");
    }

    #[test]
    fn options_that_only_select_are_told_from_others() {
        let selected = |options: &str| selection(options).map(|words| words.len());
        assert_eq!(selected(""), Some(0));
        assert_eq!(selected("--no-dev  --group=a --only-group=b"), Some(3));
        for options in ["--inexact", "--group a", "--group=$A", "--no-dev=1", "--reinstall --no-dev"] {
            assert_eq!(selected(options), None, "{options}");
        }
    }
}
