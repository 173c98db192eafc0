//! The host's package index settings: pip's configuration files and `PIP_*` variables, in the resolver's terms.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use configparser::ini::Ini;

/// What pip takes for a yes, in any case.
const TRUE: [&str; 6] = ["1", "on", "t", "true", "y", "yes"];

/// What pip would use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
        let texts = configuration_files().into_iter().filter_map(|path| fs_err::read_to_string(path).ok());
        let mut values = parse(texts);
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
            no_index: one("no-index").is_some_and(|value| TRUE.contains(&&*value.to_lowercase())),
            trusted_hosts: many("trusted-host"),
            certificates: one("cert"),
        }
    }

    /// The same settings as a configuration file of pip, for use where the host's files are not: directories are left
    /// out, and `certificates` is the bundle there. `None` if there is nothing to say.
    #[must_use]
    pub fn pip_configuration(&self, certificates: Option<&str>) -> Option<String> {
        let values: [(_, Vec<&str>); 6] = [
            ("index-url", self.index_url.iter().map(String::as_str).collect()),
            ("extra-index-url", self.extra_index_urls.iter().map(String::as_str).collect()),
            ("find-links", self.remote_find_links().collect()),
            ("no-index", self.no_index.then_some("true").into_iter().collect()),
            ("trusted-host", self.trusted_hosts.iter().map(String::as_str).collect()),
            ("cert", certificates.into_iter().collect()),
        ];
        let lines = values.iter().filter(|(_, list)| !list.is_empty());
        let lines: Vec<String> = lines.map(|(key, list)| format!("{key} = {}\n", list.join("\n    "))).collect();
        (!lines.is_empty()).then(|| format!("[global]\n{}", lines.concat()))
    }

    /// Find-links that are the same everywhere.
    pub(crate) fn remote_find_links(&self) -> impl Iterator<Item = &str> {
        self.find_links.iter().map(String::as_str).filter(|link| is_remote(link))
    }

    /// Find-links that exist: pip passes over a missing directory, `uv` does not.
    pub(crate) fn usable_find_links(&self) -> impl Iterator<Item = &str> {
        self.find_links.iter().map(String::as_str).filter(|link| {
            let path = link.strip_prefix("file://").unwrap_or(link);
            path.contains("://") || Path::new(path).exists()
        })
    }
}

/// Whether an address is the same everywhere.
pub(crate) fn is_remote(address: &str) -> bool {
    address.contains("://") && !address.starts_with("file:")
}

/// A variable that names a path.
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The user's directory, and that of their settings.
pub(crate) fn own_directories() -> (PathBuf, PathBuf) {
    let home = variable("HOME").unwrap_or_default();
    let configuration = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    (home, configuration)
}

/// The system's directories of settings.
pub(crate) fn system_directories() -> Vec<PathBuf> {
    let given = std::env::var_os("XDG_CONFIG_DIRS").filter(|given| !given.is_empty());
    std::env::split_paths(&given.unwrap_or_else(|| "/etc/xdg".into())).collect()
}

/// The files in rising order of precedence.
fn configuration_files() -> Vec<PathBuf> {
    let explicit = variable("PIP_CONFIG_FILE");
    if explicit.as_deref() == Some(Path::new("/dev/null")) {
        return Vec::new();
    }
    let mut files: Vec<_> = system_directories().iter().map(|directory| directory.join("pip/pip.conf")).collect();
    files.push(PathBuf::from("/etc/pip.conf"));
    files.extend(of_the_user(own_directories(), explicit.as_deref()));
    files.extend(variable("VIRTUAL_ENV").map(|environment| environment.join("pip.conf")));
    files.extend(explicit);
    files
}

/// The user's own files, given the home and the directory of settings: pip leaves them out where `PIP_CONFIG_FILE` names a
/// file that is there.
fn of_the_user((home, configuration): (PathBuf, PathBuf), explicit: Option<&Path>) -> Vec<PathBuf> {
    if explicit.is_some_and(Path::exists) {
        return Vec::new();
    }
    vec![home.join(".pip/pip.conf"), configuration.join("pip/pip.conf")]
}

/// Reads pip's configuration files, given in rising order of precedence, as pip does: an `[install]` of any file wins
/// over every `[global]`, and an empty value says nothing.
fn parse(texts: impl IntoIterator<Item = impl Into<String>>) -> BTreeMap<String, String> {
    let (mut global, mut install) = (BTreeMap::new(), BTreeMap::new());
    for text in texts {
        let sections = Sections::of(text.into());
        global.extend(sections.values("global"));
        install.extend(sections.values("install"));
    }
    // Only now: an empty value hides what a file before it says in the same section, but not another section's.
    for section in [&mut global, &mut install] {
        section.retain(|_, value: &mut String| !value.trim().is_empty());
    }
    global.extend(install);
    global
}

/// The sections of one file, read as Python's own parser does: only whole lines are comments. A file that makes no sense
/// has none.
struct Sections(HashMap<String, HashMap<String, Option<String>>>);

impl Sections {
    fn of(text: String) -> Self {
        let mut ini = Ini::new_cs();
        ini.set_multiline(true);
        ini.set_inline_comment_symbols(Some(&[]));
        Self(ini.read(text).unwrap_or_default())
    }

