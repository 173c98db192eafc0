//! `poetry_install_from_file`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lamina_bases::quote;
use lamina_ground::ErrorClass;
use lamina_image::{Digest, IndexOptions, KeyMaterial, Node, PipInstall, PoetryInstallFromFile, Step};

use super::installer::{self, Installation};
use super::project::{missing, mistake, read};
use super::{Kind, LayerKind, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::log::StepLog;

/// Where the project's files are inside: in memory, so that nothing of them becomes part of the image.
const PROJECT: &str = "/dev/shm/project";

struct PoetryPlan {
    step: PoetryInstallFromFile,
    pyproject: String,
    lock: Option<String>,
}

/// The texts of the project and of its lock file.
fn files(step: &PoetryInstallFromFile) -> Result<(String, Option<String>), BuildError> {
    let path = Path::new(&step.pyproject);
    let pyproject = read(path)?.ok_or_else(|| missing(path))?;
    if step.ignore_lockfile {
        return Ok((pyproject, None));
    }
    let lock = step.lockfile.as_ref().map_or_else(|| path.with_file_name("poetry.lock"), PathBuf::from);
    let text = read(&lock)?.ok_or_else(|| {
        if step.lockfile.is_some() {
            return missing(&lock);
        }
        let message = format!("the project has no lock file: `{}` does not exist", lock.display());
        mistake(ErrorClass::NotFoundError, message, "run `poetry lock` in the project, or pass `ignore_lockfile=True`")
    })?;
    Ok((pyproject, Some(text)))
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
        material.add("pyproject", Digest::of(pyproject.as_bytes()).hex());
        material.add("lock", lock.as_ref().map(|lock| Digest::of(lock.as_bytes()).hex()));
        material.add("with", self.with.clone());
        material.add("without", self.without.clone());
        material.add("only", self.only.clone());
        material.add("old_installer", self.old_installer);
        Ok(Box::new(PoetryPlan { step: self.clone(), pyproject, lock }))
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

impl Recipe for PoetryPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        installer::with_compilers(false, context, log, |toolchain, log| self.install(context, toolchain, log))
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
        fs_err::write(at("pyproject.toml"), "a").unwrap();
        assert!(matches!(files(&step), Err(BuildError::Refused { class: ErrorClass::NotFoundError, .. })));
        step.lockfile = Some(at("other.lock"));
        assert!(matches!(files(&step), Err(BuildError::FileNotFound(_))));
        step.ignore_lockfile = true;
        assert_eq!(files(&step).unwrap(), ("a".to_owned(), None));
        fs_err::write(at("poetry.lock"), "b").unwrap();
        let step = PoetryInstallFromFile { ignore_lockfile: false, lockfile: None, ..step };
        assert_eq!(files(&step).unwrap(), ("a".to_owned(), Some("b".to_owned())));
    }

    #[test]
    fn keywords_become_options() {
        let mut step = step("/x");
        step.with = vec!["a".to_owned(), "b".to_owned()];
        step.only = vec!["c".to_owned()];
        let plan = PoetryPlan { step, pyproject: String::new(), lock: None };
        insta::assert_snapshot!(plan.command(), @"poetry install --no-root --no-interaction --no-ansi --with 'a,b' --only c --compile");
        assert_eq!(["latest", "2.1.0", "~=1.7"].map(requirement), ["poetry", "poetry==2.1.0", "poetry~=1.7"]);
    }
}
