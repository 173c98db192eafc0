//! Modal's file of profiles, `~/.modal.toml`: whoever has used Modal has one.
//!
//! A profile is a section with settings, and one section is the active one. What has a meaning here becomes an environment
//! variable, unless that is set already, so that nothing else has to know of profiles. Tokens have none: they are not read.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lamina_ground::EnvVars;
use lamina_system::set_missing_variables;
use toml::{Table, Value};

use crate::failure::Failure;

/// The settings of profiles that have a meaning here, and the variables that come before them.
pub(crate) const SETTINGS: [(&str, &str); 6] = [
    ("environment", EnvVars::MODAL_ENVIRONMENT),
    ("image_builder_version", EnvVars::MODAL_IMAGE_BUILDER_VERSION),
    ("force_build", EnvVars::MODAL_FORCE_BUILD),
    ("ignore_cache", EnvVars::MODAL_IGNORE_CACHE),
    ("loglevel", EnvVars::MODAL_LOGLEVEL),
    ("traceback", EnvVars::MODAL_TRACEBACK),
];

/// The profile of a file that has none.
const DEFAULT: &str = "default";

/// Sets the variables that the profile in use has a setting for.
pub(crate) fn fill_environment() -> Result<(), Failure> {
    let settings = Profiles::read()?.settings()?;
    set_missing_variables(settings.iter().map(|(_, variable, value)| (*variable, value.as_str())));
    Ok(())
}

/// The file, as it is.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    path: Option<PathBuf>,
    text: String,
    sections: Table,
}

impl Profiles {
    /// Reads the file; one that is not there has no profiles.
    pub(crate) fn read() -> Result<Self, Failure> {
        let Some(path) = path() else { return Ok(Self::default()) };
        match fs_err::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes)
                    .map_err(|_| Failure::new(format!("`{}` is not text in UTF-8", path.display())))?;
                let sections = parse(&path, &text)?;
                Ok(Self { path: Some(path), text, sections })
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(Self { path: Some(path), ..Self::default() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The names of all profiles.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str)
    }

    /// The name of the profile in use: the one that `MODAL_PROFILE` names, the active one, or the only one.
    pub(crate) fn current(&self) -> Result<&str, Failure> {
        self.chosen(std::env::var(EnvVars::MODAL_PROFILE).ok().filter(|name| !name.is_empty()).as_deref())
    }

    fn chosen(&self, named: Option<&str>) -> Result<&str, Failure> {
        if self.sections.is_empty() {
            return Ok(DEFAULT);
        }
        if let Some(named) = named {
            return self.named(named).map_err(|failure| {
                failure.hint(format!("`{}` names it; `modal profile list` shows what there is", EnvVars::MODAL_PROFILE))
            });
        }
        let active: Vec<&str> = self.names().filter(|name| self.is_active(name)).collect();
        match (active.as_slice(), self.sections.len()) {
            (&[name], _) => Ok(name),
            (&[], 1) => Ok(self.names().next().unwrap_or(DEFAULT)),
            (&[], _) => Err(Failure::new(format!("no profile of `{}` is active", self.shown_path()))
                .hint("`modal profile activate NAME` activates one")),
            (several, _) => Err(Failure::new(format!(
                "`{}` has more than one active profile: `{}`",
                self.shown_path(),
                several.join("`, `")
            ))
            .hint("`modal profile activate NAME` leaves one")),
        }
    }

    fn named(&self, name: &str) -> Result<&str, Failure> {
        let found = self.names().find(|known| *known == name);
        found.ok_or_else(|| Failure::new(format!("there is no profile `{name}` in `{}`", self.shown_path())))
    }

    fn is_active(&self, name: &str) -> bool {
        self.sections.get(name).and_then(|profile| profile.get("active")).and_then(Value::as_bool) == Some(true)
    }

    /// Of the profile in use each setting that has a meaning here: its name, its variable, its value.
    pub(crate) fn settings(&self) -> Result<Vec<(&'static str, &'static str, String)>, Failure> {
        let profile = self.current()?;
        let wanted = SETTINGS.iter().filter_map(|&(name, variable)| {
            self.value(profile, name).map(|value| {
                let text = as_text(value).ok_or_else(|| {
                    Failure::new(format!(
                        "`{name}` of the profile `{profile}` in `{}` is neither text nor true or false",
                        self.shown_path()
                    ))
                })?;
                Ok((name, variable, text))
            })
        });
        wanted.collect()
    }

    /// The environment of a profile, where it names one.
    pub(crate) fn environment(&self, profile: &str) -> Option<&str> {
        self.value(profile, "environment").and_then(Value::as_str)
    }

