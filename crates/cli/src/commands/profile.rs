//! `modal profile` and `modal config`: what is in Modal's file of profiles, as far as it has a meaning here.

use std::fmt::Write as _;

use lamina_ground::EnvVars;
use serde_json::{Map, Value, json};

use super::ask::say;
use super::{print, print_json};
use crate::arguments::{Config, Profile};
use crate::failure::Failure;
use crate::output::text;
use crate::profiles::{Profiles, SETTINGS};

/// What settings are where nobody says otherwise.
const DEFAULTS: [(&str, &str); 2] = [("environment", "main"), ("loglevel", "WARNING")];

/// The keys to an account, which mean nothing here and are nobody's business.
const TOKENS: [(&str, &str); 2] =
    [("token_id", EnvVars::MODAL_TOKEN_ID), ("token_secret", EnvVars::MODAL_TOKEN_SECRET)];

/// Lists profiles, names the one in use, or activates one.
pub(crate) fn profile(profile: &Profile) -> Result<u8, Failure> {
    let profiles = Profiles::read()?;
    match profile {
        Profile::List { json } => list(&profiles, *json)?,
        Profile::Current => print(format!("{}\n", profiles.current()?).as_bytes())?,
        Profile::Activate { name } => {
            profiles.activate(name)?;
            say(&format!("The profile `{name}` is active now.\n"));
        }
    }
    Ok(0)
}

/// Shows the settings, or changes one.
pub(crate) fn config(config: &Config) -> Result<u8, Failure> {
    let profiles = Profiles::read()?;
    match config {
        Config::Show { json: false } => print(table(&settings(&profiles)?).as_bytes())?,
        Config::Show { json: true } => {
            let shown = settings(&profiles)?.into_iter().map(|setting| {
                let (name, value) =
                    (setting.name.to_owned(), json!({ "value": setting.value, "source": setting.source }));
                (name, value)
            });
            print_json(&shown.collect::<Map<String, Value>>())?;
        }
        Config::SetEnvironment { name } => {
            profiles.set_environment(name)?;
            say(&format!("The environment of the profile `{}` is `{name}` now.\n", profiles.current()?));
        }
    }
    Ok(0)
}

fn list(profiles: &Profiles, as_json: bool) -> Result<(), Failure> {
    // A file in which none or several are active is listed for that very reason.
    let current = profiles.current().ok();
    let rows: Vec<(&str, &str, bool)> = profiles
        .names()
        .map(|name| (name, profiles.environment(name).unwrap_or("main"), Some(name) == current))
        .collect();
    if as_json {
        let row = |&(name, environment, active): &(&str, &str, bool)| json!({ "name": name, "environment": environment, "active": active });
        return print_json(&rows.iter().map(row).collect::<Vec<_>>());
    }
    if rows.is_empty() {
        say("There are no profiles, and nothing here needs one.\n");
        return Ok(());
    }
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max("profile".len());
    let mut text = format!("  {:width$}  environment\n", "profile");
    for (name, environment, active) in rows {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {name:width$}  {environment}", if active { '*' } else { ' ' });
    }
    print(text.as_bytes())
}

/// A setting as it is shown.
struct Setting {
    name: &'static str,
    value: Option<String>,
    source: &'static str,
}

/// All settings: what the variable says, or else the profile.
fn settings(profiles: &Profiles) -> Result<Vec<Setting>, Failure> {
    let mut of_profile = profiles.settings()?;
    let mut shown: Vec<Setting> = Vec::new();
    for (name, variable) in SETTINGS {
        let given =
            of_profile.iter().position(|(known, ..)| *known == name).map(|place| of_profile.swap_remove(place).2);
        let (value, source) = match (std::env::var(variable).ok(), given) {
            (Some(value), _) => (Some(value), "variable"),
            (None, Some(value)) => (Some(value), "profile"),
            (None, None) => {
                let default = DEFAULTS.iter().find(|(known, _)| *known == name);
                (default.map(|(_, value)| (*value).to_owned()), "default")
            }
        };
        shown.push(Setting { name, value, source });
    }
    let current = profiles.current()?;
    for (name, variable) in TOKENS {
        let source = if std::env::var_os(variable).is_some() { "variable" } else { "profile" };
        if source == "variable" || profiles.has(current, name) {
            shown.push(Setting { name, value: Some("***".to_owned()), source });
        }
    }
    Ok(shown)
}

fn table(settings: &[Setting]) -> String {
    let value = |setting: &Setting| text::clean(setting.value.as_deref().unwrap_or("-"));
    let name_width = settings.iter().map(|setting| setting.name.len()).max().unwrap_or(0);
    let value_width = settings.iter().map(|setting| value(setting).chars().count()).max().unwrap_or(0);
    let mut table = String::new();
    for setting in settings {
        let source = match setting.source {
            "variable" => format!("variable `MODAL_{}`", setting.name.to_uppercase()),
            source => source.to_owned(),
        };
        let note = if setting.name.starts_with("token_") { ", not used" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(table, "{:name_width$}  {:value_width$}  {source}{note}", setting.name, value(setting));
    }
    table
}
