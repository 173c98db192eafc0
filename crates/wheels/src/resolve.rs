//! Finding the wheels: the host's `uv`, told about the image instead of the host, never running anybody's build code.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::{Command, Stdio};

use fs_err as fs;
use lamina_events::CancelToken;

use crate::error::WheelError;
use crate::lock::{self, Resolution};
use crate::request::{Installed, Installer, Request, Target};
use crate::requirement;
use crate::settings::{PipSettings, has_uv_configuration};
use crate::tags::{Tags, uv_platform};

/// What resolving needs beside the question itself.
#[derive(Debug, Clone, Copy)]
pub struct Resolver<'a> {
    /// The `uv` program.
    pub uv: &'a Path,
    /// A directory for its cache, which is the engine's own.
    pub cache: &'a Path,
    /// Whether to ask the index again for everything.
    pub refresh: bool,
    /// Stops the resolver.
    pub cancel: &'a CancelToken,
}

/// Finds wheels that meet `request` on `target`, given what the image has.
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
    resolver: &Resolver<'_>,
) -> Result<Resolution, WheelError> {
    check_request(request)?;
    let platform = uv_platform(target).ok_or_else(|| {
        WheelError::needs_sandbox(format!(
            "no wheel platform is known for `{}` with glibc {:?}",
            target.machine, target.glibc
        ))
    })?;
    fs::create_dir_all(resolver.cache)?;
    let scratch = tempfile::tempdir()?;
    let output = scratch.path().join("pylock.toml");
    if !installed.is_empty() {
        let versions = installed.iter().map(|one| (one.name.as_str(), one.version.as_str()));
        fs::write(&output, lock::preferences(versions))?;
    }
    let settings = Settings::new(request);

    let mut command = settings.command(resolver, scratch.path());
    command.args(["--format", "pylock.toml", "--only-binary", ":all:"]);
    command.args(["--python-version", &target.python, "--python-platform", &platform]);
    command.arg("--output-file").arg(&output);
    if request.pre {
        command.args(["--prerelease", "allow"]);
    }
    if resolver.refresh {
        command.arg("--refresh");
    }
    if let Some(file) = settings.caching_configuration(resolver, scratch.path())? {
        command.arg("--config-file").arg(file);
    }
    write_sources(request, scratch.path(), &mut command)?;
    run(&mut command, resolver).map_err(|message| explain(message, request))??;

    let wheels = lock::parse(&fs::read_to_string(&output)?, scratch.path(), &Tags::of(target))?;
    let requested = requested_names(request);
    let mut resolution = keep_installed(wheels, target, installed)?;
    for wheel in &mut resolution.wheels {
        wheel.requested = wheel.direct || requested.contains(&wheel.name);
    }
    Ok(resolution)
}

/// Sends to the sandbox what is visibly not a matter of wheels.
fn check_request(request: &Request) -> Result<(), WheelError> {
    if !request.extra_options.trim().is_empty() {
        let reason = format!("the options `{}` are the installer's own", request.extra_options.trim());
        return Err(WheelError::needs_sandbox(reason));
    }
    if let Some(links) = request.find_links.as_deref().filter(|links| !links.contains("://")) {
        return Err(WheelError::needs_sandbox(format!(
            "find_links `{links}` is a path of the image"
        )));
    }
    let files = request
        .requirements
        .iter()
        .flat_map(|file| requirement::lines(&file.contents));
    match request
        .packages
        .iter()
        .cloned()
        .chain(files)
        .find_map(|line| requirement::needs_source(&line))
    {
        Some(reason) => Err(WheelError::needs_sandbox(reason)),
        None => Ok(()),
    }
}

/// Index options, from the request and then the host.
struct Settings {
    arguments: Vec<String>,
    certificates: Option<String>,
}

impl Settings {
    fn new(request: &Request) -> Self {
        let pip = PipSettings::of_host();
        let configured = has_uv_configuration();
        let unset = |names: [&str; 2]| !configured && names.iter().all(|name| std::env::var_os(name).is_none());
        let mut arguments = Vec::new();
        let mut add = |flag: &str, value: &str| arguments.extend([flag.to_owned(), value.to_owned()]);
        let host_index = pip
            .index_url
            .as_deref()
            .filter(|_| unset(["UV_DEFAULT_INDEX", "UV_INDEX_URL"]));
        if let Some(url) = request.index_url.as_deref().or(host_index) {
            add("--index-url", url);
        }
        if let Some(url) = &request.extra_index_url {
            add("--extra-index-url", url);
        }
        if unset(["UV_INDEX", "UV_EXTRA_INDEX_URL"]) {
            pip.extra_index_urls
                .iter()
                .for_each(|url| add("--extra-index-url", url));
        }
        if let Some(links) = &request.find_links {
            add("--find-links", links);
        }
        pip.usable_find_links().for_each(|links| add("--find-links", links));
        pip.trusted_hosts
            .iter()
            .for_each(|host| add("--allow-insecure-host", host));
        if request.installer == Installer::Pip {
            // pip takes the best version of all indexes; `uv` would stop at the first index that knows the name.
            add("--index-strategy", "unsafe-best-match");
        }
        if pip.no_index && request.index_url.is_none() {
            arguments.push("--no-index".to_owned());
        }
        Self {
            arguments,
            certificates: pip.certificates,
        }
    }

