//! Which base gives which Python.

use std::fmt;

use lamina_image::{Facts, Libc};
use serde::{Deserialize, Serialize};

use crate::BaseError;

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Debian 11.
    Bullseye,
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
    /// Debian 14, in the making.
    Forky,
}

/// Debian, as the `ID` of its `/etc/os-release`.
pub(crate) const FAMILY: &str = "debian";

impl Suite {
    const ALL: [Self; 4] = [Self::Bullseye, Self::Bookworm, Self::Trixie, Self::Forky];

    /// The codename, as in the archive.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }

    /// Whether its `apt` trusts Debian's own keys for sources that name none.
    pub(crate) fn trusts_archive(self) -> bool {
        matches!(self, Self::Bullseye | Self::Bookworm)
    }

    /// The C library of the release's start: what binary packages may rely on.
    pub(crate) fn libc(self) -> Libc {
        match self {
            Self::Bullseye => Libc::Glibc(2, 31),
            Self::Bookworm => Libc::Glibc(2, 36),
            Self::Trixie | Self::Forky => Libc::Glibc(2, 41),
        }
    }

    /// The release that an image is of, if it is one of these.
    #[must_use]
    pub fn of(facts: &Facts) -> Option<Self> {
        let system = facts.system.as_ref().filter(|system| system.family == FAMILY)?;
        Self::ALL.into_iter().find(|suite| suite.name() == system.release)
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Exact versions that a released suite has itself: its Python never changes again.
const RELEASED: [&str; 3] = ["3.9.2", "3.11.2", "3.13.5"];

/// The Python series offered, oldest first, each with the suite whose own Python it is.
const SERIES: [(&str, Option<Suite>); 7] = [
    ("3.9", Some(Suite::Bullseye)),
    ("3.10", None),
    ("3.11", Some(Suite::Bookworm)),
    ("3.12", None),
    ("3.13", Some(Suite::Trixie)),
    ("3.14", Some(Suite::Forky)),
    ("3.15", None),
];

/// The suite below a Python that Debian does not have.
const SUITE_OF_STANDALONE: Suite = Suite::Bookworm;

/// Where a base's Python comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PythonSource {
    /// The suite's own packages.
    Debian,
    /// A standalone build of this version, installed by `uv`.
    Standalone(String),
}

/// What a `debian_slim` base will be made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebianPlan {
    /// The release.
    pub suite: Suite,
    /// The Python.
    pub python: PythonSource,
    /// The series of that Python, for example `3.11`.
    pub series: String,
}

/// Chooses the base for a Python version (`3.11`, `3.12.4`), or for the `local` one when none is given; with a `pinned`
/// suite, that one, with a standalone Python where it has not the wanted one itself.
///
/// # Errors
/// When the version is malformed or not offered.
pub fn debian_slim_plan(python: Option<&str>, local: &str, pinned: Option<Suite>) -> Result<DebianPlan, BaseError> {
    let version = python.unwrap_or(local);
    let unsupported = || match (version.to_owned(), supported(|_| true)) {
        (version, supported) if python.is_some() => BaseError::UnsupportedPython { version, supported },
        (version, supported) => BaseError::UnsupportedLocalPython { version, supported },
    };
    let mut numbers = version.split('.');
    let series = match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => format!("{major}.{minor}"),
        _ => return Err(unsupported()),
    };
    let (_, suite) = SERIES.into_iter().find(|(name, _)| *name == series).ok_or_else(unsupported)?;
    // Without a request of the user the local patch version does not matter.
    let is_exact = match (numbers.next(), numbers.next()) {
        (None, None) => false,
        (Some(patch), None) if is_number(patch) => python.is_some(),
        _ => return Err(unsupported()),
    };
    let native = suite.filter(|suite| pinned.is_none_or(|pinned| pinned == *suite));
    Ok(match native.filter(|_| !is_exact || RELEASED.contains(&version)) {
        Some(suite) => DebianPlan { suite, python: PythonSource::Debian, series },
        None => DebianPlan {
            suite: pinned.unwrap_or(SUITE_OF_STANDALONE),
            python: PythonSource::Standalone(if is_exact { version.to_owned() } else { series.clone() }),
            series,
        },
    })
}

