//! Files that say which packages are wanted: environments in YAML, and lists of specifications.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::CondaError;
use crate::lock_file::LockFile;
use crate::locked::Locked;

/// A file that says which packages are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecFile {
    /// Its name, which says what form it has.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What such a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Channels, weaker than those that are given otherwise.
    pub(crate) channels: Vec<String>,
    /// Specifications of packages.
    pub(crate) specs: Vec<String>,
    /// Requirements for pip.
    pub(crate) pip: Vec<String>,
    /// Whether all that is to be installed is listed, with what it needs: nothing is solved.
    pub(crate) is_locked: bool,
    /// Packages by address, where that is so.
    pub(crate) locked: Vec<Locked>,
    /// Variables of the environment.
    pub(crate) variables: BTreeMap<String, String>,
}

/// An environment file.
#[derive(Deserialize)]
struct Environment {
    #[serde(default)]
    channels: Option<Vec<String>>,
    dependencies: Option<Vec<Dependency>>,
    #[serde(default)]
    variables: Option<BTreeMap<String, serde_yaml::Value>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Dependency {
    Spec(String),
    /// Packages for another installer.
    Others(BTreeMap<String, Vec<String>>),
}

impl SpecFile {
    /// What it says.
    pub(crate) fn read(&self) -> Result<Wanted, CondaError> {
        let is_yaml = [".yml", ".yaml"].iter().any(|ending| self.name.to_lowercase().ends_with(ending));
        if is_yaml { self.read_environment() } else { self.read_list() }
    }

    fn unusable(&self, reason: impl Into<String>) -> CondaError {
        CondaError::SpecFile { name: self.name.clone(), reason: reason.into() }
    }

    fn read_environment(&self) -> Result<Wanted, CondaError> {
        if let Ok(lock) = serde_yaml::from_str::<LockFile>(&self.text) {
            return lock.wanted().map_err(|reason| self.unusable(reason));
        }
        let file: Environment = serde_yaml::from_str(&self.text)
            .map_err(|error| self.unusable(format!("it is no environment: {error}")))?;
        // A lock of a form that is not known has none, and would be taken for an empty environment.
        let Some(dependencies) = file.dependencies else {
            return Err(self.unusable("it has no list `dependencies`"));
        };
        let mut wanted = Wanted { channels: file.channels.unwrap_or_default(), ..Wanted::default() };
        for dependency in dependencies {
            match dependency {
                Dependency::Spec(spec) => wanted.specs.push(spec),
                Dependency::Others(others) => {
                    for (installer, requirements) in others {
                        if installer != "pip" {
                            return Err(
                                self.unusable(format!("packages for `{installer}` cannot be installed; `pip` can"))
                            );
                        }
                        wanted.pip.extend(requirements);
                    }
                }
            }
        }
        for (name, value) in file.variables.unwrap_or_default() {
            let value = match value {
                serde_yaml::Value::String(text) => text,
                serde_yaml::Value::Number(number) => number.to_string(),
                serde_yaml::Value::Bool(value) => value.to_string(),
                _ => return Err(self.unusable(format!("the variable `{name}` is no text"))),
            };
            wanted.variables.insert(name, value);
        }
        Ok(wanted)
    }

    fn read_list(&self) -> Result<Wanted, CondaError> {
        if self.text.lines().any(|line| line.trim() == "@EXPLICIT") {
            return self.read_addresses();
        }
        let lines = self.text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let specs: Vec<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
        Ok(Wanted { specs, ..Wanted::default() })
    }

    /// A list of addresses, as `conda list --explicit` writes it.
    fn read_addresses(&self) -> Result<Wanted, CondaError> {
        let lines = self.text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#') && *line != "@EXPLICIT");
        let locked = lines.map(Locked::parse).collect::<Result<_, _>>().map_err(|reason| self.unusable(reason))?;
        Ok(Wanted { locked, is_locked: true, ..Wanted::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Wanted, String> {
        SpecFile { name: name.to_owned(), text: text.to_owned() }.read().map_err(|error| error.to_string())
    }

    #[test]
    fn environments_and_lists_are_read() {
        let text = "name: x\nchannels:\n  - conda-forge\n  - nodefaults\ndependencies:\n  - python=3.11\n  - numpy >=2\n  - pip:\n    - requests==2.32\nvariables:\n  LEVEL: 3\n  DEBUG: true\n";
        let wanted = read("environment.yml", text).unwrap();
        assert_eq!(
            (wanted.channels.len(), wanted.specs, wanted.pip),
            (2, vec!["python=3.11".into(), "numpy >=2".into()], vec!["requests==2.32".into()])
        );
        assert_eq!(wanted.variables["LEVEL"], "3");
        let list = read("packages.txt", "# all\nnumpy=2 # exact\n\nc++-compiler\n").unwrap();
        assert_eq!(list.specs, ["numpy=2", "c++-compiler"]);
        assert_eq!(read("e.yaml", "dependencies: []").unwrap(), Wanted::default());
        let text = "# platform: linux-64\n@EXPLICIT\nhttps://x.invalid/c/noarch/a-1-0.conda\n\n";
        assert_eq!(read("e.txt", text).unwrap().locked.len(), 1);
        // What is listed is all, and be it nothing.
        assert!(read("e.txt", "@EXPLICIT\n").unwrap().is_locked);
        assert!(read("lock.yml", "version: 1\npackage: []\n").unwrap().is_locked);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        insta::assert_snapshot!(read("lock.yml", "version: 6\npackages: []\n").unwrap_err(), @"the file `lock.yml` cannot be used: it has no list `dependencies`");
        insta::assert_snapshot!(read("e.yml", "dependencies: [{cargo: [x]}]").unwrap_err(), @"the file `e.yml` cannot be used: packages for `cargo` cannot be installed; `pip` can");
        insta::assert_snapshot!(read("e.txt", "@EXPLICIT\nnumpy=2\n").unwrap_err(), @"the file `e.txt` cannot be used: `numpy=2` is no address of a package");
        assert!(
            read("e.yml", "dependencies: [")
                .unwrap_err()
                .starts_with("the file `e.yml` cannot be used: it is no environment")
        );
    }
}
