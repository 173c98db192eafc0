//! Finding the wheels: the host's `uv`, told about the image instead of the host, never running anybody's build code.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use fs_err as fs;
use lamina_image::redact;
use lamina_workshop::Workshop;

use crate::error::WheelError;
use crate::lock::{self, Resolution};
use crate::markers;
use crate::request::{Installed, Installer, Request, Target};
use crate::requirement::{self, Allowed};
use crate::tags::{Tags, uv_platform};
use crate::uv::{Program, Resolver, Uv};

/// Longest answer of the resolver: some hundred times that of a large environment.
const ANSWER_LIMIT: u64 = 128 << 20;

/// Finds wheels that meet `request` on `target`, given what the image has; `refresh` asks the index
/// again for everything.
///
/// The result equals what installing inside the image would choose; what the image has stays when it satisfies the
/// request. Index settings of the host apply: `uv`'s own, and pip's where `uv` is not told otherwise.
///
/// # Errors
/// [`WheelError::NeedsSandbox`] when ready-made wheels do not do; [`WheelError::Resolution`] when there is no solution.
pub fn resolve(
    request: &Request,
    target: &Target,
    installed: &[Installed],
    refresh: bool,
    workshop: &Workshop<'_>,
) -> Result<Resolution, WheelError> {
    let uv = host_uv(workshop)?;
    let python = workshop.programs.python.as_deref();
    let python = python.ok_or_else(|| WheelError::needs_sandbox("no Python of this machine is known"))?;
    let cache = workshop.store.layout().uv_cache();
    let program = Program { uv, cache: &cache, cancel: workshop.cancel };
    ask(request, target, installed, &Resolver { program, python, refresh })
}

/// The host's `uv`.
pub(crate) fn host_uv<'a>(workshop: &Workshop<'a>) -> Result<&'a Path, WheelError> {
    let uv = workshop.programs.uv.as_deref();
    uv.ok_or_else(|| WheelError::needs_sandbox("there is no `uv` beside the package"))
}

fn ask(
    request: &Request,
    target: &Target,
    installed: &[Installed],
    resolver: &Resolver<'_>,
) -> Result<Resolution, WheelError> {
    check_request(request)?;
    let installed = &seen(request.installer, target, installed);
    let digests = Digests::of(request)?;
    let platform = uv_platform(target).ok_or_else(|| {
        WheelError::needs_sandbox(format!("no wheel platform is known for `{}` with {:?}", target.machine, target.libc))
    })?;
    fs::create_dir_all(resolver.program.cache)?;
    // Requirements may have credentials in them.
    let scratch = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir()?;
    let output = scratch.path().join("pylock.toml");
    if !installed.is_empty() {
        let versions = installed.iter().map(|one| (one.name.as_str(), one.version.as_str()));
        fs::write(&output, lock::preferences(versions))?;
    }
    let uv = Uv::new(resolver, request, scratch.path())?;
    let mut command = uv.command();
    command.args(["--format", "pylock.toml"]);
    command.args(["--python-version", &target.python, "--python-platform", &platform]);
    command.arg("--output-file").arg(&output);
    if request.pre {
        command.args(["--prerelease", "allow"]);
    }
    for name in pre_releases_of(request, target) {
        command.arg(format!("{PRE_RELEASES}={name}=allow"));
    }
    if resolver.refresh {
        command.arg("--refresh");
    }
    if let Some(file) = uv.configuration()? {
        command.arg("--config-file").arg(file);
    }
    write_sources(request, scratch.path(), &mut command)?;
    tracing::info!(command = redacted(&command), "resolver");
    uv.run(&mut command).map_err(|message| explain(&message, request.installer))??;

    if fs::metadata(&output)?.len() > ANSWER_LIMIT {
        return Err(WheelError::Lock { detail: format!("it is longer than {} MiB", ANSWER_LIMIT >> 20) });
    }
    let wheels = lock::parse(&fs::read_to_string(&output)?, scratch.path(), &Tags::of(target))?;
    let requested = requested_names(request, target);
    let mut resolution = keep_installed(wheels, target, installed)?;
    digests.check(&resolution)?;
    for wheel in &mut resolution.wheels {
        // For `uv`, whatever the resolution has is requested.
        wheel.requested = request.installer == Installer::Uv || wheel.direct || requested.contains(&wheel.name);
    }
    Ok(resolution)
}