/// The series that Debian has itself, for messages.
pub(crate) fn native_series() -> String {
    supported(|suite| suite.is_some())
}

fn supported(wanted: impl Fn(Option<Suite>) -> bool) -> String {
    let names: Vec<_> =
        SERIES.into_iter().filter(|(_, suite)| wanted(*suite)).map(|(name, _)| format!("`{name}`")).collect();
    names.join(", ")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
}

/// Debian's name of this machine's architecture.
pub(crate) fn architecture() -> Result<&'static str, BaseError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => Err(BaseError::Architecture(other.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_choose_their_suite() {
        for (version, suite) in
            [("3.9", Suite::Bullseye), ("3.11", Suite::Bookworm), ("3.13", Suite::Trixie), ("3.14", Suite::Forky)]
        {
            let plan = debian_slim_plan(Some(version), "3.12", None).unwrap();
            assert_eq!((plan.suite, plan.python), (suite, PythonSource::Debian));
        }
        for (version, suite) in [("3.9.2", Suite::Bullseye), ("3.11.2", Suite::Bookworm), ("3.13.5", Suite::Trixie)] {
            let plan = debian_slim_plan(Some(version), "3.12", None).unwrap();
            assert_eq!((plan.suite, plan.python), (suite, PythonSource::Debian), "{version}");
        }
        for version in ["3.10", "3.12", "3.15", "3.11.4", "3.13.0"] {
            let plan = debian_slim_plan(Some(version), "3.11", None).unwrap();
            assert_eq!(plan.suite, Suite::Bookworm);
            assert_eq!(plan.python, PythonSource::Standalone(version.into()));
        }
        let plan = debian_slim_plan(None, "3.11.7", None).unwrap();
        assert_eq!((plan.suite, plan.python), (Suite::Bookworm, PythonSource::Debian));
    }

    #[test]
    fn a_pinned_suite_has_a_standalone_python_where_it_lacks_the_wanted_one() {
        let chosen = |version, pinned| {
            let DebianPlan { suite, python, .. } = debian_slim_plan(version, "3.11.7", Some(pinned)).unwrap();
            (suite, python)
        };
        let standalone = |version: &str| PythonSource::Standalone(version.to_owned());
        assert_eq!(chosen(None, Suite::Bookworm), (Suite::Bookworm, PythonSource::Debian));
        assert_eq!(chosen(None, Suite::Trixie), (Suite::Trixie, standalone("3.11")));
        assert_eq!(chosen(Some("3.13"), Suite::Bookworm), (Suite::Bookworm, standalone("3.13")));
        assert_eq!(chosen(Some("3.13.5"), Suite::Bookworm), (Suite::Bookworm, standalone("3.13.5")));
        assert_eq!(chosen(Some("3.13.5"), Suite::Trixie), (Suite::Trixie, PythonSource::Debian));
        assert_eq!(chosen(Some("3.12"), Suite::Trixie), (Suite::Trixie, standalone("3.12")));
    }

    #[test]
    fn other_versions_are_refused_with_the_supported_ones() {
        for version in
            ["", "3", "2.7", "3.8", "3.16", "3.14t", "3.11.", "3.11.x", "3.11.4.1", "3.11.04", "3.11 ", "three"]
        {
            let message = debian_slim_plan(Some(version), "3.11", None).unwrap_err().to_string();
            assert!(message.contains(&format!("`{version}`")) && message.contains("`3.12`"), "{message}");
        }
        let message = debian_slim_plan(None, "3.16", None).unwrap_err().to_string();
        assert!(message.starts_with("the Python that runs this script is `3.16`"), "{message}");
        assert!(message.contains("`python_version`, one of `3.9`"), "{message}");
    }
}
