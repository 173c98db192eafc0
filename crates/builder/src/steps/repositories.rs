//! `pip_install_private_repos`.
//!
//! Names of variables take the place of tokens in the requirements; what starts pip puts the values in, and gives them to
//! git alone.

use std::fmt::Write as _;

use lamina_image::{AptInstall, KeyMaterial, Node, PipInstallPrivateRepos, Step};
use lamina_wheels::{Installer, RequirementsFile};

use super::installer;
use super::python::{self, PythonPlan};
use super::requirements::Requirements;
use super::{Kind, LayerKind, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::log::StepLog;

/// Hosts, and the variables of their tokens.
const HOSTS: [(&str, &str); 2] = [("github.com/", "GITHUB_TOKEN"), ("gitlab.com/", "GITLAB_TOKEN")];

/// The variable with the token for a repository.
fn token(repository: &str) -> Option<&'static str> {
    HOSTS.iter().find(|(host, _)| repository.starts_with(host)).map(|(_, token)| *token)
}

struct RepositoriesPlan {
    tokens: Vec<&'static str>,
    install: PythonPlan,
}

impl Kind for PipInstallPrivateRepos {
    /// pip needs git, which gets a layer of its own.
    fn lower(&self, node: &Node) -> Result<Vec<Node>, BuildError> {
        let git = Node {
            id: format!("{}.git", node.id),
            step: Step::AptInstall(AptInstall { packages: vec!["git".to_owned()] }),
            title: "apt_install(\"git\")".to_owned(),
            secrets: Vec::new(),
            gpu: Vec::new(),
            ..node.clone()
        };
        let repositories = Node { inputs: vec![git.id.clone()], ..node.clone() };
        Ok(vec![git, repositories])
    }
}

impl LayerKind for PipInstallPrivateRepos {
    fn plan(&self, _planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        let (mut contents, mut tokens) = (String::new(), Vec::new());
        for repository in &self.repositories {
            let token = token(repository).unwrap_or(HOSTS[0].1);
            let _ = writeln!(contents, "git+https://{}:${{{token}}}@{repository}", self.git_user);
            tokens.push(token);
        }
        let files = vec![RequirementsFile { name: "repositories.txt".to_owned(), contents }];
        let requirements = Requirements { files, ..Requirements::default() };
        let install = python::plan(Installer::Pip, &[], requirements, &self.index, None, material);
        material.add("kind", "pip_install_private_repos");
        material.add("repositories", self.repositories.clone());
        material.add("git_user", self.git_user.clone());
        tokens.sort_unstable();
        tokens.dedup();
        Ok(Box::new(RepositoriesPlan { tokens, install }))
    }
}

impl Recipe for RepositoriesPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let is_set = |token: &str| context.node.variables().any(|(name, value)| name == token && !value.is_empty());
        if let Some(token) = self.tokens.iter().find(|token| !is_set(token)) {
            return Err(StepError::Failed {
                message: format!("no secret of the step has the variable `{token}`"),
                hint: Some(format!(
                    "make one with `modal secret create NAME {token}=...` and pass `secrets=[modal.Secret.from_name(NAME)]`"
                )),
            });
        }
        installer::with_compilers(true, context, log, |toolchain, log| {
            self.install.install_in_sandbox(context, toolchain, log)
        })
    }
}
