//! `pip_install` and `uv_pip_install`.
//!
//! Ready-made wheels are resolved on the host and linked straight into the step's upper, without a sandbox. What needs
//! more (a source distribution, a conflict with what the image has, options only the installer knows) is done by the
//! real installer, inside the sandbox.

use std::collections::BTreeMap;

use lamina_bases::{apt, quote};
use lamina_ground::Stack;
use lamina_image::{
    Digest, Facts, FileEntry, FileKind, FileSet, IndexOptions, KeyMaterial, Libc, Package, PackageKind, PipInstall,
    UvPipInstall, redact,
};
use lamina_store::CommitRules;
use lamina_wheels::{Inside, Installer, Request, Resolution, Source, Target, Wheel, WheelError};
use serde_json::{Value, json};

use super::commands::Run;
use super::requirements::{self, Requirements};
use super::{Kind, LayerKind, Local, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::host::DIRECTORY;
use crate::log::StepLog;

struct PythonPlan {
    request: Request,
    index: IndexOptions,
    uv_version: Option<String>,
}

impl Kind for PipInstall {}

impl LayerKind for PipInstall {
    fn plan(&self, _planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        Ok(plan(Installer::Pip, &self.packages, Requirements::default(), &self.index, None, material))
    }
}

impl Kind for UvPipInstall {
    fn local(&self) -> Local<'_> {
        Local { requirements: &self.requirements, ..Local::default() }
    }
}

impl LayerKind for UvPipInstall {
    /// Requirements files are read here: their contents are part of the key.
    fn plan(&self, _planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        let requirements = requirements::read(&self.requirements)?;
        Ok(plan(Installer::Uv, &self.packages, requirements, &self.index, self.uv_version.clone(), material))
    }
}

fn plan(
    installer: Installer,
    packages: &[String],
    requirements: Requirements,
    index: &IndexOptions,
    uv_version: Option<String>,
    material: &mut KeyMaterial,
) -> Box<dyn Recipe> {
    let Requirements { files: requirements, constraints } = requirements;
    material.add("kind", if installer == Installer::Uv { "uv_pip_install" } else { "pip_install" });
    material.add("packages", packages.to_vec());
    material.add("requirements", requirements.iter().map(|file| file.contents.clone()).collect::<Vec<_>>());
    if !constraints.is_empty() {
        material.add("constraints", constraints.clone());
    }
    material.add("index", describe(index));
    material.add("uv_version", uv_version.clone());
    let request = Request {
        packages: packages.to_vec(),
        requirements,
        constraints,
        find_links: index.find_links.clone(),
        index_url: index.index_url.clone(),
        extra_index_url: index.extra_index_url.clone(),
        pre: index.pre,
        extra_options: index.extra_options.clone(),
        installer,
    };
    Box::new(PythonPlan { request, index: index.clone(), uv_version })
}

/// The index options for the key.
fn describe(index: &IndexOptions) -> Value {
    json!({
        "find_links": index.find_links,
        "index_url": index.index_url,
        "extra_index_url": index.extra_index_url,
        "pre": index.pre,
        "extra_options": index.extra_options,
    })
}

impl Recipe for PythonPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        match self.install_wheels(context, log) {
            Ok(made) => Ok(made),
            Err(WheelError::NeedsSandbox { reason, builds }) => {
                tracing::info!(step = context.number, reason = &*redact(&reason), "wheels are not linked");
                log.line(&format!("installing inside the sandbox: {reason}"));
                let toolchain = context.toolchain(builds, log)?;
                match self.install_in_sandbox(context, toolchain, log) {
                    Err(StepError::Failed { message, hint }) if toolchain.is_none() => {
                        let failed = || StepError::Failed { message, hint };
                        let is_lacking = log.tail().iter().any(|line| apt::lacks_compiler(line));
                        let toolchain = context.toolchain(is_lacking, log)?.ok_or_else(failed)?;
                        log.line("installing once more: a package had to be compiled");
                        self.install_in_sandbox(context, Some(toolchain), log)
                    }
                    other => other,
                }
            }
            Err(error) => Err(wheel_error(error)),
        }
    }
}