    /// Whether a profile has a setting, whatever it is.
    pub(crate) fn has(&self, profile: &str, setting: &str) -> bool {
        self.value(profile, setting).is_some()
    }

    fn value(&self, profile: &str, setting: &str) -> Option<&Value> {
        self.sections.get(profile)?.get(setting)
    }

    fn shown_path(&self) -> String {
        self.path.as_deref().map(|path| path.display().to_string()).unwrap_or_default()
    }

    /// Makes a profile the only active one.
    pub(crate) fn activate(&self, name: &str) -> Result<(), Failure> {
        self.named(name).map_err(|failure| failure.hint("`modal profile list` shows what there is"))?;
        let mut wanted = self.sections.clone();
        for profile in wanted.iter_mut().filter_map(|(_, profile)| profile.as_table_mut()) {
            profile.remove("active");
        }
        self.write(wanted, name, "active", &Value::Boolean(true), true)
    }

    /// Gives the profile in use another environment.
    pub(crate) fn set_environment(&self, environment: &str) -> Result<(), Failure> {
        self.write(self.sections.clone(), self.current()?, "environment", &environment.into(), false)
    }

    /// Writes one setting of a profile, `everywhere` instead of all that there are, and leaves the rest of the text alone.
    fn write(
        &self,
        mut wanted: Table,
        profile: &str,
        setting: &str,
        value: &Value,
        everywhere: bool,
    ) -> Result<(), Failure> {
        let Some(path) = &self.path else {
            return Err(Failure::new("there is no place for profiles: neither `HOME` nor `MODAL_CONFIG_PATH` is set"));
        };
        if let Some(table) = wanted.entry(profile).or_insert_with(|| Table::new().into()).as_table_mut() {
            table.insert(setting.to_owned(), value.clone());
        }
        let text = edited(&self.text, profile, setting, value, everywhere);
        // The text is edited by lines, which not every file can be.
        if parse(path, &text).ok() != Some(wanted) {
            return Err(Failure::new(format!("`{}` is written in a way that this cannot change", path.display()))
                .hint(format!("write `{setting} = {value}` into its section `[{profile}]` yourself")));
        }
        Ok(replace(path, &text)?)
    }
}

/// Where the file is.
fn path() -> Option<PathBuf> {
    let home = std::env::var_os(EnvVars::HOME).filter(|home| !home.is_empty()).map(PathBuf::from);
    let Some(named) = std::env::var_os(EnvVars::MODAL_CONFIG_PATH).filter(|path| !path.is_empty()) else {
        return Some(home?.join(".modal.toml"));
    };
    let named = PathBuf::from(named);
    match (named.strip_prefix("~"), home) {
        (Ok(below), Some(home)) => Some(home.join(below)),
        _ => Some(named),
    }
}

/// The profiles of a text.
fn parse(path: &Path, text: &str) -> Result<Table, Failure> {
    let table: Table = toml::from_str(text).map_err(|error| {
        // Not as the error shows itself: it quotes the line, which may hold a token.
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Failure::new(format!("`{}` is not TOML: line {line}: {}", path.display(), error.message()))
            .hint("Modal keeps profiles there; mend it, or name another file in `MODAL_CONFIG_PATH`")
    })?;
    if let Some((name, _)) = table.iter().find(|(_, value)| !value.is_table()) {
        return Err(Failure::new(format!("`{name}` in `{}` belongs to no profile", path.display()))
            .hint("a profile is a section: write a line such as `[default]` above it"));
    }
    Ok(table)
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Boolean(_) | Value::Integer(_) => Some(value.to_string()),
        _ => None,
    }
}

/// The text with a setting below the head of a section, instead of where the section, or any section, had it.
fn edited(text: &str, profile: &str, setting: &str, value: &Value, everywhere: bool) -> String {
    let line = format!("{setting} = {value}\n");
    let (mut result, mut section, mut is_written) = (String::new(), None, false);
    for old in text.lines() {
        let begun = section_of(old);
        let is_begun = begun.as_deref() == Some(profile);
        let is_head = begun.is_some();
        section = begun.or(section);
        let is_ours = everywhere || section.as_deref() == Some(profile);
        if !is_head && is_ours && old.split_once('=').is_some_and(|(key, _)| key.trim() == setting) {
            continue;
        }
        result.extend([old, "\n"]);
        if is_begun {
            result.push_str(&line);
            is_written = true;
        }
    }
    if !is_written {
        let gap = if result.is_empty() { "" } else { "\n" };
        result.extend([gap, "[", profile, "]\n", &line]);
    }
    result
}

/// The section that a line begins.
fn section_of(line: &str) -> Option<String> {
    if !line.trim_start().starts_with('[') {
        return None;
    }
    let table: Table = toml::from_str(line).ok()?;
    table.keys().next().cloned()
}

