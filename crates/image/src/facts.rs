//! What bases and steps know about an image, as data that later steps read.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::RuntimeConfig;

/// What is known about an image. Every base and every step may set parts; later ones see all of them together.
///
/// A part that is not set is not known; nothing may be assumed in its place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<System>,
    /// The Python that came with the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<Python>,
    /// How things are run in the image from here on.
    #[serde(default, skip_serializing_if = "RuntimeConfig::is_empty")]
    pub config: RuntimeConfig,
    /// Packages that the step itself installed, if it resolved them: where its files are from. What an image has in the end is
    /// no fact of a step, because any later command may change it without saying so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<Package>,
}

/// An operating system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// The distribution, as the `ID` of `/etc/os-release`: `debian`.
    pub family: String,
    /// Its release, as the `VERSION_CODENAME` there, or else the `VERSION_ID`: `bookworm`.
    pub release: String,
    /// The C library; it decides which binaries can be loaded.
    pub libc: Libc,
}

/// A C library, with the version that every image of a release has at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Libc {
    /// The GNU C library.
    Glibc(u32, u32),
    /// musl.
    Musl(u32, u32),
}

/// A Python that packages can be installed for. Paths are absolute, as seen inside the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Python {
    /// The full version, for example `3.11.2`.
    pub version: String,
    /// The interpreter.
    pub interpreter: String,
    /// The prefix that packages' data files go below.
    pub prefix: String,
    /// Where `pip install` puts modules.
    pub site_packages: String,
    /// Where `pip install` puts scripts.
    pub scripts: String,
    /// Directories of installed distributions, in the order in which the interpreter looks at them.
    pub search: Vec<String>,
    /// What is to be known beside that of one that no base of ours brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<ForeignPython>,
}

/// A Python that an image has from elsewhere, as its interpreter has described itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignPython {
    /// How many of the lowest layers it was described on: nothing of it is in one above them.
    pub layers: usize,
    /// The C library that it runs with.
    pub libc: Libc,
    /// The interpreter that it leads to, where its links and its virtual environment end.
    pub base_interpreter: String,
    /// Whether it is that of a virtual environment.
    pub is_environment: bool,
}

/// A package that a step resolved and installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// What kind of package it is.
    pub kind: PackageKind,
    /// Its name, in the form that its kind compares names in.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it came from: an address without credentials, or a path of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// SHA-256 of the file that it came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Kinds of packages, named as in package URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageKind {
    /// A package of Debian and its descendants.
    Deb,
    /// A Python distribution.
    Pypi,
    /// A conda package.
    Conda,
}

impl Facts {
    /// Adds what a later step says; it knows better.
    pub fn extend(&mut self, later: Self) {
        // What either installed, the other or a command between them may have replaced.
        let Self { system, python, config, packages: _ } = later;
        self.system = system.or_else(|| self.system.take());
        self.python = python.or_else(|| self.python.take());
        self.config.extend(config);
        self.packages.clear();
    }
}

/// Version of the recorded form. It rises when a part changes its meaning, or when later steps begin to rely on a part
/// that bases have not set before.
const VERSION: u64 = 1;

/// Facts as they are kept beside a layer: with the version of their form. They stay text until somebody reads them, because
/// those of a base name all its packages, and most layers are only found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordedFacts(Box<RawValue>);

/// The recorded form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u64,
    #[serde(default)]
    system: Option<System>,
    #[serde(default)]
    python: Option<Python>,
    #[serde(default)]
    config: RuntimeConfig,
    #[serde(default)]
    packages: Vec<Package>,
}

impl RecordedFacts {
    /// The facts; nothing if they are of a form that this program does not read. The layer is of no use then, because
    /// later steps would not know what it is.
    #[must_use]
    pub fn read(&self) -> Option<Facts> {
        let Form { version, system, python, config, packages } = serde_json::from_str(self.0.get()).ok()?;
        (version == VERSION).then_some(Facts { system, python, config, packages })
    }

    fn of(facts: &Facts) -> serde_json::Result<Self> {
        let mut recorded = serde_json::to_value(facts)?;
        if let Some(parts) = recorded.as_object_mut() {
            parts.insert("version".to_owned(), VERSION.into());
        }
        serde_json::value::to_raw_value(&recorded).map(Self)
    }
}

impl PartialEq for RecordedFacts {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for RecordedFacts {}

impl Default for RecordedFacts {
    /// Of a layer that says nothing about the image.
    fn default() -> Self {
        Self::of(&Facts::default()).unwrap_or_else(|_| Self(RawValue::NULL.to_owned()))
    }
}

impl TryFrom<&Facts> for RecordedFacts {
    type Error = serde_json::Error;

