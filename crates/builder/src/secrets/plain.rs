//! Which values of a secret are plainly none. Secrets of real programs hold settings beside keys: a region, a bucket's
//! name, `true`.

/// How a value is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    /// A setting: neither looked for nor masked.
    Setting,
    /// It may be a secret, and it may occur by accident: not looked for in what packages brought.
    Word,
    /// Nothing contains it by accident.
    Random,
}

/// Parts of variables' names that say that the value is a secret.
const SECRET_NAMES: [&str; 18] = [
    "KEY",
    "KEYS",
    "APIKEY",
    "TOKEN",
    "SECRET",
    "SECRETS",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PASS",
    "PWD",
    "PW",
    "CREDENTIAL",
    "CREDENTIALS",
    "AUTH",
    "PRIVATE",
    "DSN",
    "WEBHOOK",
];

/// Parts of variables' names that say that the value is a setting.
const SETTING_NAMES: [&str; 29] = [
    "REGION",
    "ZONE",
    "LOCATION",
    "BUCKET",
    "HOST",
    "HOSTNAME",
    "PORT",
    "USER",
    "USERNAME",
    "NAME",
    "PROJECT",
    "ENV",
    "ENVIRONMENT",
    "STAGE",
    "MODE",
    "LEVEL",
    "LOCALE",
    "LANG",
    "TZ",
    "TIMEZONE",
    "PREFIX",
    "DIR",
    "DIRECTORY",
    "PATH",
    "FOLDER",
    "DEBUG",
    "VERSION",
    "FRONTEND",
    "ENDPOINT",
];

/// Words that regions of clouds begin with.
const CONTINENTS: [&str; 18] = [
    "us",
    "eu",
    "ap",
    "ca",
    "sa",
    "me",
    "af",
    "il",
    "mx",
    "cn",
    "europe",
    "asia",
    "northamerica",
    "southamerica",
    "australia",
    "africa",
    "east",
    "west",
];

/// Words that answer a question.
const ANSWERS: [&str; 6] = ["disabled", "production", "development", "noninteractive", "localhost", "enabled"];

/// What the value of a variable is.
pub(super) fn nature(variable: &str, value: &str) -> Nature {
    if value.split(|one: char| !one.is_ascii_alphanumeric()).any(is_random) {
        return Nature::Random;
    }
    let parts: Vec<String> = variable.split('_').map(str::to_ascii_uppercase).collect();
    let is_named = |names: &[&str]| parts.iter().any(|part| names.contains(&part.as_str()));
    let is_setting = !is_named(&SECRET_NAMES)
        && !value.contains('\n')
        && (is_named(&SETTING_NAMES) && is_readable(value) || is_answer(value) || is_region(value) || is_place(value));
    if is_setting { Nature::Setting } else { Nature::Word }
}

/// A run of letters and digits that nobody made up by hand: long, with digits here and there.
fn is_random(run: &str) -> bool {
    let has_letters = run.bytes().any(|byte| byte.is_ascii_alphabetic());
    run.len() >= 16 && has_letters && changes(run, |byte| byte.is_ascii_digit()) >= 3
}

/// How often bytes follow each other of which one is of a kind and the other is not.
fn changes(run: &str, is_kind: impl Fn(u8) -> bool) -> usize {
    run.as_bytes().windows(2).filter(|pair| is_kind(pair[0]) != is_kind(pair[1])).count()
}

/// Whether a text consists of words: none long, none that mixes letters and digits, or cases, as keys do.
fn is_readable(text: &str) -> bool {
    text.split(|one: char| !one.is_ascii_alphanumeric()).all(|word| {
        word.len() <= 20
            && changes(word, |byte| byte.is_ascii_digit()) <= 2
            && changes(word, |byte| byte.is_ascii_uppercase()) <= 4
    }) && text.chars().all(|one| one.is_alphanumeric() || "-_./:, @".contains(one))
        && !text.contains("://")
}

fn is_answer(value: &str) -> bool {
    ANSWERS.contains(&value.to_ascii_lowercase().as_str())
}

/// `us-east-1`, `europe-west4`, `eu-central-1b`.
fn is_region(value: &str) -> bool {
    let mut parts = value.split('-');
    parts.next().is_some_and(|first| CONTINENTS.contains(&first))
        && value.len() <= 24
        && value.rsplit('-').next().is_some_and(|last| last.contains(|one: char| one.is_ascii_digit()))
        && parts
            .all(|part| part.len() <= 12 && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()))
}

/// A directory, or an address without credentials and without a query.
fn is_place(value: &str) -> bool {
    let place = match value.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+') => rest,
        _ if value.starts_with('/') => value,
        _ => return false,
    };
    !place.contains(['@', '?', '#']) && is_readable(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_from_secrets() {
        for (variable, value) in [
            ("AWS_REGION", "us-east-1"),
            ("WHERE", "europe-west4"),
            ("S3_BUCKET", "my-company-data-2024"),
            ("DB_HOST", "db.internal.example.com"),
            ("PGUSER_NAME", "postgres"),
            ("PREFIX", "/usr/local"),
            ("API_URL", "https://api.example.com:8443/v1"),
            ("STATE", "production"),
            ("GOOGLE_APPLICATION", "/root/service_account.json"),
        ] {
            assert_eq!(nature(variable, value), Nature::Setting, "{variable}={value}");
        }
        for (variable, value) in [
            ("TOKEN", "correct-horse-battery"),
            ("DB_PASSWORD", "postgres"),
            ("SECRET_KEY", "us-east-1"),
            ("WHATEVER", "hunter2hunter2"),
            ("ACCOUNT", "123456789012"),
            ("DATABASE", "postgres://me:secret@db.example.com/x"),
            ("HOOK", "https://hooks.example.com/services/T0/XyZaBcDeFgHiJkLmNoPq"),
            ("CERTIFICATE", "line one\nline two"),
            ("APP_NAME", "pässwörd!-with$signs"),
            ("WORD", "us-is-my-passphrase"),
        ] {
            assert_eq!(nature(variable, value), Nature::Word, "{variable}={value}");
        }
        for (variable, value) in [
            ("TOKEN", "sk-proj-a8Fj29dkQm3Lx0Pz7"),
            ("S3_BUCKET", "3f9a8b7c6d5e4f3a2b1c0d9e"),
            ("URL", "https://hooks.example.com/services/T0/X1y2Z3a4B5c6D7e8F9"),
        ] {
            assert_eq!(nature(variable, value), Nature::Random, "{variable}={value}");
        }
    }
}
