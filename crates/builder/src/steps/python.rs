//! `pip_install`, also from files, and `uv_pip_install`.
//!
//! Ready-made wheels are resolved on the host and linked straight into the step's upper, without a sandbox. What needs
//! more (a source distribution, a conflict with what the image has, options only the installer knows) is done by the
//! real installer, inside the sandbox.

use std::collections::BTreeMap;

use lamina_bases::quote;
use lamina_ground::{Stack, StorePath};
use lamina_image::{
    Digest, Facts, IndexOptions, KeyMaterial, Package, PackageKind, PipInstall, Python, UvPipInstall, redact,
};
use lamina_store::{CommitRules, Work};
use lamina_wheels::{Inside, Installed, Installer, Request, Resolution, Source, Target, Wheel, WheelError};
use lamina_workshop::Workshop;
use serde_json::{Value, json};

use super::installer::{self, Installation};
use super::project;
use super::requirements::{self, Requirements};
use super::{Kind, LayerKind, Local, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::host::DIRECTORY;
use crate::log::StepLog;

/// Requirements and how to install them.
pub(super) struct PythonPlan {
    request: Request,
    index: IndexOptions,
    uv_version: Option<String>,
}

impl Kind for PipInstall {
    fn local(&self) -> Local<'_> {
        Local { requirements: &self.requirements, ..Local::default() }
    }

    fn check(&self) -> Result<(), BuildError> {
        self.pyproject.as_ref().map_or(Ok(()), |pyproject| project::dependencies(pyproject).map(drop))
    }
}

impl LayerKind for PipInstall {
    /// Files that name requirements are read here. Those of a project count as if the call had named them.
    fn plan(&self, _planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        let requirements = requirements::read(&self.requirements)?;
        let mut packages = self.packages.clone();
        if let Some(pyproject) = &self.pyproject {
            packages.extend(project::dependencies(pyproject)?);
            packages.sort_unstable();
            packages.dedup();
        }
        Ok(Box::new(plan(Installer::Pip, &packages, requirements, &self.index, None, material)))
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
        let version = self.uv_version.clone();
        Ok(Box::new(plan(Installer::Uv, &self.packages, requirements, &self.index, version, material)))
    }
}

pub(super) fn plan(
    installer: Installer,
    packages: &[String],
    requirements: Requirements,
    index: &IndexOptions,
    uv_version: Option<String>,
    material: &mut KeyMaterial,
) -> PythonPlan {
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
        allowing: Vec::new(),
        pre: index.pre,
        extra_options: index.extra_options.clone(),
        installer,
    };
    PythonPlan { request, index: index.clone(), uv_version }
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
        let linked = match self.install_wheels(context, log) {
            Err(WheelError::NeedsSandbox { reason, builds }) => {
                Err(WheelError::NeedsSandbox { reason, builds: builds || self.is_likely_to_build(context) })
            }
            linked => linked,
        };
        or_inside(linked, context, log, |toolchain, log| self.install_in_sandbox(context, toolchain, log))
    }
}

/// What was made of wheels, or else what the installer makes inside the sandbox.
pub(super) fn or_inside(
    linked: Result<Made, WheelError>,
    context: &StepContext<'_>,
    log: &mut StepLog,
    install: impl Fn(Option<Digest>, &mut StepLog) -> Result<Made, StepError>,
) -> Result<Made, StepError> {
    match linked {
        Err(WheelError::NeedsSandbox { reason, builds }) => {
            tracing::info!(step = context.number, reason = &*redact(&reason), "wheels are not linked");
            log.line(&format!("installing inside the sandbox: {reason}"));
            installer::with_compilers(builds, context, log, install)
        }
        linked => linked.map_err(wheel_error),
    }
}

/// An image in which wheels can be linked as the installer would do it.
pub(super) struct Place {
    /// The interpreter that its PATH names.
    pub(super) target: Target,
    /// What is known about it.
    python: Python,
    /// The views of the image.
    pub(super) layers: Stack<StorePath>,
    /// The distributions that it has.
    pub(super) installed: Vec<Installed>,
}

