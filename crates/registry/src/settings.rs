//! Where the host wants images from: `registries.conf`, as podman, buildah and skopeo read it (containers-registries.conf(5),
//! version 2). Counted are its tables of registries: other locations, mirrors, whether they are blocked or need not prove who they
//! are. What short names stand for is not: a program is to mean the same image everywhere.

use std::path::{Path, PathBuf};

use lamina_ground::EnvVars;
use serde::Deserialize;

use crate::{Reference, RegistryError};

/// Where such files are, below the user's settings and for all users.
const SYSTEM: &str = "/etc/containers";
const FILE: &str = "registries.conf";
const DIRECTORY: &str = "registries.conf.d";

/// What the files say.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    registries: Vec<Table>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    registry: Vec<Table>,
}

/// What is said about images whose names begin alike.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Table {
    prefix: Option<String>,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirror: Vec<Mirror>,
    mirror_by_digest_only: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    #[serde(rename = "pull-from-mirror")]
    which: Which,
}

/// For which images a mirror is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Which {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

/// A place to get an image from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its name there.
    pub(crate) reference: Reference,
    /// Whether it need not prove who it is, nor be encrypted where it cannot.
    pub(crate) is_insecure: bool,
    /// Whether the registry of the name itself is meant, for which a login was given.
    pub(crate) is_named: bool,
}

impl Settings {
    /// What the files of this host say.
    pub(crate) fn of_host() -> Result<Self, RegistryError> {
        let mut settings = Self::default();
        for path in files() {
            let unusable = |reason: String| RegistryError::Settings { path: path.display().to_string(), reason };
            let text = match fs_err::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unusable(error.to_string())),
            };
            settings.add(&text).map_err(unusable)?;
        }
        Ok(settings)
    }

    /// Adds what a file says; it replaces what those before say about the same names.
    fn add(&mut self, text: &str) -> Result<(), String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        for table in file.registry {
            let key = table.key().ok_or("a table `[[registry]]` has neither `prefix` nor `location`")?.to_owned();
            self.registries.retain(|other| other.key() != Some(&key));
            self.registries.push(table);
        }
        Ok(())
    }

    /// Where an image is looked for, in this order.
    pub(crate) fn sources(&self, reference: &Reference) -> Result<Vec<Source>, RegistryError> {
        let named = || Source { reference: reference.clone(), is_insecure: false, is_named: true };
        let name = format!("{}/{}", reference.registry, reference.repository);
        let matching = self.registries.iter().filter_map(|table| Some((matched(table.key()?, &name)?, table)));
        let Some((length, table)) = matching.max_by_key(|(length, _)| *length) else { return Ok(vec![named()]) };
        if table.blocked {
            return Err(RegistryError::Blocked { image: reference.to_string() });
        }
        let moved = |location: &str, is_insecure: bool, is_named: bool| {
            let text = format!("{location}{}", &reference.to_string()[length..]);
            let reference: Reference = text.parse().map_err(|error| RegistryError::Settings {
                path: FILE.to_owned(),
                reason: format!("`{location}` is no location: {error}"),
            })?;
            Ok::<_, RegistryError>(Source { reference, is_insecure, is_named })
        };
        let by_digest = reference.digest.is_some();
        let mut sources = Vec::new();
        for mirror in &table.mirror {
            let is_for = match mirror.which {
                Which::All => !table.mirror_by_digest_only || by_digest,
                Which::DigestOnly => by_digest,
                Which::TagOnly => !by_digest,
            };
            if is_for {
                sources.push(moved(&mirror.location, mirror.insecure, false)?);
            }
        }
        sources.push(match table.location.as_deref() {
            Some(location) if Some(location) != table.key() => moved(location, table.insecure, true)?,
            _ => Source { is_insecure: table.insecure, ..named() },
        });
        Ok(sources)
    }
}

impl Table {
    /// What names begin with that it is about.
    fn key(&self) -> Option<&str> {
        self.prefix.as_deref().or(self.location.as_deref()).filter(|key| !key.is_empty())
    }
}

/// How many letters of a name a prefix stands for, if the name begins with it: whole parts only, or a host below `*.`.
fn matched(prefix: &str, name: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = name.split(['/', ':']).next().unwrap_or(name);
        return (domain.starts_with('.') && host.ends_with(domain) && host.len() > domain.len()).then_some(host.len());
    }
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(prefix.len())
}

/// The files that count, each later one more.
fn files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable(EnvVars::CONTAINERS_REGISTRIES_CONF) {
        return vec![path];
    }
    let own = variable(EnvVars::XDG_CONFIG_HOME)
        .or_else(|| variable(EnvVars::HOME).map(|home| home.join(".config")))
        .map(|directory| directory.join("containers"));
    let system = Path::new(SYSTEM);
    let main = own.iter().map(|own| own.join(FILE)).find(|path| path.exists()).unwrap_or_else(|| system.join(FILE));
    let mut files = vec![main];
    for directory in [Some(system.to_owned()), own].into_iter().flatten() {
        let entries = fs_err::read_dir(directory.join(DIRECTORY)).into_iter().flatten().flatten();
        let mut parts: Vec<_> = entries.map(|entry| entry.path()).collect();
        parts.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        parts.sort_unstable();
        files.extend(parts);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
unqualified-search-registries = ["quay.io"]

[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.example/docker"
[[registry.mirror]]
location = "127.0.0.1:5000"
pull-from-mirror = "digest-only"

[[registry]]
prefix = "docker.io/team"
location = "other.example/people"
insecure = true

[[registry]]
prefix = "*.bad.example"
blocked = true

[[registry]]
location = "lan.example:5000"
insecure = true
"#;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.add(TEXT).unwrap();
        settings
    }

    fn sources(image: &str) -> Vec<String> {
        let sources = settings().sources(&image.parse().unwrap()).unwrap();
        let shown = |source: Source| {
            let insecure = if source.is_insecure { " insecure" } else { "" };
            format!("{}{insecure}", source.reference)
        };
        sources.into_iter().map(shown).collect()
    }

    #[test]
    fn mirrors_come_first_and_the_longest_name_counts() {
        let digest = "0".repeat(64);
        assert_eq!(
            sources("python:3.11"),
            ["mirror.example/docker/library/python:3.11", "docker.io/library/python:3.11"]
        );
        assert_eq!(
            sources(&format!("python@sha256:{digest}"))[1],
            format!("127.0.0.1:5000/library/python@sha256:{digest}")
        );
        assert_eq!(sources("team/app:v1"), ["other.example/people/app:v1 insecure"]);
        assert_eq!(sources("teamwork/app:v1").len(), 2);
        assert_eq!(sources("lan.example:5000/x:1"), ["lan.example:5000/x:1 insecure"]);
        assert_eq!(sources("else.example/x:1"), ["else.example/x:1"]);
    }

    #[test]
    fn what_is_blocked_is_not_asked() {
        let error = settings().sources(&"deep.bad.example/x".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("`deep.bad.example/x:latest`"), "{error}");
        assert!(settings().sources(&"bad.example/x".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_later_file_says_more_and_a_wrong_one_why() {
        let mut settings = settings();
        settings.add("[[registry]]\nlocation = \"docker.io\"\nblocked = true\n").unwrap();
        assert!(settings.sources(&"python".parse().unwrap()).is_err());
        assert!(settings.add("[[registry]]\ninsecure = true\n").unwrap_err().contains("neither"));
        assert!(settings.add("[[registry]").is_err());
    }
}
