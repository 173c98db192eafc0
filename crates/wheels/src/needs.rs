//! What wheels need, where the resolver takes it otherwise than an installer inside the image.
//!
//! To pip, a requirement that names a pre-release has pre-releases allowed, whoever states it, and no other one has; to the
//! resolver it does so only where the user states it, and it takes one where nothing else does. And markers about the running
//! kernel are false to the resolver, which is told of another platform than its own.

use std::collections::HashSet;
use std::io::Read;
use std::os::fd::OwnedFd;

use lamina_packages::MISSING;
use lamina_store::{Job, JobError, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::error::WheelError;
use crate::lock::Wheel;
use crate::manifest::{Manifest, descriptions, manifest_name};
use crate::markers;
use crate::request::{Installer, Request, Target};
use crate::requirement::{self, asks_for_kernel, asks_for_pre_release, is_pre_release, specifiers};

/// Longest metadata that is read.
const METADATA_LIMIT: u64 = 16 << 20;

/// Reads what unpacked wheels need, as far as it may be taken in two ways.
#[derive(Serialize, Deserialize)]
pub(crate) struct ReadNeeds {
    /// The wheels' names and digests.
    pub(crate) wheels: Vec<(String, String)>,
    /// Names of which everything counts.
    pub(crate) names: HashSet<String>,
}

/// A requirement of a wheel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Need {
    /// The wheel's name.
    pub(crate) wheel: String,
    /// The requirement as its metadata has it.
    pub(crate) requirement: String,
}

impl Job for ReadNeeds {
    const NAME: &'static str = "wheels.read-needs";
    type Output = Vec<Need>;

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Vec<Need>, JobError> {
        let mut needs = Vec::new();
        for (wheel, sha256) in &self.wheels {
            let text = metadata(context, wheel, sha256)?;
            let found = requirements(&text).filter(|requirement| {
                let is_named = requirement::name(requirement).is_some_and(|name| self.names.contains(&name));
                is_named || asks_for_kernel(requirement) || asks_for_pre_release(requirement)
            });
            needs.extend(found.map(|requirement| Need { wheel: wheel.clone(), requirement: requirement.to_owned() }));
        }
        Ok(needs)
    }
}

/// The metadata of an unpacked wheel.
fn metadata(context: &WorkerContext, wheel: &str, sha256: &str) -> Result<String, JobError> {
    let missing = || JobError::new(MISSING, format!("`{wheel}` is not unpacked"));
    let manifest: Manifest = descriptions(context).load(&manifest_name(sha256))?.ok_or_else(missing)?;
    let path = format!("{}/METADATA", manifest.dist_info);
    let Some(file) = manifest.files.iter().find(|file| file.path == path) else { return Ok(String::new()) };
    let object = context.open_object(&file.digest).map_err(|_| missing())?;
    let mut bytes = Vec::new();
    object.take(METADATA_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The requirements that metadata states in its header.
fn requirements(metadata: &str) -> impl Iterator<Item = &str> {
    let header = metadata.lines().take_while(|line| !line.trim().is_empty());
    header.filter_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case("Requires-Dist").then(|| value.trim())
    })
}

/// What has to be read to compare a resolution with what the installer would do.
pub(crate) fn reading(wheels: &[&Wheel]) -> ReadNeeds {
    let early = wheels.iter().filter(|wheel| is_pre_release(&wheel.version));
    ReadNeeds {
        wheels: wheels.iter().map(|wheel| (wheel.name.clone(), wheel.sha256.clone())).collect(),
        names: early.map(|wheel| wheel.name.clone()).collect(),
    }
}

/// Compares a resolution with what the installer would do.
///
/// # Errors
/// [`WheelError::PreReleases`] with names whose pre-releases packages allow, if the resolver is to know of them;
/// [`WheelError::NeedsSandbox`] where only the installer can say.
pub(crate) fn check(needs: &[Need], wheels: &[&Wheel], request: &Request, target: &Target) -> Result<(), WheelError> {
    let needs: Vec<&Need> = needs
        .iter()
        .filter(|need| {
            let marker = need.requirement.split_once(';').map(|(_, marker)| marker.trim());
            marker.and_then(|marker| markers::holds(marker, target)) != Some(false)
        })
        .collect();
    if let Some(need) = needs.iter().find(|need| asks_for_kernel(&need.requirement)) {
        let reason = format!("what `{}` needs depends on the kernel that runs: `{}`", need.wheel, need.requirement);
        return Err(WheelError::needs_sandbox(reason));
    }
    if request.installer == Installer::Uv || request.pre {
        return Ok(());
    }
    let stated = request.stated();
    let asks = |name: &String| {
        let lines = stated.iter().chain(needs.iter().map(|need| &need.requirement));
        lines.into_iter().any(|line| requirement::name(line).as_ref() == Some(name) && asks_for_pre_release(line))
    };
    if let Some(name) = request.allowing.iter().find(|name| !asks(name)) {
        return Err(WheelError::needs_sandbox(format!(
            "with pre-releases of `{name}`, nothing asks for them any more"
        )));
    }
    let mut allowed = Vec::new();
    for wheel in wheels.iter().filter(|wheel| !wheel.direct && !request.allowing.contains(&wheel.name)) {
        allowed.extend(pre_releases(wheel, &stated, &needs)?);
    }
    if allowed.is_empty() { Ok(()) } else { Err(WheelError::PreReleases { allowed }) }
}

