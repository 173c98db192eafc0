//! `poetry_install_from_file`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lamina_bases::quote;
use lamina_ground::ErrorClass;
use lamina_image::{Digest, IndexOptions, KeyMaterial, Node, PipInstall, PoetryInstallFromFile, Step};

use super::installer::{self, Installation};
use super::project::{ProjectFile, add_compiling, missing, mistake};
use super::{Kind, LayerKind, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::log::StepLog;

/// Where the project's files are inside: in memory, so that nothing of them becomes part of the image.
const PROJECT: &str = "/dev/shm/project";

struct PoetryPlan {
    step: PoetryInstallFromFile,
    pyproject: String,
    lock: Option<String>,
    /// Whether the lock has something that can only be built.
    builds: bool,
}

/// The project and its lock file.
fn files(step: &PoetryInstallFromFile) -> Result<(ProjectFile, Option<ProjectFile>), BuildError> {
    let path = Path::new(&step.pyproject);
    let pyproject = ProjectFile::read(path.to_owned())?.ok_or_else(|| missing(path))?;
    if step.ignore_lockfile {
        return Ok((pyproject, None));
    }
    let lock = step.lockfile.as_ref().map_or_else(|| path.with_file_name("poetry.lock"), PathBuf::from);
    let file = ProjectFile::read(lock.clone())?.ok_or_else(|| {
        if step.lockfile.is_some() {
            return missing(&lock);
        }
        let message = format!("the project has no lock file: `{}` does not exist", lock.display());
        mistake(ErrorClass::NotFoundError, message, "run `poetry lock` in the project, or pass `ignore_lockfile=True`")
    })?;
    Ok((pyproject, Some(file)))
}

/// The requirement that installs poetry.
fn requirement(version: &str) -> String {
    match version {
        "latest" => "poetry".to_owned(),
        exact if exact.starts_with(|character: char| character.is_ascii_digit()) => format!("poetry=={exact}"),
        range => format!("poetry{range}"),
    }
}

impl Kind for PoetryInstallFromFile {
    fn check(&self) -> Result<(), BuildError> {
        files(self).map(drop)
    }

    /// poetry is a package like others, and gets a layer of its own.
    fn lower(&self, node: &Node) -> Result<Vec<Node>, BuildError> {
        let Some(version) = &self.poetry_version else { return Ok(vec![node.clone()]) };
        let requirement = requirement(version);
        let poetry = Node {
            id: format!("{}.poetry", node.id),
            title: format!("pip_install(\"{requirement}\")"),
            step: Step::PipInstall(PipInstall {
                packages: vec![requirement],
                requirements: Vec::new(),
                pyproject: None,
                index: IndexOptions::default(),
            }),
            gpu: Vec::new(),
            ..node.clone()
        };
        let install = Node { inputs: vec![poetry.id.clone()], ..node.clone() };
        Ok(vec![poetry, install])
    }
}

impl LayerKind for PoetryInstallFromFile {
    /// The project and its lock are read here: their texts are part of the key.
    fn plan(&self, _planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        let (pyproject, lock) = files(self)?;
        material.add("kind", "poetry_install_from_file");
        add_compiling(&pyproject, lock.as_ref(), material);
        let builds = lock.as_ref().is_some_and(ProjectFile::has_sources_only);
        let (pyproject, lock) = (pyproject.text, lock.map(|lock| lock.text));
        material.add("pyproject", Digest::of(pyproject.as_bytes()).hex());
        material.add("lock", lock.as_ref().map(|lock| Digest::of(lock.as_bytes()).hex()));
        material.add("with", self.with.clone());
        material.add("without", self.without.clone());
        material.add("only", self.only.clone());
        material.add("old_installer", self.old_installer);
        Ok(Box::new(PoetryPlan { step: self.clone(), pyproject, lock, builds }))
    }
}

impl PoetryPlan {
    /// The command that installs.
    fn command(&self) -> String {
        let mut command = "poetry install --no-root --no-interaction --no-ansi".to_owned();
        let groups = [("--with", &self.step.with), ("--without", &self.step.without), ("--only", &self.step.only)];
        for (flag, names) in groups.iter().filter(|(_, names)| !names.is_empty()) {
            let _ = write!(command, " {flag} {}", quote(&names.join(",")));
        }
        command + " --compile"
    }

    /// Installs, in the sandbox.
    fn install(
        &self,
        context: &StepContext<'_>,
        toolchain: Option<Digest>,
        log: &mut StepLog,
    ) -> Result<Made, StepError> {
        let named = [("pyproject.toml", Some(&*self.pyproject)), ("poetry.lock", self.lock.as_deref())];
        let (files, copy) = installer::copied(&named, PROJECT);
        let script = format!("set -e\n{copy}cd {PROJECT}\n{}", self.command());
        let mut variables = vec![
            ("POETRY_VIRTUALENVS_CREATE", "false"),
            ("POETRY_CACHE_DIR", "/dev/shm/poetry"),
            ("POETRY_DATA_DIR", "/dev/shm/poetry"),
            ("POETRY_CONFIG_DIR", "/dev/shm/poetry"),
        ];
        if self.step.old_installer {
            variables.push(("POETRY_EXPERIMENTAL_NEW_INSTALLER", "false"));
        }
        Installation { script, files, toolchain, variables, ..Installation::default() }.run(context, log)
    }
}

/// What may help where poetry has failed after it said this.
fn advice(said: &[String], is_own: bool) -> Option<&'static str> {
    let is_said = |end: &str| said.iter().any(|line| line.trim_end().ends_with(end));
    if is_own && is_said("poetry: not found") {
        return Some(
            "`poetry_version=None` takes the poetry of the image: install one before, or leave `poetry_version` away",
        );
    }
    (said.iter().any(|line| line.starts_with("Path /")) && is_said("does not exist")).then_some(
        "only `pyproject.toml` and the lock are copied into the image, and nothing that the project has beside it: install \
         such packages in a step of their own, and leave their group away with `without`",
    )
}