/// A command with the variables that were set for it, without credentials of addresses.
fn redacted(command: &Command) -> String {
    let variables =
        command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.display(), value?.display())));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.display().to_string());
    redact(&variables.chain(words).collect::<Vec<_>>().join(" ")).into_owned()
}

/// Options of installers with which something is built from source.
const BUILD_OPTIONS: [&str; 3] = ["--no-binary", "--no-build-isolation", "--config-setting"];

/// Sends to the sandbox what is visibly not a matter of wheels.
fn check_request(request: &Request) -> Result<(), WheelError> {
    if !request.extra_options.trim().is_empty() {
        let reason = format!("the options `{}` are the installer's own", request.extra_options.trim());
        let builds = BUILD_OPTIONS.iter().any(|option| request.extra_options.contains(option));
        return Err(WheelError::NeedsSandbox { reason, builds });
    }
    if let Some(links) = request.find_links.as_deref().filter(|links| !links.contains("://")) {
        return Err(WheelError::needs_sandbox(format!("find_links `{links}` is a path of the image")));
    }
    // `uv` is told of indexes by variables, in which it would take this for several.
    let addresses = [&request.index_url, &request.extra_index_url, &request.find_links].into_iter().flatten();
    if let Some(address) = addresses.into_iter().find(|address| address.contains([' ', '\t', '\n', ','])) {
        return Err(WheelError::needs_sandbox(format!("`{address}` is no single address")));
    }
    let files = request.requirements.iter().flat_map(|file| requirement::lines(&file.contents));
    let constraints = requirement::lines(&request.constraints);
    if let Some(reason) =
        request.packages.iter().cloned().chain(files).find_map(|line| requirement::needs_source(&line))
    {
        return Err(WheelError::needs_building(reason));
    }
    let reason = request
        .packages
        .iter()
        .find_map(|package| requirement::is_no_requirement(package))
        .or_else(|| constraints.iter().find_map(|line| requirement::is_no_plain_constraint(line)))
        .or_else(|| {
            let stated = request.stated().into_iter().find(|line| requirement::asks_for_kernel(line))?;
            Some(format!("`{stated}` depends on the kernel that runs"))
        });
    reason.map_or(Ok(()), |reason| Err(WheelError::needs_sandbox(reason)))
}

/// The SHA-256 digests that the user allows, by normalised name. The resolver passes over them, as it makes a lock.
#[derive(Default)]
struct Digests {
    allowed: HashMap<String, HashSet<String>>,
    /// Whether everything has to have some: to pip, one line with a digest says so.
    for_all: bool,
}

impl Digests {
    fn of(request: &Request) -> Result<Self, WheelError> {
        let mut digests = Self::default();
        let mut without = None;
        let files = request.requirements.iter().flat_map(|file| requirement::lines(&file.contents));
        for line in request.packages.iter().cloned().chain(files) {
            match (requirement::allowed(&line), requirement::name(&line)) {
                (Allowed::Any, _) => without = without.or(Some(line)),
                // Of several lines with one name, each for its environment, the installer takes what all of them allow.
                (Allowed::Only(more), Some(name)) => digests.allowed.entry(name).or_default().extend(more),
                _ => {
                    let reason = format!("the digests of `{line}` are for the installer to compare");
                    return Err(WheelError::needs_sandbox(reason));
                }
            }
        }
        digests.for_all = request.installer == Installer::Pip && !digests.allowed.is_empty();
        match without {
            Some(line) if digests.for_all => {
                Err(WheelError::needs_sandbox(format!("`{line}` has no digest, and others have one")))
            }
            _ => Ok(digests),
        }
    }

