//! Leading apt to the host's mirror: programs in the place of the methods that apt fetches and verifies with.
//!
//! The sources inside an image name Debian's own archive and may be edited in a step like everything else, by hand or by
//! programs that read apt's settings. So neither the sources nor their place may be changed under them; only the way to the
//! archive is. apt speaks with its methods in lines of text, and each program here is apt's own method with the addresses
//! replaced on the way in and put back on the way out. Lists then have the archive's name, whatever the mirror.

use std::fmt::Write as _;

use crate::mirror::{DEFAULT_ARCHIVE, DEFAULT_SECURITY, Mirror};
use crate::shell::quote;

/// Where apt has its methods.
const METHODS: &str = "/usr/lib/apt/methods";

/// A program for apt to use as a method.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// Whose place it takes.
    pub(super) name: &'static str,
    /// The program.
    pub(super) script: String,
}

/// The methods that lead to `mirror`, and to its keys inside where Debian's own are not those that sign it.
pub(super) fn for_mirror(mirror: &Mirror, keyring: Option<&str>) -> Vec<Method> {
    let archives = [
        Some((DEFAULT_ARCHIVE, mirror.archive.as_str())),
        mirror.security.as_deref().map(|security| (DEFAULT_SECURITY, security)),
    ];
    let mut archives: Vec<_> = archives.into_iter().flatten().filter(|(archive, mirror)| archive != mirror).collect();
    // Where one mirror lies within the other, the longer address is the one that is meant.
    archives.sort_by_key(|(_, mirror)| std::cmp::Reverse(mirror.len()));
    let mut methods = Vec::new();
    if !archives.is_empty() {
        methods.extend(["http", "https"].map(|name| fetching(name, &archives)));
    }
    if let Some(keyring) = keyring {
        methods.extend(["gpgv", "sqv"].map(|name| verifying(name, keyring)));
    }
    methods
}

/// Fetches from mirrors what is asked of Debian's archives.
fn fetching(name: &'static str, archives: &[(&str, &str)]) -> Method {
    let secure = archives.iter().any(|(_, mirror)| mirror.starts_with("https:"));
    // It speaks TLS where an address says so; its name only chooses the settings.
    let program = if secure { "https" } else { name };
    let archive = |url: &str| url.replacen("http:", &format!("{name}:"), 1);
    let (mut there, mut back) = (String::new(), String::new());
    let (direct, mapped): (Vec<_>, Vec<_>) = archives
        .iter()
        .map(|(default, mirror)| {
            (((*mirror).to_owned(), spelled_out(mirror)), (archive(default), (*mirror).to_owned()))
        })
        .unzip();
    // What the sources ask the mirror itself for keeps its address, too: the spelling tells the answers apart.
    for (from, to) in direct.iter().chain(&mapped) {
        there.push_str(&replace(from, to));
        back.push_str(&replace(to, from));
    }
    Method { name, script: filtered(program, &there, &back) }
}

/// Verifies with the mirror's keys what comes from Debian's archives, whether the sources name keys or not.
fn verifying(name: &'static str, keyring: &str) -> Method {
    let mut program = String::new();
    for archive in [DEFAULT_ARCHIVE, DEFAULT_SECURITY] {
        // Lists are named by the addresses that they come from.
        let list = archive.split_once("://").map_or(archive, |(_, rest)| rest).replace('/', "_");
        let (list, keyring) = (pattern(&format!("/{list}_dists_")), replacement(keyring));
        let _ = writeln!(
            program,
            "\\|^URI: gpgv:.*{list}|,/^$/{{\n/^Signed-By:/d\ns|^URI: .*|&\\nSigned-By: {keyring}|\n}}"
        );
    }
    Method { name, script: filtered(name, &program, "") }
}

/// A method between two filters. `-u` passes every line on at once.
fn filtered(method: &str, there: &str, back: &str) -> String {
    let out = if back.is_empty() { String::new() } else { format!(" | sed -u {}", quote(back)) };
    format!("#!/bin/sh\nsed -u {} | {METHODS}/{method}{out}\n", quote(there))
}

/// A command of `sed` that replaces the beginning of an address; the first that does is the last.
fn replace(from: &str, to: &str) -> String {
    format!("s|^URI: {}/|URI: {}/|;t\n", pattern(from), replacement(to))
}

/// An address that leads to the same place, but differs: with its port.
fn spelled_out(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rfind([']', '@']).map_or(0, |end| end + 1);
    let authority = match authority[host..].rfind(':') {
        Some(colon) => format!("{}:0{}", &authority[..host + colon], &authority[host + colon + 1..]),
        None => format!("{authority}:{}", if scheme == "https" { "443" } else { "80" }),
    };
    format!("{scheme}://{authority}{path}")
}