impl Recipe for PoetryPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let made = installer::with_compilers(self.builds, context, log, |toolchain, log| {
            self.install(context, toolchain, log)
        });
        made.map_err(|error| match error {
            StepError::Failed { message, hint } => {
                let advice = advice(&log.tail(), self.step.poetry_version.is_none());
                StepError::Failed { message, hint: advice.map(str::to_owned).or(hint) }
            }
            error => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(pyproject: &str) -> PoetryInstallFromFile {
        serde_json::from_value(serde_json::json!({"pyproject": pyproject, "poetry_version": "latest"})).unwrap()
    }

    #[test]
    fn lock_files_are_looked_for_beside_the_project() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut step = step(&at("pyproject.toml"));
        assert!(matches!(files(&step), Err(BuildError::FileNotFound(_))));
        fs_err::write(at("pyproject.toml"), "a = 1").unwrap();
        assert!(matches!(files(&step), Err(BuildError::Refused { class: ErrorClass::NotFoundError, .. })));
        step.lockfile = Some(at("other.lock"));
        assert!(matches!(files(&step), Err(BuildError::FileNotFound(_))));
        step.ignore_lockfile = true;
        let texts = |step: &PoetryInstallFromFile| {
            let (pyproject, lock) = files(step).unwrap();
            (pyproject.text, lock.map(|lock| lock.text))
        };
        assert_eq!(texts(&step), ("a = 1".to_owned(), None));
        fs_err::write(at("poetry.lock"), "b = 1").unwrap();
        let step = PoetryInstallFromFile { ignore_lockfile: false, lockfile: None, ..step };
        assert_eq!(texts(&step), ("a = 1".to_owned(), Some("b = 1".to_owned())));
    }

    #[test]
    fn what_compiles_in_functions_is_part_of_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(directory.path().join(name), text).unwrap();
        let mut step = step(&directory.path().join("pyproject.toml").display().to_string());
        let compiling = |step: &PoetryInstallFromFile| {
            let (pyproject, lock) = files(step).unwrap();
            let mut material = KeyMaterial::new("x86_64");
            add_compiling(&pyproject, lock.as_ref(), &mut material);
            material.canonical()["compiling"] == serde_json::json!(["numba", "torch"])
        };
        write("pyproject.toml", "[tool.poetry.dependencies]\nnumba = '*'\nvllm = '*'\n");
        write("poetry.lock", "[[package]]\nname = 'torch'\n");
        assert!(compiling(&step));
        step.ignore_lockfile = true;
        assert!(!compiling(&step));
    }

    #[test]
    fn failures_for_want_of_something_are_explained() {
        let advice = |line: &str, is_own| advice(&[line.to_owned()], is_own).unwrap_or_default();
        assert!(advice("/bin/sh: 6: install.sh: poetry: not found", true).contains("poetry_version"));
        assert_eq!(advice("/bin/sh: 6: install.sh: poetry: not found", false), "");
        assert!(advice("Path /dev/shm/lib for lib does not exist", false).contains("beside it"));
        assert_eq!(advice("Group(s) not found: x", true), "");
    }

    #[test]
    fn keywords_become_options() {
        let mut step = step("/x");
        step.with = vec!["a".to_owned(), "b".to_owned()];
        step.only = vec!["c".to_owned()];
        let plan = PoetryPlan { step, pyproject: String::new(), lock: None, builds: false };
        insta::assert_snapshot!(plan.command(), @"poetry install --no-root --no-interaction --no-ansi --with 'a,b' --only c --compile");
        assert_eq!(["latest", "2.1.0", "~=1.7"].map(requirement), ["poetry", "poetry==2.1.0", "poetry~=1.7"]);
    }
}
