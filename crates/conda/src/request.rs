//! What is asked for, and what the image's system is to packages.

use std::collections::BTreeMap;

use lamina_image::{Libc, System};
use rattler_conda_types::{GenericVirtualPackage, Subdir};

use crate::{CondaError, SpecFile};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Specifications of packages.
    pub packages: Vec<String>,
    /// Specifications of packages that are only installed where a channel has them and they fit.
    pub optional: Vec<String>,
    /// A file with more of them.
    pub file: Option<SpecFile>,
    /// Channels, the strongest first.
    pub channels: Vec<String>,
    /// Whether indexes that are kept are fetched anew.
    pub refresh: bool,
}

/// What packages may demand of the system that they are installed on.
#[derive(Debug, Clone, Copy)]
pub struct VirtualSystem<'a> {
    /// The image's operating system.
    pub system: Option<&'a System>,
    /// The version of CUDA that the driver of the step's GPUs supports, if it has any.
    pub cuda: Option<&'a str>,
    /// The step's variables: `CONDA_OVERRIDE_CUDA` and the like say what is not there yet.
    pub variables: &'a BTreeMap<String, String>,
}

impl VirtualSystem<'_> {
    /// The packages that stand for it.
    pub(crate) fn packages(&self) -> Vec<GenericVirtualPackage> {
        let kernel = rustix::system::uname();
        let release = kernel.release().to_string_lossy().into_owned();
        let glibc = self.system.and_then(|system| match system.libc {
            Libc::Glibc(major, minor) => Some(format!("{major}.{minor}")),
            Libc::Musl(..) => None,
        });
        let known = [
            ("__unix", Some("0".to_owned()), None),
            ("__linux", Some(leading_numbers(&release)), None),
            ("__glibc", glibc, Some("CONDA_OVERRIDE_GLIBC")),
            ("__cuda", self.cuda.map(str::to_owned), Some("CONDA_OVERRIDE_CUDA")),
            ("__archspec", Some("1".to_owned()), Some("CONDA_OVERRIDE_ARCHSPEC")),
        ];
        known.into_iter().filter_map(|(name, version, variable)| self.package(name, version, variable)).collect()
    }

    fn package(&self, name: &str, version: Option<String>, variable: Option<&str>) -> Option<GenericVirtualPackage> {
        let said = variable.and_then(|variable| self.variables.get(variable)).map(|value| value.trim());
        let is_processor = name == "__archspec";
        let build = if is_processor { said.unwrap_or(std::env::consts::ARCH) } else { "0" };
        let version = match said {
            Some("") => return None,
            Some(said) if !is_processor => said.to_owned(),
            _ => version?,
        };
        let (name, version) = (name.parse().ok()?, version.parse().ok()?);
        Some(GenericVirtualPackage { name, version, build_string: build.parse().ok()? })
    }
}

/// The version numbers that a kernel's release begins with: `6.1.0-18-amd64` has `6.1.0`.
fn leading_numbers(release: &str) -> String {
    let end = release.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(release.len());
    release[..end].trim_end_matches('.').to_owned()
}

/// The platforms whose packages this machine takes: its own and that of all.
pub(crate) fn subdirs() -> Result<[Subdir; 2], CondaError> {
    let own = Subdir::current().ok_or_else(|| CondaError::Processor(std::env::consts::ARCH.to_owned()))?;
    Ok([own, Subdir::NoArch])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_that_of_the_image_unless_a_variable_says_otherwise() {
        let system = System { family: "debian".into(), release: "bookworm".into(), libc: Libc::Glibc(2, 36) };
        let shown = |variables: &[(&str, &str)], cuda| {
            let variables: BTreeMap<_, _> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let packages = VirtualSystem { system: Some(&system), cuda, variables: &variables }.packages();
            packages.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let plain = shown(&[], None);
        assert!(plain.contains("__unix=0=0") && plain.contains("__glibc=2.36=0"), "{plain}");
        assert!(plain.contains("__archspec=1=x86_64") || plain.contains("__archspec=1=aarch64"), "{plain}");
        assert!(!plain.contains("__cuda"), "{plain}");
        let told = shown(&[("CONDA_OVERRIDE_CUDA", "12.4"), ("CONDA_OVERRIDE_GLIBC", "")], Some("12.2"));
        assert!(shown(&[], Some("12.2")).contains("__cuda=12.2=0"));
        assert!(!shown(&[("CONDA_OVERRIDE_CUDA", "")], Some("12.2")).contains("__cuda"));
        assert!(told.contains("__cuda=12.4=0") && !told.contains("__glibc"), "{told}");
        assert_eq!(leading_numbers("6.1.0-18-amd64"), "6.1.0");
    }
}
