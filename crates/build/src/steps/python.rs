//! `pip_install` and `uv_pip_install`.
//!
//! Ready-made wheels are resolved on the host and linked straight into the step's upper, without a sandbox. What needs
//! more (a source distribution, a conflict with what the image has, options only the installer knows) is done by the
//! real installer, inside the sandbox.

use lamina_image::{Digest, FileEntry, FileKind, FileSet, IndexOptions, KeyMaterial, Step};
use lamina_sandbox::Mount;
use lamina_store::{CacheFilter, CommitRules, Work};
use lamina_wheels::{Installer, Request, RequirementsFile, Resolver, Target, WheelError};
use serde_json::{Value, json};

use super::apt::{cache_mount, quote};
use super::commands::Run;
use super::{Made, StepContext, StepError};
use crate::BuildError;
use crate::error::causes;
use crate::log::StepLog;

/// Downloads at a time; more makes name resolution stumble on some machines.
const CONNECTIONS: usize = 8;

pub(crate) struct PythonPlan {
    request: Request,
    index: IndexOptions,
    uv_version: Option<String>,
}

/// Requirements files are read here: their contents are part of the key.
pub(crate) fn plan(step: &Step, material: &mut KeyMaterial) -> Result<PythonPlan, BuildError> {
    let (installer, packages, files, index, uv_version) = match step {
        Step::UvPipInstall { packages, requirements, index, uv_version } => {
            (Installer::Uv, packages, requirements.as_slice(), index, uv_version.clone())
        }
        Step::PipInstall { packages, index } => (Installer::Pip, packages, [].as_slice(), index, None),
        _ => return Err(BuildError::Invalid { message: "the step installs no Python packages".to_owned(), hint: None }),
    };
    let requirements = files.iter().map(|path| read_requirements(path)).collect::<Result<Vec<_>, _>>()?;
    material.add("kind", if installer == Installer::Uv { "uv_pip_install" } else { "pip_install" });
    material.add("packages", packages.clone());
    material.add("requirements", requirements.iter().map(|file| file.contents.clone()).collect::<Vec<_>>());
    material.add("index", describe(index));
    material.add("uv_version", uv_version.clone());
    let request = Request {
        packages: packages.clone(),
        requirements,
        find_links: index.find_links.clone(),
        index_url: index.index_url.clone(),
        extra_index_url: index.extra_index_url.clone(),
        pre: index.pre,
        extra_options: index.extra_options.clone(),
        installer,
    };
    Ok(PythonPlan { request, index: index.clone(), uv_version })
}

fn read_requirements(path: &str) -> Result<RequirementsFile, BuildError> {
    match fs_err::read_to_string(path) {
        Ok(contents) => {
            let name = path.rsplit('/').next().unwrap_or(path).to_owned();
            Ok(RequirementsFile { name, contents })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(BuildError::FileNotFound(format!("requirements file `{path}` does not exist")))
        }
        Err(error) => Err(BuildError::failed(&error)),
    }
}

/// The index options for the key, without credentials.
fn describe(index: &IndexOptions) -> Value {
    let clean = |url: &Option<String>| url.as_deref().map(without_credentials);
    json!({
        "find_links": clean(&index.find_links),
        "index_url": clean(&index.index_url),
        "extra_index_url": clean(&index.extra_index_url),
        "pre": index.pre,
        "extra_options": index.extra_options,
    })
}

fn without_credentials(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or(authority))
        }
        None => url.to_owned(),
    }
}

impl PythonPlan {
    pub(crate) fn execute(self, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        match self.install_wheels(context, log) {
            Ok(made) => Ok(made),
            Err(WheelError::NeedsSandbox { reason }) => {
                log.line(&format!("installing inside the sandbox: {reason}"));
                self.install_in_sandbox(context, log)
            }
            Err(error) => Err(wheel_error(&error)),
        }
    }
}
