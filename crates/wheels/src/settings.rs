//! The host's package index settings: pip's configuration files and `PIP_*` variables, in the resolver's terms.
//!
//! `uv` reads its own configuration and `UV_*` variables; those win where they say the same thing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What pip would use.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PipSettings {
    pub(crate) index_url: Option<String>,
    pub(crate) extra_index_urls: Vec<String>,
    pub(crate) find_links: Vec<String>,
    pub(crate) no_index: bool,
    pub(crate) trusted_hosts: Vec<String>,
    pub(crate) certificates: Option<String>,
}

impl PipSettings {
    /// The settings of this process's user.
    #[must_use]
    pub fn of_host() -> Self {
        let mut values = BTreeMap::new();
        for path in configuration_files() {
            if let Ok(text) = fs_err::read_to_string(path) {
                values.extend(parse(&text));
            }
        }
        values.extend(std::env::vars().filter_map(|(name, value)| {
            let key = name.strip_prefix("PIP_")?.to_lowercase().replace('_', "-");
            (!value.is_empty()).then_some((key, value))
        }));
        Self::from_values(&values)
    }

    fn from_values(values: &BTreeMap<String, String>) -> Self {
        let one = |key: &str| values.get(key).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let many = |key: &str| {
            one(key).iter().flat_map(|value| value.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
        };
        Self {
            index_url: one("index-url"),
            extra_index_urls: many("extra-index-url"),
            find_links: many("find-links"),
            no_index: one("no-index").is_some_and(|value| matches!(value.as_str(), "1" | "true" | "yes" | "on")),
            trusted_hosts: many("trusted-host"),
            certificates: one("cert"),
        }
    }

    /// The same settings as environment variables of pip and `uv`, for use where the host's files are not: directories
    /// and certificates are left out. Variables that the host has set for `uv` win.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let remote = |link: &&String| link.contains("://") && !link.starts_with("file:");
        let find_links: Vec<String> = self.find_links.iter().filter(remote).cloned().collect();
        let values: [(_, _, Vec<String>, _); 4] = [
            ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", self.index_url.iter().cloned().collect(), " "),
            ("PIP_EXTRA_INDEX_URL", "UV_INDEX", self.extra_index_urls.clone(), " "),
            ("PIP_FIND_LINKS", "UV_FIND_LINKS", find_links, ","),
            ("PIP_TRUSTED_HOST", "UV_INSECURE_HOST", self.trusted_hosts.clone(), " "),
        ];
        let mut variables = Vec::new();
        for (pip, uv, list, separator) in values {
            if list.is_empty() {
                continue;
            }
            variables.push((pip.to_owned(), list.join(" ")));
            if std::env::var_os(uv).is_none() {
                variables.push((uv.to_owned(), list.join(separator)));
            }
        }
        if self.no_index {
            variables.push(("PIP_NO_INDEX".to_owned(), "1".to_owned()));
        }
        variables
    }

    /// Find-links that exist: pip passes over a missing directory, `uv` does not.
    pub(crate) fn usable_find_links(&self) -> impl Iterator<Item = &str> {
        self.find_links.iter().map(String::as_str).filter(|link| {
            let path = link.strip_prefix("file://").unwrap_or(link);
            path.contains("://") || Path::new(path).exists()
        })
    }
}

/// The files in rising order of precedence.
fn configuration_files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let explicit = variable("PIP_CONFIG_FILE");
    if explicit.as_deref() == Some(Path::new("/dev/null")) {
        return Vec::new();
    }
    let home = variable("HOME").unwrap_or_default();
    let configuration = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    let mut files = vec![
        PathBuf::from("/etc/xdg/pip/pip.conf"),
        PathBuf::from("/etc/pip.conf"),
        home.join(".pip/pip.conf"),
        configuration.join("pip/pip.conf"),
    ];
    files.extend(variable("VIRTUAL_ENV").map(|environment| environment.join("pip.conf")));
    files.extend(explicit);
    files
}

/// Reads pip's ini dialect: `[install]` wins over `[global]`, indented lines continue a value.
fn parse(text: &str) -> BTreeMap<String, String> {
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = String::new();
    let mut key: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
            key = None;
        } else if line.starts_with(char::is_whitespace)
            && let Some(value) = key.as_ref().and_then(|key| sections.get_mut(&section)?.get_mut(key))
        {
            value.push('\n');
            value.push_str(trimmed);
        } else if let Some((name, value)) = trimmed.split_once(['=', ':']) {
            let name = name.trim().to_lowercase().replace('_', "-");
            sections.entry(section.clone()).or_default().insert(name.clone(), value.trim().to_owned());
            key = Some(name);
        }
    }
    let mut values = sections.remove("global").unwrap_or_default();
    values.extend(sections.remove("install").unwrap_or_default());
    values
}

/// Whether the user or the system configured `uv` by a file.
pub(crate) fn has_uv_configuration() -> bool {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("HOME").unwrap_or_default();
    let configuration = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    variable("UV_CONFIG_FILE").is_some()
        || [configuration.join("uv/uv.toml"), "/etc/xdg/uv/uv.toml".into(), "/etc/uv/uv.toml".into()]
            .iter()
            .any(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_configuration_is_read() {
        let values = parse(
            "[global]\n# comment\nindex-url = https://index.invalid/simple\nextra_index_url =\n  https://one.invalid/simple\n  https://two.invalid/simple\ncert: /etc/ca.pem\n[install]\nno-index = yes\nindex-url=https://install.invalid/simple\n[freeze]\nindex-url = https://other.invalid\n",
        );
        let settings = PipSettings::from_values(&values);
        assert_eq!(settings.index_url.as_deref(), Some("https://install.invalid/simple"));
        assert_eq!(settings.extra_index_urls, ["https://one.invalid/simple", "https://two.invalid/simple"]);
        assert_eq!(settings.certificates.as_deref(), Some("/etc/ca.pem"));
        assert!(settings.no_index);
    }

    #[test]
    fn settings_travel_as_variables() {
        let settings = PipSettings {
            index_url: Some("https://index.invalid/simple".to_owned()),
            find_links: vec!["/wheels".to_owned(), "https://links.invalid/".to_owned()],
            certificates: Some("/etc/ca.pem".to_owned()),
            ..PipSettings::default()
        };
        let variables = settings.environment();
        let pip: Vec<_> = variables.iter().filter(|(name, _)| name.starts_with("PIP_")).cloned().collect();
        let expected =
            [("PIP_INDEX_URL", "https://index.invalid/simple"), ("PIP_FIND_LINKS", "https://links.invalid/")];
        assert_eq!(pip, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn missing_find_links_directories_are_passed_over() {
        let settings = PipSettings {
            find_links: vec!["/does/not/exist".to_owned(), "https://links.invalid/".to_owned(), "/".to_owned()],
            ..PipSettings::default()
        };
        assert_eq!(settings.usable_find_links().collect::<Vec<_>>(), ["https://links.invalid/", "/"]);
    }
}
