//! Reading the host's apt sources: `.sources` files (deb822) and one-line `.list` files.

use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::control::{is_yes, stanzas, value_lines};
use crate::openpgp::Keyring;
use crate::plan::architecture;

/// Debian's suites, by codename and by role.
const SUITES: [&str; 15] = [
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "stable",
    "testing",
    "unstable",
    "oldstable",
    "oldoldstable",
    "experimental",
    "rc-buggy",
    "proposed-updates",
];

/// One archive of the host's sources: one address, one suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The address, without a slash at its end.
    pub(super) url: String,
    pub(super) suite: String,
    pub(super) components: Vec<String>,
    pub(super) signed_by: Option<SignedBy>,
    pub(super) check_valid_until: bool,
    /// The file that it stands in.
    pub(super) file: String,
}

/// What `Signed-By` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SignedBy {
    File(PathBuf),
    Inline(String),
}

impl Entry {
    /// Whether it is a security archive.
    pub(super) fn is_security(&self) -> bool {
        self.suite.ends_with("-security") || self.suite.ends_with("/updates")
    }

    /// How little it looks like Debian's own archive: the lowest is the best, `None` if it cannot be one. Third parties
    /// use Debian's suite names and `main` too, but not both Debian's directory name and its keyring.
    pub(super) fn strangeness(&self) -> Option<u32> {
        let suite = ["-security", "/updates", "-updates", "-backports", "-proposed-updates"]
            .iter()
            .find_map(|ending| self.suite.strip_suffix(ending))
            .unwrap_or(&self.suite);
        let possible = SUITES.contains(&suite)
            && self.components.iter().any(|component| component == "main" || component == "updates/main")
            && (self.url.starts_with("http://") || self.url.starts_with("https://"));
        let directory = self.url.rsplit('/').next().unwrap_or_default();
        let foreign_directory = !matches!(directory, "debian" | "debian-security");
        let foreign_keyring = match &self.signed_by {
            None => false,
            Some(SignedBy::File(path)) => !is_debian_keyring(path),
            Some(SignedBy::Inline(_)) => true,
        };
        let strangeness = 2 * u32::from(foreign_keyring) + u32::from(foreign_directory);
        (possible && strangeness < 3).then_some(strangeness)
    }

    /// The keys that may sign it.
    pub(super) fn keyring(&self) -> Keyring {
        let origin = format!("`Signed-By` in {}", self.file);
        match &self.signed_by {
            None => Keyring::BuiltIn,
            Some(SignedBy::Inline(armored)) => Keyring::Inline { armored: armored.clone(), origin },
            Some(SignedBy::File(path)) => Keyring::File { debian: is_debian_keyring(path), path: path.clone(), origin },
        }
    }
}

/// Whether a keyring's name is that of the package `debian-archive-keyring`.
fn is_debian_keyring(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("debian-archive-"))
}

/// All entries below `root`. What cannot be read is as good as not there: the host's sources are only a hint.
pub(super) fn read(root: &Path) -> Vec<Entry> {
    let mut files = vec![root.join("etc/apt/sources.list")];
    let mut further: Vec<_> = fs::read_dir(root.join("etc/apt/sources.list.d"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    further.sort();
    files.append(&mut further);
    files
        .iter()
        .filter_map(|path| {
            let name = path.display().to_string();
            let text = fs::read_to_string(path).ok()?;
            match path.extension()?.to_str()? {
                "list" => Some(one_line(&text, &name)),
                "sources" => Some(deb822(&text, &name)),
                _ => None,
            }
        })
        .flatten()
        .collect()
}

/// Entries of a deb822 file.
pub(super) fn deb822(text: &str, file: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for stanza in stanzas(text) {
        let for_us = stanza.get("Architectures").is_none_or(|list| is_for_us(list, ' '));
        if stanza.flag("Enabled") == Some(false) || !stanza.words("Types").any(|kind| kind == "deb") || !for_us {
            continue;
        }
        for url in stanza.words("URIs") {
            for suite in stanza.words("Suites") {
                entries.push(Entry {
                    url: url.trim_end_matches('/').into(),
                    suite: suite.into(),
                    components: stanza.words("Components").map(Into::into).collect(),
                    signed_by: stanza.get("Signed-By").and_then(signed_by),
                    check_valid_until: stanza.flag("Check-Valid-Until") != Some(false),
                    file: file.into(),
                });
            }
        }
    }
    entries
}

/// Entries of a one-line file: `deb [option=value …] address suite component …`.
pub(super) fn one_line(text: &str, file: &str) -> Vec<Entry> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next()?.trim();
            let rest = line.strip_prefix("deb")?;
            let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
            let (options, rest) = match rest.strip_prefix('[') {
                Some(rest) => rest.split_once(']')?,
                None => ("", rest),
            };
            let option = |name: &str| {
                options
                    .split_ascii_whitespace()
                    .filter_map(|option| option.split_once('='))
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value)
            };
            if option("arch").is_some_and(|list| !is_for_us(list, ',')) {
                return None;
            }
            let mut words = rest.split_ascii_whitespace();
            Some(Entry {
                url: words.next()?.trim_end_matches('/').into(),
                suite: words.next()?.into(),
                components: words.map(Into::into).collect(),
                signed_by: option("signed-by").and_then(signed_by),
                check_valid_until: option("check-valid-until").is_none_or(is_yes),
                file: file.into(),
            })
        })
        .collect()
}

/// Whether a list of architectures, separated by white space or `separator`, has this machine's.
fn is_for_us(list: &str, separator: char) -> bool {
    let ours = architecture().unwrap_or_default();
    list.split(|character: char| character == separator || character.is_whitespace())
        .any(|architecture| architecture == ours)
}

/// A file name or an inline key. Fingerprints restrict the host's trusted keys, which is not our affair: Debian's apply.
fn signed_by(value: &str) -> Option<SignedBy> {
    if value.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        let lines: Vec<_> = value_lines(value).collect();
        return Some(SignedBy::Inline(lines.join("\n") + "\n"));
    }
    let first = value.split([' ', '\t', '\n', ',']).next()?;
    first.starts_with('/').then(|| SignedBy::File(first.into()))
}

/// Whether the host's apt minds release files past their `Valid-Until`: its `Acquire::Check-Valid-Until` setting.
pub(super) fn apt_checks_valid_until(root: &Path) -> bool {
    let directory = root.join("etc/apt");
    let mut files: Vec<PathBuf> = fs::read_dir(directory.join("apt.conf.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.push(directory.join("apt.conf"));
    let texts = files.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.flat_map(|text| check_valid_until_settings(&text)).last().unwrap_or(true)
}

/// The values of `Acquire::Check-Valid-Until` in an apt configuration file.
fn check_valid_until_settings(text: &str) -> Vec<bool> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("//") && !line.starts_with('#'));
    lines
        .filter_map(|line| line.strip_prefix("Acquire::Check-Valid-Until"))
        .map(|value| is_yes(value.trim().trim_end_matches(';').trim().trim_matches('"')))
        .collect()
}