impl PythonPlan {
    /// The fast way: wheels, linked into the upper.
    fn install_wheels(&self, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, WheelError> {
        let workshop = &context.workshop;
        let sandbox = |reason: &str| WheelError::needs_sandbox(reason);
        let facts = &context.parent.facts;
        let target = target(facts)?;
        if self.uv_version.is_some() {
            return Err(sandbox("a certain version of uv is asked for"));
        }
        let store = workshop.store;
        let layers = store.view_paths(&context.parent.layers);
        if !lamina_wheels::is_of_base(store, &layers, search_path(context))? {
            return Err(sandbox("the image's PATH names a Python of its own"));
        }
        let environment = Self::environment(context);
        let inside = Inside {
            installer: self.request.installer,
            target: &target,
            environment: &environment,
            working_directory: context.parent.config.working_directory.as_deref().unwrap_or("/"),
            sites: facts.python.as_ref().map_or(&[][..], |python| &python.search),
        };
        if let Some(reason) = inside.decisive_variable().or_else(|| self.names_variable()) {
            return Err(sandbox(&reason));
        }
        let survey = lamina_wheels::survey(store, &layers, &inside)?;
        if let Some(reason) = survey.obeyed {
            return Err(sandbox(&reason));
        }
        (workshop.progress)("resolving", 0, 0);
        let refresh = context.node.force_build;
        let resolution = lamina_wheels::resolve(&self.request, &target, &survey.installed, refresh, workshop)?;
        let work = store.new_work().map_err(|error| WheelError::Job(error.into()))?;
        let installation = lamina_wheels::Installation {
            work: &work,
            layers: &layers,
            python_layers: &Stack::from_bottom_up(layers.bottom().cloned()),
            installer: self.request.installer,
        };
        let held = Some(store.hold_off_collection().map_err(|error| WheelError::Job(error.into()))?);
        let report = lamina_wheels::install(&resolution, &target, &installation, workshop)?;
        for line in report.warnings.iter().chain(&resolution.kept).chain(&report.installed) {
            log.line(line);
        }
        let rules = CommitRules { package_times: true, ..CommitRules::default() };
        Ok(Made::Work { work, rules, facts: Box::new(resolved(&resolution)), held })
    }

    /// The variables that the installer would see beside those of this machine.
    fn environment(context: &StepContext<'_>) -> BTreeMap<String, String> {
        let mut variables: BTreeMap<String, String> = context.parent.config.environment.clone().into_iter().collect();
        variables.extend(context.node.variables().map(|(name, value)| (name.to_owned(), value.to_owned())));
        variables
    }

    /// Why the installer has to read the requirements itself, if it has to: they name variables.
    fn names_variable(&self) -> Option<String> {
        let files = self.request.requirements.iter().map(|file| &file.contents);
        let mut texts = self.request.packages.iter().chain(files).chain([&self.request.constraints]);
        texts.any(|text| text.contains("${")).then(|| "a requirement names a variable of the environment".to_owned())
    }

    /// The thorough way: the real installer, inside the sandbox.
    fn install_in_sandbox(
        &self,
        context: &StepContext<'_>,
        toolchain: Option<Digest>,
        log: &mut StepLog,
    ) -> Result<Made, StepError> {
        let store = context.workshop.store;
        let work = store.new_work()?;
        let contents = self.request.requirements.iter().map(|file| file.contents.as_bytes().to_vec());
        let names = (0..).map(|index| format!("requirements-{index}.txt"));
        let mut files: Vec<(String, Vec<u8>)> = names.zip(contents).collect();
        let mut requirements: Vec<String> = files.iter().map(|(name, _)| format!("-r {DIRECTORY}/{name}")).collect();
        if !self.request.constraints.is_empty() {
            files.push(("constraints.txt".to_owned(), self.request.constraints.clone().into_bytes()));
            requirements.push(format!("-c {DIRECTORY}/constraints.txt"));
        }
        let packages: Vec<_> = self.request.packages.iter().map(|package| quote(package)).collect();
        let flags = flags(&self.index, self.request.installer);
        let arguments = format!("{flags}{} {}", requirements.join(" "), packages.join(" "));
        let mut tools = Stack::new();
        let install = match (self.request.installer, &self.uv_version) {
            (Installer::Pip, _) => started("pip", &format!("install {arguments}")),
            (Installer::Uv, Some(version)) => {
                let uv = format!("uv=={version}");
                let install = started("/dev/shm/uv/bin/uv", &format!("pip install {UV_FLAGS} {arguments}"));
                format!("python -m pip install --quiet --target /dev/shm/uv {} && {install}", quote(&uv))
            }
            (Installer::Uv, None) => {
                tools.put(uv_layer(context)?);
                started(UV, &format!("pip install {UV_FLAGS} {arguments}"))
            }
        };
        files.push((STARTER.to_owned(), include_bytes!("start_installer.py").to_vec()));
        files.push(("install.sh".to_owned(), install.into_bytes()));
        // No cache is shared: code that is built from source runs beside it and could plant what others will install.
        let variables = [
            ("PIP_NO_CACHE_DIR", "1"),
            ("UV_NO_CACHE", "1"),
            ("UV_LINK_MODE", "copy"),
            ("PIP_ROOT_USER_ACTION", "ignore"),
            ("PIP_BREAK_SYSTEM_PACKAGES", "1"),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ];
        // In a file, as arguments may have credentials in them, and the shell is given its commands as arguments.
        let commands = [format!(". {DIRECTORY}/install.sh\n")];
        // `uv` would have settings win over a requirements file, as pip does not: then those of this machine are left out.
        let without_indexes_of_uv = self.request.requirements_name_index();
        let run = Run {
            commands: &commands,
            environment: &variables,
            files: &files,
            tools,
            toolchain,
            without_indexes_of_uv,
            ..Run::default()
        };
        let exit = run.execute(context, &work, log)?;
        let rules = CommitRules { package_times: true, drop_empty: exit.created_mountpoints, ..CommitRules::default() };
        Ok(Made::Work { work, rules, facts: Box::default(), held: None })
    }
}

/// The directories in which the step looks for programs.
fn search_path<'a>(context: &'a StepContext<'_>) -> &'a str {
    let own = context.node.variables().filter(|(name, _)| *name == "PATH").last().map(|(_, value)| value);
    own.or_else(|| context.parent.config.environment.get("PATH").map(String::as_str)).unwrap_or_default()
}

/// Where the host's uv is inside.
const UV: &str = "/__modal/bin/uv";
/// Flags of every `uv pip install`, which installs for the Python that the PATH names first, as `pip` does.
const UV_FLAGS: &str = "--break-system-packages --compile-bytecode --python \"$(command -v python)\"";

/// The program that starts an installer without showing what it is given.
const STARTER: &str = "start_installer.py";

/// The command that starts an installer with arguments in the form of the shell.
fn started(installer: &str, arguments: &str) -> String {
    format!("printf '%s\\0' {arguments} | python {DIRECTORY}/{STARTER} {installer}")
}

/// Index flags in the order that is documented, then the user's own.
fn flags(index: &IndexOptions, installer: Installer) -> String {
    let options = [
        ("--find-links", &index.find_links),
        ("--index-url", &index.index_url),
        ("--extra-index-url", &index.extra_index_url),
    ];
    let option = |(flag, value): (&str, &Option<String>)| Some(format!("{flag} {} ", quote(value.as_ref()?)));
    let mut flags: String = options.into_iter().filter_map(option).collect();
    if index.pre {
        flags.push_str(if installer == Installer::Uv { "--prerelease allow " } else { "--pre " });
    }
    flags.push_str(&index.extra_options);
    // What follows is no part of the last of them.
    flags.push(' ');
    flags
}

/// A layer that holds the host's `uv`, to lie over the image while it is needed.
fn uv_layer(context: &StepContext<'_>) -> Result<Digest, StepError> {
    let uv = context.workshop.programs.uv.as_deref().ok_or_else(|| StepError::Failed {
        message: "`uv` was not found on this machine".to_owned(),
        hint: Some("install it beside the package with `pip install uv`, or use `pip_install`".to_owned()),
    })?;
    let entry =
        FileEntry { source: uv.display().to_string(), target: UV.to_owned(), kind: FileKind::File, ignore: None };
    let files = FileSet { entries: vec![entry] };
    Ok(context.workshop.store.file_set_layer(&files, &context.parent.layers)?.digest)
}

/// The interpreter that the base brought.
fn target(facts: &Facts) -> Result<Target, WheelError> {
    let sandbox = |reason: &str| WheelError::needs_sandbox(reason);
    let python = facts.python.clone().ok_or_else(|| sandbox("the image's Python is not one that a base brought"))?;
    let Some(Libc::Glibc(major, minor)) = facts.system.as_ref().map(|system| system.libc) else {
        return Err(sandbox("the image's C library is not glibc"));
    };
    Ok(Target {
        python: python.version,
        interpreter: python.interpreter,
        site_packages: python.site_packages,
        scripts: python.scripts,
        prefix: python.prefix,
        glibc: (major, minor),
        machine: std::env::consts::ARCH.to_owned(),
    })
}

/// What the step came to: the wheels that it installed, and where they are from.
fn resolved(resolution: &Resolution) -> Facts {
    let package = |wheel: &Wheel| Package {
        kind: PackageKind::Pypi,
        name: wheel.name.clone(),
        version: wheel.version.clone(),
        source: Some(match &wheel.source {
            Source::Url(url) => redact(url).into_owned(),
            Source::Path(path) => path.display().to_string(),
        }),
        sha256: Some(wheel.sha256.clone()),
    };
    Facts { packages: resolution.wheels.iter().map(package).collect(), ..Facts::default() }
}

fn wheel_error(error: WheelError) -> StepError {
    match error {
        WheelError::Cancelled(_) => StepError::Other(BuildError::Cancelled),
        error => StepError::of(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_in_the_documented_order() {
        let index = IndexOptions {
            find_links: Some("/w".into()),
            index_url: Some("https://i.example".into()),
            extra_index_url: None,
            pre: true,
            extra_options: "--no-deps".into(),
        };
        let flags = |installer| flags(&index, installer);
        assert_eq!(flags(Installer::Pip), "--find-links /w --index-url https://i.example --pre --no-deps ");
        assert!(flags(Installer::Uv).contains("--prerelease allow"));
    }
}