/// Replaces a file, also behind a link; what it permits stays, and a new one is its user's alone.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let (path, mode) = match fs_err::canonicalize(path) {
        Ok(path) => {
            let mode = fs_err::metadata(&path)?.permissions().mode();
            (path, mode)
        }
        Err(_) => (path.to_owned(), 0o600),
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".modal-profiles-").tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode & 0o777))?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "\
# mine
[work]
token_id = \"ak-hunter2\"
environment = \"staging\"

[home] # at home
active = true
force_build = true
";

    fn profiles(text: &str) -> Result<Profiles, Failure> {
        let path = PathBuf::from("/home/ada/.modal.toml");
        Ok(Profiles { sections: parse(&path, text)?, path: Some(path), text: text.to_owned() })
    }

    fn chosen(text: &str, named: Option<&str>) -> String {
        match profiles(text).unwrap().chosen(named) {
            Ok(name) => name.to_owned(),
            Err(failure) => format!("{failure:?}"),
        }
    }

    #[test]
    fn the_profile_in_use_is_named_active_or_alone() {
        assert_eq!(chosen(TWO, None), "home");
        assert_eq!(chosen(TWO, Some("work")), "work");
        assert_eq!(chosen("[only]\nenvironment = \"x\"", None), "only");
        assert_eq!(chosen("", None), "default");
        assert_eq!(chosen("", Some("ci")), "default");
        insta::assert_snapshot!(chosen(TWO, Some("works")), @r#"Failure { message: "there is no profile `works` in `/home/ada/.modal.toml`", hint: Some("`MODAL_PROFILE` names it; `modal profile list` shows what there is") }"#);
        insta::assert_snapshot!(chosen("[a]\n[b]", None), @r#"Failure { message: "no profile of `/home/ada/.modal.toml` is active", hint: Some("`modal profile activate NAME` activates one") }"#);
        insta::assert_snapshot!(chosen("[a]\nactive=true\n[b]\nactive=true", None), @r#"Failure { message: "`/home/ada/.modal.toml` has more than one active profile: `a`, `b`", hint: Some("`modal profile activate NAME` leaves one") }"#);
    }

    #[test]
    fn what_is_malformed_is_named_without_its_contents() {
        let said = |text: &str| format!("{:?}", profiles(text).unwrap_err());
        insta::assert_snapshot!(said("[a]\ntoken_secret = as-hunter2\n"), @r#"Failure { message: "`/home/ada/.modal.toml` is not TOML: line 2: string values must be quoted, expected literal string", hint: Some("Modal keeps profiles there; mend it, or name another file in `MODAL_CONFIG_PATH`") }"#);
        insta::assert_snapshot!(said("token_id = \"ak-hunter2\"\n"), @r#"Failure { message: "`token_id` in `/home/ada/.modal.toml` belongs to no profile", hint: Some("a profile is a section: write a line such as `[default]` above it") }"#);
    }

    #[test]
    fn one_line_is_changed_and_the_rest_stays() {
        insta::assert_snapshot!(edited(TWO, "work", "active", &true.into(), true), @r#"
        # mine
        [work]
        active = true
        token_id = "ak-hunter2"
        environment = "staging"

        [home] # at home
        force_build = true
        "#);
        insta::assert_snapshot!(edited(TWO, "work", "environment", &"a \"b\"".into(), false), @r#"
        # mine
        [work]
        environment = 'a "b"'
        token_id = "ak-hunter2"

        [home] # at home
        active = true
        force_build = true
        "#);
        insta::assert_snapshot!(edited("", "default", "environment", &"dev".into(), false), @r#"
        [default]
        environment = "dev"
        "#);
    }

    #[test]
    fn a_file_that_lines_cannot_change_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("modal.toml");
        let text = "work = { active = true }\n[home]\n";
        fs_err::write(&path, text).unwrap();
        let read = Profiles { sections: parse(&path, text).unwrap(), path: Some(path.clone()), text: text.to_owned() };
        assert!(read.activate("home").is_err());
        assert!(read.activate("nobody").is_err());
        assert_eq!(fs_err::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_file_behind_a_link_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs_err::write(&real, TWO).unwrap();
        fs_err::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let read = Profiles { sections: parse(&link, TWO).unwrap(), path: Some(link.clone()), text: TWO.to_owned() };
        read.activate("work").unwrap();
        assert!(fs_err::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs_err::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        let now = fs_err::read_to_string(&real).unwrap();
        assert_eq!(Profiles { sections: parse(&link, &now).unwrap(), ..read }.chosen(None).unwrap(), "work");
    }
}