    fn try_from(facts: &Facts) -> Result<Self, Self::Error> {
        Self::of(facts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn base() -> Facts {
        let text = |text: &str| text.to_owned();
        Facts {
            system: Some(System { family: text("debian"), release: text("bookworm"), libc: Libc::Glibc(2, 36) }),
            python: Some(Python {
                version: text("3.11.2"),
                interpreter: text("/usr/bin/python3"),
                prefix: text("/usr/local"),
                site_packages: text("/usr/local/lib/python3.11/dist-packages"),
                scripts: text("/usr/local/bin"),
                search: vec![text("/usr/local/lib/python3.11/dist-packages")],
                foreign: None,
            }),
            config: RuntimeConfig { environment: [(text("LANG"), text("C.UTF-8"))].into(), ..RuntimeConfig::default() },
            packages: vec![package("apt", "2.6.1")],
        }
    }

    fn recorded(value: &Value) -> RecordedFacts {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn package(name: &str, version: &str) -> Package {
        let (name, version) = (name.to_owned(), version.to_owned());
        Package { kind: PackageKind::Deb, name, version, source: None, sha256: None }
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let mut described = base();
        let base_interpreter = "/usr/bin/python3.11".to_owned();
        described.python.as_mut().unwrap().foreign =
            Some(ForeignPython { layers: 3, libc: Libc::Musl(1, 2), base_interpreter, is_environment: true });
        for facts in [base(), described, Facts::default()] {
            let recorded = RecordedFacts::try_from(&facts).unwrap();
            assert_eq!(recorded.read(), Some(facts));
        }
        assert_eq!(RecordedFacts::default().read(), Some(Facts::default()));
    }

    #[test]
    fn the_recorded_form_is_pinned() {
        let recorded = serde_json::to_value(RecordedFacts::try_from(&base()).unwrap()).unwrap();
        let recorded = serde_json::to_string_pretty(&recorded).unwrap();
        insta::assert_snapshot!(recorded, @r#"
        {
          "config": {
            "environment": {
              "LANG": "C.UTF-8"
            },
            "working_directory": null
          },
          "packages": [
            {
              "kind": "deb",
              "name": "apt",
              "version": "2.6.1"
            }
          ],
          "python": {
            "interpreter": "/usr/bin/python3",
            "prefix": "/usr/local",
            "scripts": "/usr/local/bin",
            "search": [
              "/usr/local/lib/python3.11/dist-packages"
            ],
            "site_packages": "/usr/local/lib/python3.11/dist-packages",
            "version": "3.11.2"
          },
          "system": {
            "family": "debian",
            "libc": {
              "glibc": [
                2,
                36
              ]
            },
            "release": "bookworm"
          },
          "version": 1
        }
        "#);
    }

    #[test]
    fn other_forms_are_not_read() {
        let current = serde_json::to_value(RecordedFacts::try_from(&base()).unwrap()).unwrap();
        let with = |name: &str, value: Value| {
            let mut changed = current.clone();
            changed[name] = value;
            recorded(&changed)
        };
        assert!(with("version", VERSION.into()).read().is_some());
        assert_eq!(with("version", 2.into()).read(), None, "a later form");
        assert_eq!(with("gpu", "none".into()).read(), None, "a part that this program does not know");
        assert_eq!(with("python", "3.11".into()).read(), None, "a part of another form");
        assert_eq!(recorded(&Value::Null).read(), None);
        let former = serde_json::json!({
            "suite": "bookworm", "python": "3.11", "python_version": "3.11.2", "interpreter": "/usr/bin/python3",
            "site_packages": "/usr/local/lib/python3.11/dist-packages", "scripts": "/usr/local/bin",
            "environment": [["PATH", "/usr/bin"]], "architecture": "amd64", "packages_digest": "", "packages": 120,
            "released": 0,
        });
        assert_eq!(recorded(&former).read(), None, "the form before there was a version");
    }

    #[test]
    fn later_facts_count() {
        let mut facts = base();
        facts.extend(Facts {
            config: RuntimeConfig {
                environment: [("LANG".to_owned(), "C".to_owned())].into(),
                working_directory: Some("/srv".to_owned()),
                ..RuntimeConfig::default()
            },
            packages: vec![package("git", "2"), package("apt", "3")],
            ..Facts::default()
        });
        assert_eq!((&facts.system, &facts.python), (&base().system, &base().python));
        assert_eq!(facts.config.environment["LANG"], "C");
        assert_eq!(facts.config.working_directory.as_deref(), Some("/srv"));
        assert_eq!(facts.packages, [], "nobody knows what is installed now");
    }
}