    /// What a section says. Only one that is there, even if empty, inherits from `[DEFAULT]`.
    fn values(&self, section: &str) -> BTreeMap<String, String> {
        let Some(own) = self.0.get(section) else { return BTreeMap::new() };
        let inherited = self.0.get("DEFAULT").into_iter().flatten().filter(|(name, _)| !own.contains_key(*name));
        let given = inherited.chain(own).filter_map(|(name, value)| Some((name, value.as_ref()?)));
        given.map(|(name, value)| (name.to_lowercase().replace('_', "-"), value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_configuration_is_read() {
        let values = parse([
            "[global]\n# comment\nindex-url = https://index.invalid/simple\nextra_index_url =\n  https://one.invalid/simple\n  https://two.invalid/simple\ncert: /etc/ca.pem\n[install]\nno-index = yes\nindex-url=https://install.invalid/simple\n[freeze]\nindex-url = https://other.invalid\n",
        ]);
        let settings = PipSettings::from_values(&values);
        assert_eq!(settings.index_url.as_deref(), Some("https://install.invalid/simple"));
        assert_eq!(settings.extra_index_urls, ["https://one.invalid/simple", "https://two.invalid/simple"]);
        assert_eq!(settings.certificates.as_deref(), Some("/etc/ca.pem"));
        assert!(settings.no_index);
        for (value, no_index) in [("True", true), ("t", true), ("0", false), ("no", false)] {
            let values = BTreeMap::from([("no-index".to_owned(), value.to_owned())]);
            assert_eq!(PipSettings::from_values(&values).no_index, no_index, "{value}");
        }
    }

    #[test]
    fn sections_that_are_there_inherit_from_the_default_one() {
        let default = "[DEFAULT]\nindex-url = https://default.invalid/\ncert = /default.pem\n";
        let values = |rest: &str| parse([format!("{default}{rest}")]);
        assert_eq!(values("[global]\ncert = /own.pem\n")["index-url"], "https://default.invalid/");
        assert_eq!(values("[global]\ncert = /own.pem\n")["cert"], "/own.pem");
        assert_eq!(values("[global]\ncert = /own.pem\n[install]\n")["cert"], "/default.pem");
        assert_eq!(values("[freeze]\nall = true\n"), BTreeMap::new());
        assert_eq!(values("[global]\nindex-url =\n").get("index-url"), None);
    }

    #[test]
    fn a_file_that_is_named_replaces_the_users_own() {
        let directory = tempfile::tempdir().unwrap();
        let own = || (PathBuf::from("/home/me"), PathBuf::from("/home/me/.config"));
        let both = [PathBuf::from("/home/me/.pip/pip.conf"), PathBuf::from("/home/me/.config/pip/pip.conf")];
        let named = directory.path().join("pip.conf");
        assert_eq!(of_the_user(own(), None), both);
        assert_eq!(of_the_user(own(), Some(&named)), both, "it is not there");
        fs_err::write(&named, "").unwrap();
        assert_eq!(of_the_user(own(), Some(&named)), [] as [PathBuf; 0]);
    }

    #[test]
    fn the_section_is_more_than_the_file() {
        let system = "[global]\ncert = /system.pem\n[install]\nindex-url = https://system.invalid/\n";
        let own = "[global]\ncert = /own.pem\nindex-url = https://own.invalid/\n[install]\ncert =\n";
        let values = parse([system, own]);
        assert_eq!((&*values["index-url"], &*values["cert"]), ("https://system.invalid/", "/own.pem"));
        assert_eq!(parse([own, "[global]\nindex-url =\n"]).get("index-url"), None);
    }

    #[test]
    fn only_whole_lines_are_comments() {
        let values =
            parse(["[global]\nindex-url = https://me:a;b@index.invalid/#x ; y\n   # no\n   https://two.invalid/\n"]);
        assert_eq!(values["index-url"], "https://me:a;b@index.invalid/#x ; y\nhttps://two.invalid/");
        assert_eq!(parse(["[global\nindex-url = https://index.invalid/\n"]), BTreeMap::new());
    }

    #[test]
    fn settings_travel_as_files() {
        let settings = PipSettings {
            index_url: Some("https://index.invalid/simple".to_owned()),
            extra_index_urls: vec!["https://one.invalid/".to_owned(), "https://two.invalid/".to_owned()],
            find_links: vec!["/wheels".to_owned(), "https://links.invalid/".to_owned()],
            certificates: Some("/etc/ca.pem".to_owned()),
            ..PipSettings::default()
        };
        let pip = settings.pip_configuration(Some("/inside/ca.pem")).unwrap();
        insta::assert_snapshot!(pip, @r"
        [global]
        index-url = https://index.invalid/simple
        extra-index-url = https://one.invalid/
            https://two.invalid/
        find-links = https://links.invalid/
        cert = /inside/ca.pem
        ");
        let read_back = PipSettings::from_values(&parse([pip]));
        assert_eq!(read_back.extra_index_urls, settings.extra_index_urls);
        assert_eq!(PipSettings::default().pip_configuration(None), None);
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