impl Place {
    /// Looks whether the image is one: nothing in it leads the installer, run in this directory, another way.
    pub(super) fn find(
        installer: Installer,
        directory: &str,
        unwanted: &[&str],
        context: &StepContext<'_>,
    ) -> Result<Self, WheelError> {
        let sandbox = |reason: &str| WheelError::needs_sandbox(reason);
        let facts = &context.parent.facts;
        let store = context.workshop.store;
        let layers = store.view_paths(&context.parent.layers);
        let (python, interpreter) = named_python(&layers, context)?;
        let target = target(&python, facts, interpreter)?;
        let environment = environment(context);
        let inside = Inside {
            installer,
            target: &target,
            environment: &environment,
            working_directory: directory,
            sites: &python.search,
            unwanted,
            // Whoever made an image elsewhere may have had reasons to change its interpreter.
            trusted: usize::from(python.foreign.is_none()),
        };
        if let Some(reason) = inside.decisive_variable() {
            return Err(sandbox(&reason));
        }
        let survey = lamina_wheels::survey(store, &layers, &inside)?;
        if let Some(reason) = survey.obeyed {
            return Err(sandbox(&reason));
        }
        Ok(Self { target, python, layers, installed: survey.installed })
    }

    /// Whether no base of ours brought the interpreter.
    pub(super) fn is_foreign(&self) -> bool {
        self.python.foreign.is_some()
    }

    /// Links wheels into an upper that is committed by these rules, for the interpreter or an environment of it. The request
    /// is what they were resolved from, unless a lock names them.
    pub(super) fn link(
        &self,
        resolution: &Resolution,
        target: &Target,
        (installer, request): (Installer, Option<&Request>),
        (work, rules): (Work, CommitRules),
        context: &StepContext<'_>,
        log: &mut StepLog,
    ) -> Result<Made, WheelError> {
        let pip = self.installed.iter().find(|one| one.name == "pip").map(|one| one.version.as_str());
        // `uv` leaves its lock in an environment; where it has made that itself, the lock is there already.
        let is_found = target.is_environment && target == &self.target && installer == Installer::Uv;
        let lock = is_found.then(|| format!("{}/.lock", target.prefix));
        let brought = self.python.foreign.as_ref().map_or(1, |foreign| foreign.layers);
        let installation = lamina_wheels::Installation {
            work: &work,
            layers: &self.layers,
            python_layers: &Stack::from_bottom_up(self.layers.bottom_up().iter().take(brought).cloned()),
            installer,
            pip,
            lock: lock.as_deref(),
            request,
        };
        let held = context.workshop.store.hold_off_collection().map_err(|error| WheelError::Job(error.into()))?;
        let report = lamina_wheels::install(resolution, target, &installation, &context.workshop)?;
        for line in report.warnings.iter().chain(&resolution.kept).chain(&report.installed) {
            log.line(line);
        }
        // So that later steps need not ask it again.
        let python = self.python.foreign.is_some().then(|| self.python.clone());
        let facts = Box::new(Facts { python, ..resolved(resolution) });
        Ok(Made::Work { work, rules, facts, held: Some(held) })
    }
}

/// The variables that an installer would see beside those of this machine.
pub(super) fn environment(context: &StepContext<'_>) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<String, String> = context.parent.config.environment.clone().into_iter().collect();
    variables.extend(context.node.variables().map(|(name, value)| (name.to_owned(), value.to_owned())));
    variables
}