    /// Leaves to the installer what has another digest: it has the right message, or another file of the same version.
    fn check(&self, resolution: &Resolution) -> Result<(), WheelError> {
        let is_allowed = |wheel: &lock::Wheel| match self.allowed.get(&wheel.name) {
            Some(allowed) => allowed.contains(&wheel.sha256),
            None => !self.for_all,
        };
        let differs = |wheel: &&lock::Wheel| !is_allowed(wheel);
        match resolution.wheels.iter().find(differs) {
            Some(wheel) => Err(WheelError::needs_sandbox(format!(
                "`{}` has none of the digests that are given for `{}`",
                wheel.filename, wheel.name
            ))),
            None => Ok(()),
        }
    }
}

/// Hands the requirements over as files.
fn write_sources(request: &Request, directory: &Path, command: &mut Command) -> Result<(), WheelError> {
    if !request.packages.is_empty() || request.requirements.is_empty() {
        let file = directory.join("packages.txt");
        fs::write(&file, request.packages.join("\n") + "\n")?;
        command.arg("packages.txt");
    }
    if !request.constraints.is_empty() {
        fs::write(directory.join("constraints.txt"), &request.constraints)?;
        command.args(["--constraint", "constraints.txt"]);
    }
    for (number, requirements) in request.requirements.iter().enumerate() {
        let name = Path::new(&requirements.name).file_name().unwrap_or_default().to_string_lossy().into_owned();
        // A directory each, so that the resolver's messages show the name the user knows.
        let place = format!("requirements-{number}");
        fs::create_dir(directory.join(&place))?;
        let file = format!("{place}/{}", if name.is_empty() { "requirements.txt" } else { &name });
        // pip joins lines first and then takes them apart: a bound may go on in the next line, which `uv` does not take.
        let text = match request.installer {
            Installer::Pip => requirement::lines(&requirements.contents).join("\n") + "\n",
            Installer::Uv => requirements.contents.clone(),
        };
        fs::write(directory.join(&file), text)?;
        command.arg(file);
    }
    Ok(())
}

/// What the resolver says when a source distribution might do, which it cannot build, or when it cannot ask its Python.
const SOURCE_ONLY: [&str; 5] = [
    "Python interpreter",
    "no usable wheels",
    "Wheels are required for",
    "building from source is disabled",
    "Building source distributions",
];

/// Words of the resolver's messages and what to do then; the first that match count.
const HINTS: [(&[&str], &str); 6] = [
    (
        &["was not found in the package registry", "was not found in the provided"],
        "check the spelling, or name the index that has the package with `index_url` or `extra_index_url`",
    ),
    (&["Couldn't parse", "Failed to parse"], "write requirements as `name`, `name==1.2` or `name>=1,<2`"),
    (
        &["Failed to fetch", "error sending request", "dns error", "Request failed", "timed out"],
        "check the network connection and, behind a proxy, HTTPS_PROXY and SSL_CERT_FILE",
    ),
    (
        &[
            "does not satisfy Python",
            "current Python version",
            "matching Python ABI tag",
            "matching Python implementation",
        ],
        "choose another `python_version` for the image, or another version of the package",
    ),
    (&["matching platform tag"], "choose a version that has a wheel for Linux on this processor"),
    (
        &["there is no version of", "are unsatisfiable", "only the following versions", "is available and you require"],
        "ask for versions that exist and agree with each other; pre-releases count only with `pre=True`",
    ),
];

/// What it says of a version that was withdrawn: `pip` takes one that another package pins, and `uv` does not.
const WITHDRAWN: &str = " was yanked";

/// The option with which it takes pre-releases of a package; earlier ones have it not.
const PRE_RELEASES: &str = "--prerelease-package";

