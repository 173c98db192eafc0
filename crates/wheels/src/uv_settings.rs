//! The host's settings of package indexes for `uv`: its own files and `UV_*` variables, and below them pip's.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::settings::{PipSettings, is_remote, own_directories, system_directories, variable};

/// Settings that say where packages are from.
const WHERE_FROM: [&str; 7] =
    ["allow-insecure-host", "extra-index-url", "find-links", "index", "index-strategy", "index-url", "no-index"];

/// Settings that say how that is reached.
const HOW_REACHED: [&str; 7] =
    ["http-proxy", "https-proxy", "keyring-provider", "native-tls", "no-proxy", "pip", "system-certs"];

/// Variables of `uv` that say where packages are from and how that is reached. All others say what their user's own
/// environments consist of and how they are made: an image does not depend on them, however it is built.
const ABOUT_INDEXES: [&str; 21] = [
    "UV_AZURE_ENDPOINT_URL",
    "UV_CONFIG_FILE",
    "UV_CREDENTIALS_DIR",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_GCS_ENDPOINT_URL",
    "UV_GITHUB_TOKEN",
    "UV_HTTP_CONNECT_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_HTTP_TIMEOUT",
    "UV_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_INDEX_URL",
    "UV_INSECURE_HOST",
    "UV_KEYRING_PROVIDER",
    "UV_NATIVE_TLS",
    "UV_NO_INDEX",
    "UV_REQUEST_TIMEOUT",
    "UV_S3_ENDPOINT_URL",
    "UV_SYSTEM_CERTS",
];

/// Whether a variable is one of `uv` that the host's `uv` is started without.
pub(crate) fn is_policy(name: &OsStr) -> bool {
    let Some(name) = name.to_str().filter(|name| name.starts_with("UV_")) else { return false };
    let is_login = name.starts_with("UV_INDEX_") && (name.ends_with("_USERNAME") || name.ends_with("_PASSWORD"));
    !is_login && !ABOUT_INDEXES.contains(&name)
}

/// What the host's own files of `uv` say of indexes.
#[derive(Debug, Default)]
pub struct UvSettings {
    /// Whether there are any: then `uv` is not given pip's indexes.
    is_configured: bool,
    settings: Table,
}

impl UvSettings {
    /// The settings of this process's user.
    #[must_use]
    pub fn of_host() -> Self {
        let files = files();
        let texts: Vec<String> = files.iter().filter_map(|path| fs_err::read_to_string(path).ok()).collect();
        Self { is_configured: !files.is_empty(), settings: merged(&texts) }
    }

