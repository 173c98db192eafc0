//! What is asked for, and where it goes.

use std::path::Path;

use lamina_image::Libc;
use serde::{Deserialize, Serialize};

use crate::requirement;

/// Packages to install, as the declaration names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Requirement specifiers, for example `pandas>=2`.
    pub packages: Vec<String>,
    /// Requirements files.
    pub requirements: Vec<RequirementsFile>,
    /// What the requirements files constrain (`-c`): text in their own form, which asks for nothing by itself.
    pub constraints: String,
    /// Names of packages whose pre-releases others let pip take.
    pub allowing: Vec<String>,
    /// A page or directory with further distributions.
    pub find_links: Option<String>,
    /// The package index instead of the configured one.
    pub index_url: Option<String>,
    /// A further package index.
    pub extra_index_url: Option<String>,
    /// Whether pre-releases are acceptable.
    pub pre: bool,
    /// Further command-line options of the installer, as one string.
    pub extra_options: String,
    /// The installer whose semantics apply.
    pub installer: Installer,
}

impl Request {
    /// All lines that say something about a version: packages, requirements files and constraints.
    pub(crate) fn stated(&self) -> Vec<String> {
        let files = self.requirements.iter().flat_map(|file| requirement::lines(&file.contents));
        self.packages.iter().cloned().chain(files).chain(requirement::lines(&self.constraints)).collect()
    }

    /// Whether its requirements files name the index to use, which then is the only one.
    #[must_use]
    pub fn requirements_name_index(&self) -> bool {
        let mut lines = self.requirements.iter().flat_map(|file| requirement::lines(&file.contents));
        lines.any(|line| requirement::names_index(&line))
    }
}

/// A requirements file, read by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequirementsFile {
    /// The file's name as messages show it.
    pub name: String,
    /// Its text.
    pub contents: String,
}

/// The installer that the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Installer {
    /// `pip install`.
    #[default]
    Pip,
    /// `uv pip install`.
    Uv,
}

impl Installer {
    /// What it writes to a distribution's `INSTALLER`, to the byte.
    pub(crate) fn signature(self) -> &'static str {
        match self {
            Self::Pip => "pip\n",
            Self::Uv => "uv",
        }
    }
}

/// The interpreter that packages are installed for. All paths are absolute, as seen inside the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The interpreter's version, `3.11` or `3.11.2`.
    pub python: String,
    /// The interpreter, as script headers name it: as the image's PATH does, or in a virtual environment.
    pub interpreter: String,
    /// The interpreter that it leads to.
    pub base_interpreter: String,
    /// Whether packages go to a virtual environment.
    pub is_environment: bool,
    /// Where modules go, for example `/usr/local/lib/python3.11/dist-packages`.
    pub site_packages: String,
    /// Where scripts go, for example `/usr/local/bin`.
    pub scripts: String,
    /// The prefix that data files go below, for example `/usr/local`.
    pub prefix: String,
    /// The image's C library; it decides which binary wheels can be loaded.
    pub libc: Libc,
    /// The machine, `x86_64` or `aarch64`.
    pub machine: String,
}

impl Target {
    /// The first two parts of the version, as numbers; `None` if it has another form.
    #[must_use]
    pub fn python_minor(&self) -> Option<(u32, u32)> {
        let mut parts = self.python.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// A virtual environment of the same interpreter, laid out as `uv` does it.
    #[must_use]
    pub fn in_environment(&self, root: &str) -> Self {
        let (major, minor) = self.python_minor().unwrap_or_default();
        Self {
            interpreter: format!("{root}/bin/python"),
            site_packages: format!("{root}/lib/python{major}.{minor}/site-packages"),
            scripts: format!("{root}/bin"),
            prefix: root.to_owned(),
            is_environment: true,
            ..self.clone()
        }
    }

    /// The prefix of the interpreter itself: on Debian it is another one than packages have.
    pub(crate) fn base_prefix(&self) -> &str {
        let prefix = Path::new(&self.base_interpreter).parent().and_then(Path::parent);
        prefix.and_then(Path::to_str).unwrap_or("/usr").trim_end_matches('/')
    }
}

/// A distribution that an image already has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Its name, normalised (`typing-extensions`).
    pub name: String,
    /// Its version.
    pub version: String,
    /// The directory that holds its metadata, as seen inside the image.
    pub site: String,
}

/// The normalised form of a distribution name: lower case, runs of `-`, `_` and `.` become `-`.
#[must_use]
pub fn normalize_name(name: &str) -> String {
    let mut normalized = String::with_capacity(name.len());
    for character in name.chars() {
        if matches!(character, '-' | '_' | '.') {
            if !normalized.ends_with('-') {
                normalized.push('-');
            }
        } else {
            normalized.extend(character.to_lowercase());
        }
    }
    normalized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_normal_form() {
        assert_eq!(normalize_name("Typing_.Extensions"), "typing-extensions");
    }
}
