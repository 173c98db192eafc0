//! Where this machine gets conda packages from: a variable, and its conda's and mamba's own configuration.
//!
//! Only what is like a mirror counts. Which channels an image takes is its declaration's business.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lamina_ground::EnvVars;
use serde::Deserialize;
use url::Url;

use crate::CondaError;
use crate::channels::DEFAULTS;

/// Where channels are found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// What names of channels are below; `None` is the public server.
    pub(crate) alias: Option<Url>,
    /// Channels whose names are below another address.
    pub(crate) custom: BTreeMap<String, Url>,
    /// Channels that have mirrors, the first to ask first.
    pub(crate) mirrors: BTreeMap<String, Vec<Url>>,
}

/// The variables of a process.
type Environment<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// The parts of a configuration file that matter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    channel_alias: Option<String>,
    default_channels: Vec<String>,
    custom_channels: BTreeMap<String, String>,
    mirrored_channels: BTreeMap<String, Vec<String>>,
}

impl Settings {
    /// Reads the settings of this machine: `MODAL_CONDA_CHANNEL_ALIAS`, then the variables and files that conda and mamba read.
    ///
    /// # Errors
    /// When one of them cannot be understood.
    pub fn of_host() -> Result<Self, CondaError> {
        Self::of(&|name| std::env::var_os(name), Path::new("/"))
    }

    /// [`Self::of_host`] with another environment and another root directory.
    fn of(environment: &Environment<'_>, root: &Path) -> Result<Self, CondaError> {
        let mut settings = Self::default();
        for path in files(environment, root) {
            let text = match fs_err::read_to_string(&path) {
                Ok(text) => text,
                Err(error)
                    if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                Err(error) => return Err(unusable(&path.display(), &error)),
            };
            settings.add(&text, &format!("`{}`", path.display()), environment)?;
        }
        let given = |name: &str| {
            let value = environment(name).map(|value| value.to_string_lossy().trim().to_owned());
            value.filter(|value| !value.is_empty())
        };
        for name in ["CONDA_CHANNEL_ALIAS", "MAMBA_CHANNEL_ALIAS"] {
            if let Some(alias) = given(name) {
                settings.alias = Some(address(&alias, name)?);
            }
        }
        if let Some(alias) = given(EnvVars::MODAL_CONDA_CHANNEL_ALIAS) {
            settings.alias = Some(address(&alias, EnvVars::MODAL_CONDA_CHANNEL_ALIAS)?);
            settings.custom.clear();
            settings.mirrors.clear();
        }
        Ok(settings)
    }

    /// Adds what a file says; it knows better than those before it.
    fn add(&mut self, text: &str, origin: &str, environment: &Environment<'_>) -> Result<(), CondaError> {
        let address = |text: &str, origin: &str| address(&with_variables(text, environment), origin);
        // A file of nothing but comments is null.
        let file: Option<File> = serde_yaml::from_str(text).map_err(|error| unusable(&origin, &error))?;
        let File { channel_alias, default_channels, custom_channels, mirrored_channels } = file.unwrap_or_default();
        if let Some(alias) = channel_alias {
            self.alias = Some(address(&alias, origin)?);
        }
        for channel in &default_channels {
            // What is no address is a name, which leads where names do.
            let Ok(mirror) = address(channel, origin) else { continue };
            let name =
                mirror.path_segments().and_then(|parts| parts.rev().find(|part| !part.is_empty()).map(str::to_owned));
            if let Some(name) = name.filter(|name| DEFAULTS.contains(&&**name)) {
                self.mirrors.insert(name, vec![mirror]);
            }
        }
        for (name, base) in custom_channels {
            self.custom.insert(name, address(&base, origin)?);
        }
        for (name, mirrors) in mirrored_channels {
            let mirrors = mirrors.iter().map(|mirror| address(mirror, origin)).collect::<Result<Vec<_>, _>>()?;
            if !mirrors.is_empty() {
                self.mirrors.insert(name, mirrors);
            }
        }
        Ok(())
    }
}

/// A text in which `$NAME` and `${NAME}` stand for variables, as in the files of conda; what is not set stays as it is written.
fn with_variables(text: &str, environment: &Environment<'_>) -> String {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        let braced =
            rest.strip_prefix("${").and_then(|after| after.split_once('}')).map(|(name, _)| (name, name.len() + 3));
        let (name, length) = braced.unwrap_or_else(|| {
            let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
            let end = rest[1..].find(|letter| !is_letter(letter)).map_or(rest.len(), |end| end + 1);
            (&rest[1..end], end)
        });
        match environment(name).filter(|_| !name.is_empty()) {
            Some(value) => expanded.push_str(&value.to_string_lossy()),
            None => expanded.push_str(&rest[..length]),
        }
        rest = &rest[length..];
    }
    expanded + rest
}