    /// pip's settings with the indexes of `uv` where pip is told of none: by those it is resolved which packages pip would
    /// install, and what pip then has to build is to be from the same place.
    #[must_use]
    pub fn complete(&self, pip: &PipSettings, variable: impl Fn(&str) -> Option<String>) -> PipSettings {
        let mut pip = pip.clone();
        if pip.index_url.is_some() || !pip.extra_index_urls.is_empty() || pip.no_index {
            return pip;
        }
        let of_files = |name: &str| match self.settings.get(name) {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let (default, mut further) = indexes(&variable);
        further.extend(of_files("extra-index-url"));
        pip.index_url = default.or_else(|| of_files("index-url").pop()).filter(|address| is_remote(address));
        pip.extra_index_urls = further.into_iter().filter(|address| is_remote(address)).collect();
        let insecure = [given(variable("UV_INSECURE_HOST")), of_files("allow-insecure-host")].concat();
        pip.trusted_hosts.extend(insecure);
        pip
    }

    /// All that the host says, as a file of `uv` for use where the host's files are not. Variables win over its files, and
    /// those over pip's settings; `variable` gives the variables' values. `None` if there is nothing to say. Directories of
    /// links are left out, as pip passes over missing ones, but not those of indexes: their packages are not to come from
    /// elsewhere.
    #[must_use]
    pub fn configuration(self, pip: &PipSettings, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
        let given = |name: &str| given(variable(name));
        let text = |values: Vec<String>| -> Value { values.into_iter().map(Value::from).collect::<Vec<_>>().into() };
        let (default, further) = indexes(&variable);
        let links: Vec<_> = pip.remote_find_links().map(str::to_owned).collect();
        let or = |given: Vec<String>, pip: &[String]| if given.is_empty() { pip.to_vec() } else { given };

        let Self { is_configured, settings } = self;
        let mut all = Table::new();
        all.insert("find-links".to_owned(), text(or(given("UV_FIND_LINKS"), &links)));
        all.insert("allow-insecure-host".to_owned(), text(or(given("UV_INSECURE_HOST"), &pip.trusted_hosts)));
        let (of_pip, further_of_pip) =
            if is_configured { (None, &[][..]) } else { (pip.index_url.clone(), &pip.extra_index_urls[..]) };
        all.insert("extra-index-url".to_owned(), text(or(further, further_of_pip)));
        if let Some(strategy) = given("UV_INDEX_STRATEGY").pop() {
            all.insert("index-strategy".to_owned(), strategy.into());
        }
        if let Some(address) = default.or(of_pip) {
            all.insert("index-url".to_owned(), address.into());
        }
        if pip.no_index {
            all.insert("no-index".to_owned(), true.into());
        }
        merge(&mut all, settings);
        all.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
        Some(all.to_string()).filter(|text| !text.is_empty())
    }
}

/// The values in a variable.
fn given(value: Option<String>) -> Vec<String> {
    let value = value.unwrap_or_default();
    value.split([' ', '\t', '\n', ',']).filter(|one| !one.is_empty()).map(str::to_owned).collect()
}

/// The default index and the further ones that variables name.
fn indexes(variable: &dyn Fn(&str) -> Option<String>) -> (Option<String>, Vec<String>) {
    let addresses = |name: &str| -> Vec<String> { given(variable(name)).iter().map(|index| address(index)).collect() };
    let default = [addresses("UV_DEFAULT_INDEX"), addresses("UV_INDEX_URL")].concat().into_iter().next();
    (default, [addresses("UV_INDEX"), addresses("UV_EXTRA_INDEX_URL")].concat())
}

/// Whether the user or the system configured `uv` by a file.
pub(crate) fn has_configuration() -> bool {
    !files().is_empty()
}

/// What the host's own files say of indexes, as one file for the host's `uv`. `None` if one of them makes no sense.
pub(crate) fn about_indexes() -> Option<String> {
    let mut all = Table::new();
    for path in files() {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let directory = std::path::absolute(directory).ok()?;
        let table = fs_err::read_to_string(&path).ok()?.parse::<Table>().ok()?;
        combine(&mut all, about_indexes_in(table, &directory));
    }
    Some(all.to_string())
}

/// The settings of a file that are about indexes, with paths that do not depend on where the file is.
fn about_indexes_in(settings: Table, directory: &Path) -> Table {
    let is_kept = |name: &str| WHERE_FROM.contains(&name) || HOW_REACHED.contains(&name);
    let mut kept = Table::new();
    for (name, value) in settings.into_iter().filter(|(name, _)| is_kept(name)) {
        let value = match (name.as_str(), value) {
            ("pip", Value::Table(of_pip)) => Value::Table(about_indexes_in(of_pip, directory)),
            ("index-url" | "extra-index-url" | "find-links" | "index", value) => absolute(value, directory),
            (_, value) => value,
        };
        kept.insert(name, value);
    }
    kept
}

/// Addresses, or descriptions of indexes, in which paths are absolute.
fn absolute(value: Value, directory: &Path) -> Value {
    match value {
        Value::String(address) if address.contains("://") => address.into(),
        Value::String(path) => directory.join(path).display().to_string().into(),
        Value::Array(all) => all.into_iter().map(|one| absolute(one, directory)).collect::<Vec<_>>().into(),
        Value::Table(mut index) => {
            if let Some(url) = index.remove("url") {
                index.insert("url".to_owned(), absolute(url, directory));
            }
            index.into()
        }
        other => other,
    }
}

/// Adds settings to those that win over them, as `uv` does: lists become longer.
fn combine(settings: &mut Table, more: Table) {
    for (name, value) in more {
        match (settings.get_mut(&name), value) {
            (Some(Value::Array(values)), Value::Array(more)) => values.extend(more),
            (Some(Value::Table(table)), Value::Table(more)) => combine(table, more),
            (Some(_), _) => {}
            (None, value) => drop(settings.insert(name, value)),
        }
    }
}

/// Whether a variable says yes, as `uv` reads it.
fn says_yes(name: &str) -> bool {
    let value = std::env::var(name).unwrap_or_default().to_lowercase();
    ["1", "on", "t", "true", "y", "yes"].contains(&value.as_str())
}

/// The files that `uv` reads, those first that win.
fn files() -> Vec<PathBuf> {
    if let Some(named) = variable("UV_CONFIG_FILE") {
        return vec![named];
    }
    if says_yes("UV_NO_CONFIG") {
        return Vec::new();
    }
    let (_, own) = own_directories();
    let system = system_directories().into_iter().chain(["/etc".into()]);
    let is_there = |directory: PathBuf| Some(directory.join("uv/uv.toml")).filter(|path| path.exists());
    is_there(own).into_iter().chain(system.filter_map(is_there).take(1)).collect()
}

/// What several files say, given with those first that win. One that makes no sense says nothing here.
fn merged(texts: &[String]) -> Table {
    let mut settings = Table::new();
    for text in texts {
        let mut table = text.parse::<Table>().unwrap_or_default();
        // Stands above the same outside it.
        if let Some(Value::Table(of_pip)) = table.remove("pip") {
            merge(&mut settings, flat(of_pip));
        }
        merge(&mut settings, flat(table));
    }
    settings
}

/// Adds what settings say of where packages are from to those that win over them.
fn merge(settings: &mut Table, mut more: Table) {
    more.retain(|name, _| WHERE_FROM.contains(&name));
    if let Some(Value::Array(links)) = more.get_mut("find-links") {
        links.retain(is_of_use);
    }
    combine(settings, more);
}

/// Whether a link is of use elsewhere: a directory is not.
fn is_of_use(link: &Value) -> bool {
    link.as_str().is_some_and(is_remote)
}

/// Settings with their `[[index]]` in the older form. As they are, they would stand above an `index-url` of the image.
fn flat(mut settings: Table) -> Table {
    let Some(Value::Array(indexes)) = settings.remove("index") else { return settings };
    let mut older = Table::new();
    let (mut further, mut links) = (Vec::new(), Vec::new());
    for index in indexes {
        let says = |name: &str| index.get(name).and_then(Value::as_bool).unwrap_or(false);
        let Some(url) = index.get("url").cloned() else { continue };
        if says("explicit") {
            // Only for packages of a project that name it.
        } else if index.get("format").and_then(Value::as_str) == Some("flat") {
            links.push(url);
        } else if says("default") {
            older.entry("index-url").or_insert(url);
        } else {
            further.push(url);
        }
    }
    older.insert("extra-index-url".to_owned(), further.into());
    older.insert("find-links".to_owned(), links.into());
    merge(&mut older, settings);
    older
}

/// The address of an index that a variable names, perhaps as `name=address`: the name is of no use to others.
fn address(index: &str) -> String {
    match index.split_once('=') {
        Some((name, address)) if !name.contains("://") => address.to_owned(),
        _ => index.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(files: &[&str], pip: &PipSettings, variables: &[(&str, &str)]) -> String {
        let texts: Vec<_> = files.iter().map(|text| (*text).to_owned()).collect();
        let settings = UvSettings { is_configured: !files.is_empty(), settings: merged(&texts) };
        let variable = |name: &str| variables.iter().find(|one| one.0 == name).map(|one| one.1.to_owned());
        settings.configuration(pip, variable).unwrap_or_default()
    }

    fn pip() -> PipSettings {
        PipSettings {
            index_url: Some("https://index.invalid/simple".to_owned()),
            extra_index_urls: vec!["https://one.invalid/".to_owned(), "https://two.invalid/".to_owned()],
            find_links: vec!["/wheels".to_owned(), "https://links.invalid/".to_owned()],
            ..PipSettings::default()
        }
    }

    #[test]
    fn settings_of_pip_travel_to_uv() {
        insta::assert_snapshot!(configuration(&[], &PipSettings { no_index: true, ..pip() }, &[]), @r#"
        extra-index-url = ["https://one.invalid/", "https://two.invalid/"]
        find-links = ["https://links.invalid/"]
        index-url = "https://index.invalid/simple"
        no-index = true
        "#);
        assert_eq!(configuration(&[], &PipSettings::default(), &[]), "");
    }

    #[test]
    fn pip_has_the_indexes_of_uv_where_it_is_told_of_none() {
        let complete = |files: &[&str], pip: &PipSettings, variables: &[(&str, &str)]| {
            let texts: Vec<_> = files.iter().map(|text| (*text).to_owned()).collect();
            let settings = UvSettings { is_configured: !files.is_empty(), settings: merged(&texts) };
            let variable = |name: &str| variables.iter().find(|one| one.0 == name).map(|one| one.1.to_owned());
            settings.complete(pip, variable).pip_configuration(None).unwrap_or_default()
        };
        let none = PipSettings::default();
        let file = "index = [{ url = 'https://own.invalid/' }, { url = 'https://first.invalid/', default = true }, { url = '/here' }]
            allow-insecure-host = ['own.invalid']";
        insta::assert_snapshot!(complete(&[file], &none, &[]), @"
        [global]
        index-url = https://first.invalid/
        extra-index-url = https://own.invalid/
        trusted-host = own.invalid
        ");
        let variables = [("UV_DEFAULT_INDEX", "x=https://said.invalid/"), ("UV_INDEX", "https://more.invalid/")];
        insta::assert_snapshot!(complete(&[file], &none, &variables), @"
        [global]
        index-url = https://said.invalid/
        extra-index-url = https://more.invalid/
            https://own.invalid/
        trusted-host = own.invalid
        ");
        assert_eq!(complete(&[file], &pip(), &variables), pip().pip_configuration(None).unwrap());
        assert_eq!(complete(&[], &none, &[]), "");
    }

    #[test]
    fn variables_win_and_all_of_them_count() {
        let variables = [
            ("UV_INDEX", "own=https://uv.invalid/?a=b"),
            ("UV_EXTRA_INDEX_URL", "https://more.invalid/ https://last.invalid/"),
            ("UV_DEFAULT_INDEX", ""),
            ("UV_INDEX_URL", "https://default.invalid/"),
            ("UV_INDEX_STRATEGY", ""),
        ];
        insta::assert_snapshot!(configuration(&[], &pip(), &variables), @r#"
        extra-index-url = ["https://uv.invalid/?a=b", "https://more.invalid/", "https://last.invalid/"]
        find-links = ["https://links.invalid/"]
        index-url = "https://default.invalid/"
        "#);
    }

    #[test]
    fn files_of_uv_travel_but_for_links_of_this_machine() {
        let own = "link-mode = 'copy'
            index-url = 'https://hidden.invalid/'
            index = [
                { name = 'own', url = 'https://own.invalid/' },
                { url = '/here', default = true },
                { name = 'x', url = 'https://explicit.invalid/', explicit = true },
                { url = 'https://flat.invalid/', format = 'flat' },
            ]";
        let system = "find-links = ['/here', 'https://more.invalid/']
            index-url = '/there'
            [pip]
            no-index = false";
        let variables = [("UV_INDEX", "https://uv.invalid/")];
        insta::assert_snapshot!(configuration(&[own, system], &pip(), &variables), @r#"
        extra-index-url = ["https://uv.invalid/", "https://own.invalid/"]
        find-links = ["https://links.invalid/", "https://flat.invalid/", "https://more.invalid/"]
        index-url = "/here"
        no-index = false
        "#);
        assert_eq!(configuration(&["[["], &pip(), &[("UV_FIND_LINKS", "https://links.invalid/")]).lines().count(), 1);
    }

    #[test]
    fn the_resolver_is_told_of_indexes_and_of_no_policy() {
        let own = "no-build = true
            only-binary = ['x']
            prerelease = 'allow'
            resolution = 'lowest'
            exclude-newer = '2020-01-01'
            constraint-dependencies = ['six<1']
            override-dependencies = ['six<1']
            required-version = '==0.1'
            offline = true
            system-certs = true
            keyring-provider = 'subprocess'
            find-links = ['wheels']
            index = [{ name = 'own', url = 'https://own.invalid/', explicit = true, authenticate = 'always' }]
            [pip]
            no-deps = true
            only-binary = [':all:']
            index-url = 'mirror'";
        let system = "find-links = ['/more']
            index-strategy = 'first-index'
            no-build-package = ['six']
            index = [{ url = 'https://system.invalid/' }]
            [pip]
            index-url = 'https://hidden.invalid/'";
        let mut all = Table::new();
        for (text, directory) in [(own, "/home/me/.config/uv"), (system, "/etc/uv")] {
            combine(&mut all, about_indexes_in(text.parse().unwrap(), Path::new(directory)));
        }
        insta::assert_snapshot!(all, @r#"
        find-links = ["/home/me/.config/uv/wheels", "/more"]
        index-strategy = "first-index"
        keyring-provider = "subprocess"
        system-certs = true

        [[index]]
        authenticate = "always"
        explicit = true
        name = "own"
        url = "https://own.invalid/"

        [[index]]
        url = "https://system.invalid/"

        [pip]
        index-url = "/home/me/.config/uv/mirror"
        "#);
    }

    #[test]
    fn variables_that_are_no_addresses_or_logins_stay_away() {
        for (name, is_taken_away) in [
            ("UV_NO_BUILD", true),
            ("UV_NO_BINARY_PACKAGE", true),
            ("UV_ONLY_BINARY", true),
            ("UV_PRERELEASE_PACKAGE", true),
            ("UV_EXCLUDE_NEWER", true),
            ("UV_OFFLINE", true),
            ("UV_PYTHON", true),
            ("UV_CONFIG_FILE", false),
            ("UV_INDEX", false),
            ("UV_INDEX_OWN_USERNAME", false),
            ("UV_INDEX_OWN_PASSWORD", false),
            ("UV_KEYRING_PROVIDER", false),
            ("SSL_CERT_FILE", false),
            ("PIP_NO_DEPS", false),
        ] {
            assert_eq!(is_policy(OsStr::new(name)), is_taken_away, "{name}");
        }
    }
}