/// What it says of an address among the requirements of a package, which `pip` takes.
const INNER_ADDRESS: &str = " was included as a URL dependency";

/// Turns the resolver's message into an error with a remedy.
fn explain(message: &str, installer: Installer) -> WheelError {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let message = message.strip_prefix("error: ").unwrap_or(message).to_owned();
    if let Some(reason) = to_build(&message) {
        return WheelError::needs_building(reason);
    }
    if has(&[PRE_RELEASES]) {
        return WheelError::needs_sandbox("pip may take pre-releases here that this `uv` would not");
    }
    if has(&SOURCE_ONLY) {
        return WheelError::needs_building(message);
    }
    if installer == Installer::Pip && message.contains(WITHDRAWN) {
        return WheelError::needs_sandbox("a version that may be wanted was yanked");
    }
    if installer == Installer::Pip && message.contains(INNER_ADDRESS) {
        return WheelError::needs_building("a package needs another one by its address");
    }
    let hint = HINTS.iter().find(|(words, _)| has(words)).map(|(_, hint)| (*hint).to_owned());
    WheelError::Resolution { message, hint }
}

/// The reason if the resolver wanted to build something.
fn to_build(message: &str) -> Option<String> {
    let (_, rest) =
        ["Failed to build ", "Failed to download and build "].iter().find_map(|words| message.split_once(words))?;
    Some(format!("{} has to be built", rest.lines().next()?))
}

/// What is asked for by name, where its marker holds.
fn requested_names(request: &Request, target: &Target) -> HashSet<String> {
    let files = request.requirements.iter().flat_map(|file| requirement::lines(&file.contents));
    let lines = request.packages.iter().cloned().chain(files).filter(|line| may_hold(line, target));
    lines.filter_map(|line| requirement::name(&line)).collect()
}

/// Whether the marker of a line holds, as far as can be told.
fn may_hold(line: &str, target: &Target) -> bool {
    let marker = line.split_once(';').map(|(_, marker)| marker.split(" --").next().unwrap_or_default().trim());
    marker.and_then(|marker| markers::holds(marker, target)) != Some(false)
}

/// The packages whose pre-releases pip would take: a requirement in which one is a bound allows all. One that is pinned is
/// no matter.
fn pre_releases_of(request: &Request, target: &Target) -> BTreeSet<String> {
    if request.pre || request.installer == Installer::Uv {
        return BTreeSet::new();
    }
    let stated = request.stated().into_iter().filter(|line| {
        requirement::asks_for_pre_release(line) && !requirement::is_pinned(line) && may_hold(line, target)
    });
    stated.filter_map(|line| requirement::name(&line)).chain(request.allowing.iter().cloned()).collect()
}

/// What of the image an installer looks at: pip at all that Python finds, `uv` at where it installs to.
fn seen(installer: Installer, target: &Target, installed: &[Installed]) -> Vec<Installed> {
    let is_seen = |one: &&Installed| installer == Installer::Pip || one.site == target.site_packages;
    installed.iter().filter(is_seen).cloned().collect()
}

/// Takes off what the image already has; a distribution to replace is for the real installer.
fn keep_installed(
    wheels: Vec<lock::Wheel>,
    target: &Target,
    installed: &[Installed],
) -> Result<Resolution, WheelError> {
    let present: HashMap<&str, &Installed> = installed.iter().rev().map(|one| (one.name.as_str(), one)).collect();
    let mut resolution = Resolution::default();
    for wheel in wheels {
        match present.get(wheel.name.as_str()) {
            Some(present) if present.version == wheel.version => {
                resolution.kept.push(format!("{}=={}", wheel.name, wheel.version));
            }
            Some(present) if present.site == target.site_packages => {
                return Err(WheelError::needs_sandbox(format!(
                    "`{}` {} of the image has to be replaced with {}",
                    wheel.name, present.version, wheel.version
                )));
            }
            _ => resolution.wheels.push(wheel),
        }
    }
    Ok(resolution)
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