/// The name of a wheel that nobody named by its address, if pip may take pre-releases of it and the resolver did not.
fn pre_releases(wheel: &Wheel, stated: &[String], needs: &[&Need]) -> Result<Option<String>, WheelError> {
    let is_about = |requirement: &str| requirement::name(requirement).is_some_and(|name| name == wheel.name);
    let stated: Vec<&String> = stated.iter().filter(|requirement| is_about(requirement)).collect();
    if stated.iter().any(|requirement| asks_for_pre_release(requirement)) {
        return Ok(None);
    }
    let needs: Vec<&&Need> = needs.iter().filter(|need| is_about(&need.requirement)).collect();
    let asking = needs.iter().find(|need| asks_for_pre_release(&need.requirement));
    match asking {
        // Whether an extra is wanted is not known here.
        Some(need) if !is_pre_release(&wheel.version) && need.requirement.contains("extra") => {
            let (name, requirement) = (&need.wheel, &need.requirement);
            Err(WheelError::needs_sandbox(format!("`{name}` lets pip take pre-releases: it needs `{requirement}`")))
        }
        Some(_) if !is_pre_release(&wheel.version) => Ok(Some(wheel.name.clone())),
        None if is_pre_release(&wheel.version) => {
            let requirements = stated.into_iter().chain(needs.iter().map(|need| &need.requirement));
            match requirements.into_iter().find(|requirement| !specifiers(requirement).is_empty()) {
                Some(bounded) => Err(WheelError::needs_sandbox(format!(
                    "only pre-releases of `{}` meet `{bounded}`, of which pip takes none",
                    wheel.name
                ))),
                None => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Source;
    use crate::tests::target;

    fn wheel(name: &str, version: &str) -> Wheel {
        Wheel {
            name: name.to_owned(),
            version: version.to_owned(),
            filename: format!("{name}-{version}-py3-none-any.whl"),
            source: Source::Url("https://files.invalid/".to_owned()),
            sha256: String::new(),
            size: None,
            requested: false,
            direct: false,
        }
    }

    fn says(installer: Installer, stated: &str, version: &str, needed: &str) -> String {
        let request = Request { packages: vec![stated.to_owned()], installer, ..Request::default() };
        let need = Need { wheel: "other".to_owned(), requirement: needed.to_owned() };
        match check(&[need], &[&wheel("demo", version)], &request, &target()) {
            Ok(()) => String::new(),
            Err(WheelError::PreReleases { allowed }) => format!("allowed: {allowed:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn pre_releases_are_those_that_pip_would_take() {
        let pip = |stated, version, needed| says(Installer::Pip, stated, version, needed);
        insta::assert_snapshot!(pip("other", "2.0", "demo>=1.0b1; python_version > '3'"), @r#"allowed: ["demo"]"#);
        insta::assert_snapshot!(pip("other", "2.0", "demo>=1.0b1; extra == 'x'"), @"`other` lets pip take pre-releases: it needs `demo>=1.0b1; extra == 'x'`");
        insta::assert_snapshot!(pip("other", "3.0b1", "demo>2.0"), @"only pre-releases of `demo` meet `demo>2.0`, of which pip takes none");
        for (stated, version, needed) in [
            ("other", "2.0", "demo>=1"),
            ("other", "2.0", "demo<3.0.dev0"),
            ("other", "3.0b1", "demo"),
            ("other", "3.0b1", "demo>=3.0b1"),
            ("other", "2.0", "demo>=1.0b1; python_version < '3'"),
            ("other", "2.0", "another>=1.0b1"),
            ("demo>=1.0rc1", "2.0", "demo>=1.0b1"),
        ] {
            assert_eq!(pip(stated, version, needed), "", "{stated} {version} {needed}");
        }
        assert_eq!(says(Installer::Uv, "other", "2.0", "demo>=1.0b1"), "");
    }

    #[test]
    fn what_the_resolver_was_told_has_to_hold_still() {
        let need = |requirement: &str| Need { wheel: "other".to_owned(), requirement: requirement.to_owned() };
        let request = Request { allowing: vec!["demo".to_owned()], ..Request::default() };
        let check = |need: Need| check(&[need], &[&wheel("demo", "2.0")], &request, &target());
        assert!(check(need("demo>=1.0b1; python_version > '3'")).is_ok());
        assert!(matches!(check(need("demo>=1.0")), Err(WheelError::NeedsSandbox { .. })));
    }

    #[test]
    fn what_the_kernel_decides_is_not_told_here() {
        let uv = |needed| says(Installer::Uv, "other", "2.0", needed);
        insta::assert_snapshot!(uv("demo; platform_release >= '6'"), @"what `other` needs depends on the kernel that runs: `demo; platform_release >= '6'`");
        assert!(!uv("more; 'PREEMPT' in platform_version").is_empty());
        assert_eq!(uv("demo; sys_platform == 'linux'"), "");
    }

    #[test]
    fn requirements_stand_in_the_header() {
        let metadata = "Metadata-Version: 2.1\nName: demo\nRequires-Dist: a>=1\nrequires-dist:b\n\nRequires-Dist: c\n";
        assert_eq!(requirements(metadata).collect::<Vec<_>>(), ["a>=1", "b"]);
    }
}
