//! The host's settings of package indexes for `uv`: its own files and `UV_*` variables, and below them pip's.

use std::path::PathBuf;

use toml::{Table, Value};

use crate::settings::{PipSettings, is_remote, own_directories, system_directories, variable};

/// Settings that say where packages are from.
const WHERE_FROM: [&str; 7] =
    ["allow-insecure-host", "extra-index-url", "find-links", "index", "index-strategy", "index-url", "no-index"];

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

    /// All that the host says, as a file of `uv` for use where the host's files are not. Variables win over its files, and
    /// those over pip's settings; `variable` gives the variables' values. `None` if there is nothing to say. Directories of
    /// links are left out, as pip passes over missing ones, but not those of indexes: their packages are not to come from
    /// elsewhere.
    #[must_use]
    pub fn configuration(self, pip: &PipSettings, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
        let given = |name: &str| -> Vec<String> {
            let value = variable(name).unwrap_or_default();
            value.split([' ', '\t', '\n', ',']).filter(|one| !one.is_empty()).map(str::to_owned).collect()
        };
        let text = |values: Vec<String>| -> Value { values.into_iter().map(Value::from).collect::<Vec<_>>().into() };
        let addresses = |name: &str| -> Vec<String> { given(name).iter().map(|index| address(index)).collect() };
        let default = [addresses("UV_DEFAULT_INDEX"), addresses("UV_INDEX_URL")].concat().into_iter().next();
        let further = [addresses("UV_INDEX"), addresses("UV_EXTRA_INDEX_URL")].concat();
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

/// Whether the user or the system configured `uv` by a file.
pub(crate) fn has_configuration() -> bool {
    !files().is_empty()
}

/// The files that `uv` reads, those first that win.
fn files() -> Vec<PathBuf> {
    if let Some(named) = variable("UV_CONFIG_FILE") {
        return vec![named];
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

/// Adds settings to those that win over them, as `uv` does: lists become longer.
fn merge(settings: &mut Table, more: Table) {
    for (name, value) in more.into_iter().filter(|(name, _)| WHERE_FROM.contains(&&**name)) {
        let value = match value {
            Value::Array(links) if name == "find-links" => Value::Array(links.into_iter().filter(is_of_use).collect()),
            value => value,
        };
        match (settings.get_mut(&name), value) {
            (Some(Value::Array(values)), Value::Array(more)) => values.extend(more),
            (Some(_), _) => {}
            (None, value) => drop(settings.insert(name, value)),
        }
    }
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
}