/// Text as a pattern of `sed` that matches just that.
fn pattern(text: &str) -> String {
    escaped(text, r"\.*[]^$|")
}

/// Text as a replacement of `sed`.
fn replacement(text: &str) -> String {
    escaped(text, r"\&|")
}

fn escaped(text: &str, special: &str) -> String {
    text.chars().flat_map(|one| special.contains(one).then_some('\\').into_iter().chain([one])).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn mirror(archive: &str, security: Option<&str>) -> Mirror {
        Mirror { archive: archive.to_owned(), security: security.map(str::to_owned), ..Mirror::default() }
    }

    /// What a method answers when it is told `lines`; apt's own method is played by `program`.
    fn answer(method: &Method, program: &str, lines: &str) -> String {
        let script = method.script.replace(&format!("{METHODS}/{}", method.name), program);
        let mut child =
            Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    }

    #[test]
    fn debians_own_archive_needs_nothing() {
        assert_eq!(for_mirror(&Mirror::default(), None), []);
    }

    #[test]
    fn the_mirror_is_asked_and_the_archive_answers() {
        let mirror =
            mirror("http://mirror.example:8080/a.b/debian", Some("http://mirror.example:8080/a.b/debian/sec|urity&x"));
        let [http, https] = &for_mirror(&mirror, None)[..] else { panic!("not two methods") };
        let asked = [
            format!("{DEFAULT_ARCHIVE}/pool/a%2bb.deb"),
            format!("{DEFAULT_SECURITY}/dists/x"),
            "http://mirror.example:8080/a.b/debian/pool/a".to_owned(),
            "http://mirror.example:8080/a.b/debian/sec|urity&x/pool/a".to_owned(),
            "http://mirror.example:8080/axb/debian/pool/a".to_owned(),
            "http://other.example/debian/".to_owned(),
        ];
        let lines: Vec<_> = asked.iter().map(|url| format!("600 URI Acquire\nURI: {url}\n\n")).collect();
        let lines = lines.concat();
        let seen = answer(http, "sed -n s/^URI:/Saw:/p", &lines);
        insta::assert_snapshot!(seen, @r"
        Saw: http://mirror.example:8080/a.b/debian/pool/a%2bb.deb
        Saw: http://mirror.example:8080/a.b/debian/sec|urity&x/dists/x
        Saw: http://mirror.example:08080/a.b/debian/pool/a
        Saw: http://mirror.example:08080/a.b/debian/sec|urity&x/pool/a
        Saw: http://mirror.example:8080/axb/debian/pool/a
        Saw: http://other.example/debian/
        ");
        assert_eq!(answer(http, "cat", &lines), lines, "apt sees what it asked for");
        let secure = lines.replace("http:", "https:");
        assert_eq!(answer(https, "cat", &secure), secure);
    }

    #[test]
    fn equal_places_are_spelled_differently() {
        for (url, spelled) in [
            ("http://a/debian", "http://a:80/debian"),
            ("https://a/debian", "https://a:443/debian"),
            ("http://u:p@a:81/d", "http://u:p@a:081/d"),
            ("http://u:p@a/d", "http://u:p@a:80/d"),
            ("http://[::1]/d", "http://[::1]:80/d"),
            ("http://[::1]:8080", "http://[::1]:08080"),
        ] {
            assert_eq!(spelled_out(url), spelled);
        }
    }

    #[test]
    fn the_mirrors_keys_take_the_place_of_debians() {
        let methods = for_mirror(&Mirror::default(), Some("/keys.asc"));
        let lists = "/var/lib/apt/lists/partial";
        let name = |url: &str| url.trim_start_matches("http://").replace('/', "_");
        let request = |url: &str, keys: &str| {
            format!("600 URI Acquire\nURI: gpgv:{lists}/{}_dists_bookworm_InRelease\n{keys}Filename: x\n\n", name(url))
        };
        let lines = [
            request(DEFAULT_ARCHIVE, ""),
            request(DEFAULT_SECURITY, "Signed-By: /debian.gpg\n"),
            request("http://example/debian", "Signed-By: /debian.gpg\n"),
        ];
        let answered = answer(&methods[0], "sed -n s/^Signed-By:/Key:/p", &lines.concat());
        assert_eq!(answered, "Key: /keys.asc\nKey: /keys.asc\nKey: /debian.gpg\n");
    }
}