impl PythonPlan {
    /// The fast way: wheels, linked into the upper.
    fn install_wheels(&self, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, WheelError> {
        let workshop = &context.workshop;
        if self.uv_version.is_some() {
            return Err(WheelError::needs_sandbox("a certain version of uv is asked for"));
        }
        if let Some(reason) = self.names_variable().or_else(|| self.prefers_index()) {
            return Err(WheelError::needs_sandbox(reason));
        }
        let directory = context.parent.config.working_directory.as_deref().unwrap_or("/");
        let place = Place::find(self.request.installer, directory, &[], context)?;
        (workshop.progress)("resolving", 0, 0);
        let mut request = self.request.clone();
        let mut refresh = context.node.force_build;
        for _ in 0..RESOLUTIONS {
            let resolution = lamina_wheels::resolve(&request, &place.target, &place.installed, refresh, workshop)?;
            let work = workshop.store.new_work().map_err(|error| WheelError::Job(error.into()))?;
            let rules = CommitRules { package_times: true, ..CommitRules::default() };
            let asked = (request.installer, Some(&request));
            match place.link(&resolution, &place.target, asked, (work, rules), context, log) {
                Err(WheelError::PreReleases { allowed }) => request.allowing.extend(allowed),
                linked => return linked,
            }
            refresh = false;
        }
        Err(WheelError::needs_sandbox("packages let pip take pre-releases of one another"))
    }

    /// Whether something has to be built, as far as can be told without the settings and options for which the installer
    /// runs inside: where a part in C is optional, a build without compilers leaves it out and does not fail.
    fn is_likely_to_build(&self, context: &StepContext<'_>) -> bool {
        let is_set = |(name, value): (&String, &String)| {
            let name = name.strip_prefix("PIP_").or_else(|| name.strip_prefix("UV_"));
            name.is_some_and(|name| OTHER_PACKAGES.contains(&name)) && !value.is_empty()
        };
        let names_others = OTHER_OPTIONS.iter().any(|option| self.request.extra_options.contains(option));
        if names_others || environment(context).iter().any(is_set) {
            return true;
        }
        let request = Request { extra_options: String::new(), ..self.request.clone() };
        let resolved = named_python(&context.workshop.store.view_paths(&context.parent.layers), context)
            .and_then(|(python, interpreter)| target(&python, &context.parent.facts, interpreter))
            .and_then(|target| lamina_wheels::resolve(&request, &target, &[], false, &context.workshop));
        // Where packages are not found, settings of the image say where they are.
        matches!(resolved, Err(WheelError::NeedsSandbox { builds: true, .. } | WheelError::Resolution { .. }))
    }

    /// Why pip may choose another file than the resolver, if it may.
    fn prefers_index(&self) -> Option<String> {
        let links = self.request.find_links.as_deref().filter(|_| self.request.installer == Installer::Pip)?;
        Some(format!("of a version that both have, pip takes the file of the index, not that of `{links}`"))
    }

    /// Why the installer has to read the requirements itself, if it has to: they name variables.
    fn names_variable(&self) -> Option<String> {
        let files = self.request.requirements.iter().map(|file| &file.contents);
        let mut texts = self.request.packages.iter().chain(files).chain([&self.request.constraints]);
        texts.any(|text| text.contains("${")).then(|| "a requirement names a variable of the environment".to_owned())
    }

    /// The thorough way: the real installer, inside the sandbox.
    pub(super) fn install_in_sandbox(
        &self,
        context: &StepContext<'_>,
        toolchain: Option<Digest>,
        log: &mut StepLog,
    ) -> Result<Made, StepError> {
        if let Some(address) = self.exposed_login() {
            return Err(StepError::Failed {
                message: format!(
                    "the login of `{address}` would be an argument of a program, for everybody here to read"
                ),
                hint: Some(
                    "fetch it in `run_commands` with a secret, and install it from there; logins of git are kept safe"
                        .to_owned(),
                ),
            });
        }
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
        let (script, tools) = match self.request.installer {
            Installer::Pip => (installer::pip(&format!("install {arguments}")), Stack::new()),
            Installer::Uv => {
                installer::uv(self.uv_version.as_deref(), &format!("pip install {UV_FLAGS} {arguments}"), context)?
            }
        };
        // `uv` would have settings win over a requirements file, as pip does not: then those of this machine are left out.
        let without_indexes_of_uv = self.request.requirements_name_index();
        let has_index = self.request.index_url.is_some();
        Installation { script, files, tools, toolchain, without_indexes_of_uv, has_index, ..Installation::default() }
            .run(context, log)
    }
}

impl PythonPlan {
    /// An address with a login that pip would hand to another program than git, which gets its logins otherwise.
    fn exposed_login(&self) -> Option<String> {
        let files = self.request.requirements.iter().map(|file| &file.contents);
        let texts = self.request.packages.iter().chain(files).filter(|_| self.request.installer == Installer::Pip);
        let mut addresses = texts
            .flat_map(|text| text.split_whitespace())
            .filter(|word| ["bzr+", "hg+", "svn+"].iter().any(|scheme| word.contains(scheme)));
        addresses.find_map(|address| {
            let shown = redact(address);
            (shown != address).then(|| shown.into_owned())
        })
    }
}

/// The directories in which the step looks for programs.
fn search_path<'a>(context: &'a StepContext<'_>) -> &'a str {
    let own = context.node.variables().filter(|(name, _)| *name == "PATH").last().map(|(_, value)| value);
    own.or_else(|| context.parent.config.environment.get("PATH").map(String::as_str)).unwrap_or_default()
}

/// How often is resolved anew, because packages that were found allow pre-releases of others.
const RESOLUTIONS: usize = 4;
/// Variables of the installers with which they take other packages than the host finds, or build them; without prefixes.
const OTHER_PACKAGES: [&str; 8] = [
    "CONFIG_FILE",
    "DEFAULT_INDEX",
    "EXTRA_INDEX_URL",
    "FIND_LINKS",
    "INDEX",
    "INDEX_URL",
    "NO_BINARY",
    "NO_BINARY_PACKAGE",
];
/// Parts of options with the same effect.
const OTHER_OPTIONS: [&str; 5] = ["-index", "-i ", "-f ", "-r ", "-links"];

/// Flags of every `uv pip install`, which installs for the Python that the PATH names first, as `pip` does.
const UV_FLAGS: &str = "--break-system-packages --compile-bytecode --python \"$(command -v python)\"";

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

/// The Python that the image's PATH names, and its path there: what the base said about it, or else it says itself.
fn named_python(layers: &Stack<StorePath>, context: &StepContext<'_>) -> Result<(Python, String), WheelError> {
    let store = context.workshop.store;
    let path = search_path(context);
    if let Some(python) = &context.parent.facts.python {
        let brought = python.foreign.as_ref().map_or(1, |foreign| foreign.layers);
        let found = lamina_wheels::python_of_base(store, layers, path, brought)?;
        if let Some(found) = found.filter(|found| python.foreign.is_none() || *found == python.interpreter) {
            return Ok((python.clone(), found));
        }
    }
    let found = lamina_wheels::python_of_base(store, layers, path, layers.len())?;
    let found = found.filter(|found| is_named_as_steps_do(found));
    let found = found.ok_or_else(|| WheelError::needs_sandbox("which Python the image's PATH names cannot be told"))?;
    let description = lamina_wheels::describe(&found, layers, None, &context.workshop)?;
    let python =
        description.python.ok_or_else(|| WheelError::needs_sandbox(format!("`{found}` is no usual Python")))?;
    Ok((python, found))
}

/// Whether it is called as the steps call their interpreter: where there is only `python3`, they have something to say.
fn is_named_as_steps_do(interpreter: &str) -> bool {
    interpreter.ends_with("/python")
}

/// What wheels are installed for: a Python under the name that the image's PATH has for it.
fn target(python: &Python, facts: &Facts, interpreter: String) -> Result<Target, WheelError> {
    let foreign = python.foreign.as_ref();
    let libc = foreign.map(|foreign| foreign.libc).or(facts.system.as_ref().map(|system| system.libc));
    Ok(Target {
        python: python.version.clone(),
        is_environment: foreign.is_some_and(|foreign| foreign.is_environment),
        base_interpreter: foreign.map_or(&python.interpreter, |foreign| &foreign.base_interpreter).clone(),
        interpreter,
        site_packages: python.site_packages.clone(),
        scripts: python.scripts.clone(),
        prefix: python.prefix.clone(),
        libc: libc.ok_or_else(|| WheelError::needs_sandbox("the image's C library is not known"))?,
        machine: std::env::consts::ARCH.to_owned(),
    })
}

/// What the Python of an image from elsewhere says about itself, if it has one that its PATH names.
pub(super) fn described(
    views: &Stack<StorePath>,
    path: &str,
    workshop: &Workshop<'_>,
) -> Result<Option<Python>, StepError> {
    let find = || {
        let found = lamina_wheels::python_of_base(workshop.store, views, path, views.len())?;
        let Some(found) = found.filter(|found| is_named_as_steps_do(found)) else { return Ok(None) };
        Ok(lamina_wheels::describe(&found, views, None, workshop)?.python)
    };
    find().map_err(wheel_error)
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

pub(super) fn wheel_error(error: WheelError) -> StepError {
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
