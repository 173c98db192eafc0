//! Release files: what an archive has, and when it said so.

use std::collections::HashMap;

use lamina_fetch::is_sha256;

use crate::control::stanzas;
use crate::{BaseError, date};

/// A clock may be behind the archive's by this many seconds before that is an error.
const CLOCK_TOLERANCE: u64 = 60 * 60;

/// A file that a release file lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// SHA-256, lower-case hexadecimal.
    pub(crate) sha256: String,
    /// Size in bytes.
    pub(crate) size: u64,
}

/// A release file whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// When it was made, in seconds since 1970.
    pub(crate) date: u64,
    /// When it ceases to be valid.
    valid_until: Option<u64>,
    /// Whether files can be had by their digest, which a mirror in the middle of an update has too.
    pub(crate) by_hash: bool,
    codename: String,
    suite: String,
    files: HashMap<String, Listed>,
}

impl Release {
    /// Reads the verified text of the release file at `url`.
    pub(crate) fn parse(text: &str, url: &str) -> Result<Self, BaseError> {
        let malformed = |reason: &str| BaseError::malformed(url, &reason);
        let stanza = stanzas(text).next().ok_or_else(|| malformed("it is empty"))?;
        let time = |field| match stanza.get(field) {
            Some(value) => date::parse(value).map(Some).ok_or_else(|| malformed(&format!("`{field}` is no date"))),
            None => Ok(None),
        };
        let mut files = HashMap::new();
        for line in stanza.get("SHA256").unwrap_or_default().lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(sha256), Some(size), Some(name)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if !is_sha256(sha256) {
                return Err(malformed(&format!("`{sha256}` is no SHA-256")));
            }
            let size = size.parse().map_err(|_| malformed(&format!("`{size}` is no size")))?;
            files.insert(name.to_owned(), Listed { sha256: sha256.to_owned(), size });
        }
        Ok(Self {
            date: time("Date")?.ok_or_else(|| malformed("it has no date"))?,
            valid_until: time("Valid-Until")?,
            by_hash: stanza.flag("Acquire-By-Hash").unwrap_or_default(),
            codename: stanza.get("Codename").unwrap_or_default().to_owned(),
            suite: stanza.get("Suite").unwrap_or_default().to_owned(),
            files,
        })
    }

    /// Checks that it is about this suite: a signed release file of another one, served in its place, proves nothing.
    pub(crate) fn check_suite(&self, suite: &str, url: &str) -> Result<(), BaseError> {
        if self.codename == suite || self.suite == suite {
            return Ok(());
        }
        Err(BaseError::malformed(
            url,
            &format!("it is about `{}`, not about `{suite}`; the mirror serves the wrong file", self.codename),
        ))
    }

    /// Checks its times against the clock.
    pub(crate) fn check_times(&self, url: &str, now: u64, check_valid_until: bool) -> Result<(), BaseError> {
        if self.date > now + CLOCK_TOLERANCE {
            return Err(BaseError::ClockBehind { url: url.into(), date: date::show(self.date), now: date::show(now) });
        }
        match self.valid_until {
            Some(end) if check_valid_until && end < now => {
                Err(BaseError::Outdated { url: url.into(), valid_until: date::show(end), now: date::show(now) })
            }
            _ => Ok(()),
        }
    }

    /// A file it lists.
    pub(crate) fn file(&self, name: &str) -> Option<&Listed> {
        self.files.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "main/binary-amd64/Packages.xz";

    fn text() -> String {
        format!(
            "Origin: Debian\nSuite: stable-security\nCodename: trixie-security\nDate: Sat, 21 Nov 2026 00:00:00 UTC\n\
             Valid-Until: Sat, 28 Nov 2026 00:00:00 UTC\nAcquire-By-Hash: yes\nMD5Sum:\n x 1 {NAME}\nSHA256:\n {} 12 {NAME}\n",
            "a".repeat(64)
        )
    }

    #[test]
    fn fields_and_digests() {
        let release = Release::parse(&text(), "u").unwrap();
        assert_eq!((release.date, release.by_hash), (1_795_219_200, true));
        assert_eq!(release.file(NAME).unwrap().size, 12);
        release.check_suite("trixie-security", "u").unwrap();
        assert!(release.check_suite("bookworm-security", "u").is_err());
    }

    #[test]
    fn times_are_checked_both_ways() {
        let release = Release::parse(&text(), "u").unwrap();
        let day = 24 * 60 * 60;
        release.check_times("u", release.date + day, true).unwrap();
        let behind = release.check_times("u", release.date - day, true).unwrap_err();
        assert!(matches!(behind, BaseError::ClockBehind { .. }));
        let late = release.check_times("u", release.date + 8 * day, true).unwrap_err();
        assert!(matches!(late, BaseError::Outdated { .. }) && late.to_string().contains("2026-11-28"));
        release.check_times("u", release.date + 8 * day, false).unwrap();
    }

    #[test]
    fn malformed_ones_are_refused() {
        for (from, to) in [("21 Nov", "21 Nor"), ("Date:", "Dat:"), ("aaaa", "../a"), (" 12 ", " -1 ")] {
            assert!(Release::parse(&text().replacen(from, to, 1), "u").is_err(), "{from}");
        }
        assert!(Release::parse("", "u").is_err());
    }
}