    /// `uv pip compile` with what every call shares. It runs in `directory`, so that no project's settings apply.
    fn command(&self, resolver: &Resolver<'_>, directory: &Path) -> Command {
        let mut command = Command::new(resolver.uv);
        command
            .args([
                "pip",
                "compile",
                "--quiet",
                "--no-header",
                "--color",
                "never",
                "--cache-dir",
            ])
            .arg(resolver.cache);
        command.args(&self.arguments).current_dir(directory);
        command.env("UV_PYTHON_DOWNLOADS", "never");
        if std::env::var_os("UV_SYSTEM_CERTS").is_none() {
            command.env("UV_SYSTEM_CERTS", "1");
        }
        if let Some(certificates) = &self.certificates
            && std::env::var_os("SSL_CERT_FILE").is_none()
        {
            command.env("SSL_CERT_FILE", certificates);
        }
        command
    }

    /// Writes a configuration that lets index pages be reused for ten minutes and files for ever, whatever headers the
    /// index or a mirror sends; the default index of many installations says just that. `None` if the user has a
    /// configuration, or credentials in the address, which must not be copied.
    fn caching_configuration(
        &self,
        resolver: &Resolver<'_>,
        directory: &Path,
    ) -> Result<Option<std::path::PathBuf>, WheelError> {
        if has_uv_configuration() {
            return Ok(None);
        }
        let mut command = self.command(resolver, directory);
        command.args(["--emit-index-url", "--offline", "-"]);
        // Only an optimisation: on failure the resolver itself has the better message.
        let Ok(Ok(text)) = run(&mut command, resolver) else {
            return Ok(None);
        };
        let Some(url) = text.lines().find_map(|line| line.strip_prefix("--index-url ")) else {
            return Ok(None);
        };
        if url.contains('@') {
            return Ok(None);
        }
        let url = lock::quoted(url.trim());
        let file = directory.join("uv.toml");
        fs::write(
            &file,
            format!(
                "[[index]]\nurl = {url}\ndefault = true\ncache-control = {{ api = \"max-age=600\", files = \"max-age=31536000, immutable\" }}\n"
            ),
        )?;
        Ok(Some(file))
    }
}

/// Hands the requirements over as files.
fn write_sources(request: &Request, directory: &Path, command: &mut Command) -> Result<(), WheelError> {
    if !request.packages.is_empty() || request.requirements.is_empty() {
        let file = directory.join("packages.txt");
        fs::write(&file, request.packages.join("\n") + "\n")?;
        command.arg("packages.txt");
    }
    for (number, requirements) in request.requirements.iter().enumerate() {
        let name = Path::new(&requirements.name)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // A directory each, so that the resolver's messages show the name the user knows.
        let place = format!("requirements-{number}");
        fs::create_dir(directory.join(&place))?;
        let file = format!("{place}/{}", if name.is_empty() { "requirements.txt" } else { &name });
        fs::write(directory.join(&file), &requirements.contents)?;
        command.arg(file);
    }
    Ok(())
}

/// Runs the resolver to its end. The outer error is its message, the inner one that it could not be run.
fn run(command: &mut Command, resolver: &Resolver<'_>) -> Result<Result<String, WheelError>, String> {
    let unstarted = |error| {
        Ok(Err(WheelError::Resolver {
            path: resolver.uv.display().to_string(),
            error,
        }))
    };
    let child = match command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(error) => return unstarted(error),
    };
    let pid = rustix::process::Pid::from_child(&child);
    let guard = resolver.cancel.on_cancel(move || {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    });
    let output = child.wait_with_output();
    drop(guard);
    if let Err(cancelled) = resolver.cancel.check() {
        return Ok(Err(cancelled.into()));
    }
    match output {
        Err(error) => unstarted(error),
        Ok(output) if output.status.success() => Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned())),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Turns the resolver's message into an error with a remedy.
fn explain(message: String, request: &Request) -> WheelError {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&[
        "no usable wheels",
        "no wheels",
        "Wheels are required for",
        "building from source is disabled",
    ]) {
        return WheelError::NeedsSandbox { reason: message };
    }
    let remedy = if has(&["was not found in the package registry", "was not found in the provided"]) {
        Some("check the spelling, or name the index that has the package with `index_url` or `extra_index_url`")
    } else if has(&["Couldn't parse", "Failed to parse"]) {
        Some("write requirements as `name`, `name==1.2` or `name>=1,<2`")
    } else if has(&["does not satisfy Python", "current Python version"]) {
        Some("choose another `python_version` for the image, or another version of the package")
    } else if has(&[
        "there is no version of",
        "requirements are unsatisfiable",
        "only the following versions",
    ]) {
        Some(if request.pre {
            "ask for versions that exist and agree with each other"
        } else {
            "ask for versions that exist and agree with each other; pre-releases count only with `pre=True`"
        })
    } else if has(&[
        "Failed to fetch",
        "error sending request",
        "dns error",
        "Request failed",
        "timed out",
        "connect",
    ]) {
        Some("check the network connection and, behind a proxy, HTTPS_PROXY and SSL_CERT_FILE")
    } else {
        None
    };
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    WheelError::Resolution {
        message,
        remedy: remedy.map(str::to_owned),
    }
}

fn requested_names(request: &Request) -> HashSet<String> {
    let files = request
        .requirements
        .iter()
        .flat_map(|file| requirement::lines(&file.contents));
    request
        .packages
        .iter()
        .cloned()
        .chain(files)
        .filter_map(|line| requirement::name(&line))
        .collect()
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