/// The files that conda and mamba read, the later the stronger.
fn files(environment: &Environment<'_>, root: &Path) -> Vec<PathBuf> {
    let mut files =
        vec![root.join("etc/conda/.condarc"), root.join("etc/conda/condarc"), root.join("var/lib/conda/.condarc")];
    if let Some(home) = environment("HOME").map(PathBuf::from) {
        let configuration = environment("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
        files.extend([configuration.join("conda/.condarc"), configuration.join("conda/condarc")]);
        files.extend([".conda/.condarc", ".conda/condarc", ".condarc", ".mambarc"].map(|name| home.join(name)));
    }
    files.extend(["CONDARC", "MAMBARC"].into_iter().filter_map(environment).map(PathBuf::from));
    files
}

fn address(text: &str, origin: &str) -> Result<Url, CondaError> {
    let text = text.trim();
    let mut url = Url::parse(text).map_err(|error| unusable(&origin, &format!("`{text}` is no address: {error}")))?;
    if !matches!(url.scheme(), "http" | "https" | "file") {
        return Err(unusable(&origin, &format!("`{text}` is no `https://`, `http://` or `file://` address")));
    }
    // Names are joined to a directory.
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

fn unusable(origin: &dyn std::fmt::Display, reason: &dyn std::fmt::Display) -> CondaError {
    CondaError::Settings { origin: origin.to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)], root: &Path) -> Result<Settings, String> {
        let environment =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        Settings::of(&environment, root).map_err(|error| error.to_string())
    }

    #[test]
    fn later_files_win_and_the_variable_most() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        };
        write("etc/conda/.condarc", "# nothing\n");
        write("home/.condarc", "channel_alias: https://one.invalid/conda\nchannels: [other]\nssl_verify: true\n");
        write(
            "home/.mambarc",
            "custom_channels: {lab: 'file:///srv/conda'}\nmirrored_channels:\n  conda-forge: ['https://m.invalid/f', 'https://n.invalid']\n",
        );
        let home = root.path().join("home");
        let variables = [("HOME", home.to_str().unwrap())];
        let settings = of(&variables, root.path()).unwrap();
        assert_eq!(settings.alias.unwrap().as_str(), "https://one.invalid/conda/");
        assert_eq!(settings.custom["lab"].as_str(), "file:///srv/conda/");
        assert_eq!(settings.mirrors["conda-forge"][0].as_str(), "https://m.invalid/f/");
        assert_eq!(settings.mirrors["conda-forge"][1].as_str(), "https://n.invalid/");
        let variables = [variables[0], ("MODAL_CONDA_CHANNEL_ALIAS", "http://two.invalid/")];
        let settings = of(&variables, root.path()).unwrap();
        assert_eq!((settings.alias.unwrap().as_str(), settings.mirrors.len()), ("http://two.invalid/", 0));
    }

    #[test]
    fn addresses_have_variables_and_the_default_channels_mirrors() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("rc");
        let text = "channel_alias: https://${HOST}/$PART/$NO/${NO/\ndefault_channels:\n  - https://${HOST}/pkgs/main\n  - \
                    free\n  - https://m.invalid/pkgs/r/\n  - https://m.invalid/pkgs/msys2\n";
        fs_err::write(&path, text).unwrap();
        let variables = [("CONDARC", path.to_str().unwrap()), ("HOST", "m.invalid"), ("PART", "conda")];
        let settings = of(&variables, root.path()).unwrap();
        assert_eq!(settings.alias.unwrap().as_str(), "https://m.invalid/conda/$NO/$%7BNO/");
        let mirrors: Vec<_> = settings.mirrors.iter().map(|(name, mirrors)| format!("{name} {}", mirrors[0])).collect();
        assert_eq!(mirrors, ["main https://m.invalid/pkgs/main/", "r https://m.invalid/pkgs/r/"]);
        let variables = [variables[0], ("CONDA_CHANNEL_ALIAS", "https://n.invalid")];
        assert_eq!(of(&variables, root.path()).unwrap().alias.unwrap().as_str(), "https://n.invalid/");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = of(&[("MODAL_CONDA_CHANNEL_ALIAS", "two.invalid")], root.path()).unwrap_err();
        insta::assert_snapshot!(error, @"the conda settings of MODAL_CONDA_CHANNEL_ALIAS cannot be used: `two.invalid` is no address: relative URL without a base");
        let error = of(&[("MODAL_CONDA_CHANNEL_ALIAS", "ftp://two.invalid")], root.path()).unwrap_err();
        insta::assert_snapshot!(error, @"the conda settings of MODAL_CONDA_CHANNEL_ALIAS cannot be used: `ftp://two.invalid` is no `https://`, `http://` or `file://` address");
        fs_err::write(root.path().join("rc"), "channel_alias: [").unwrap();
        let path = root.path().join("rc");
        let error = of(&[("CONDARC", path.to_str().unwrap())], root.path()).unwrap_err();
        assert!(error.contains("rc`"), "{error}");
    }
}
