//! Which conda packages an image has: the records in its environment; found by the store worker.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;

use fs_err as fs;
use lamina_ground::{Stack, StorePath};
use lamina_packages::{Directory, Layers, read_text};
use lamina_store::{Job, JobError, Store, WorkerContext};
use rattler_conda_types::RepoDataRecord;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{CondaError, PREFIX};

/// The directory of the records, below the prefix.
pub(crate) const RECORDS: &str = "conda-meta";

/// A package that an image has.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The name of its record.
    pub(crate) file_name: String,
    pub(crate) record: RepoDataRecord,
    /// Its files, below the prefix.
    pub(crate) files: Vec<String>,
}

/// What an environment is.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Its packages.
    pub packages: Vec<Installed>,
    /// What was done to it so far, as conda writes it down.
    pub(crate) history: String,
    /// What its packages are held to, as users write it down in a file that conda and mamba read as well.
    pub(crate) pinned: Vec<String>,
}

impl Environment {
    /// Whether nothing was installed into it so far.
    #[must_use]
    pub(crate) fn is_new(&self) -> bool {
        self.packages.is_empty() && self.history.is_empty()
    }
}

/// Reads the records in the views of an image's layers.
///
/// # Errors
/// When they cannot be read or understood.
pub fn installed(store: &Store, views: &Stack<StorePath>) -> Result<Environment, CondaError> {
    let found = store.job(&ReadRecords { views: views.clone() }, &[])?;
    let package = |(file_name, text): (String, String)| {
        let unknown = |reason: String| CondaError::Record { path: format!("{PREFIX}/{RECORDS}/{file_name}"), reason };
        let record: Record = serde_json::from_str(&text).map_err(|error| unknown(error.to_string()))?;
        Ok(Installed { file_name, record: record.record, files: record.files })
    };
    let packages = found.records.into_iter().map(package).collect::<Result<_, CondaError>>()?;
    Ok(Environment { packages, history: found.history, pinned: pinned(&found.pinned) })
}

/// The specifications in a file of them.
fn pinned(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[derive(Deserialize)]
struct Record {
    #[serde(flatten)]
    record: RepoDataRecord,
    #[serde(default)]
    files: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ReadRecords {
    views: Stack<StorePath>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Found {
    /// Texts by name of the file.
    records: BTreeMap<String, String>,
    history: String,
    pinned: String,
}

impl Job for ReadRecords {
    const NAME: &'static str = "conda.installed";
    type Output = Found;

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Found, JobError> {
        let mut layers = Layers::new(context.content(), &self.views);
        let mut found = Found { records: BTreeMap::new(), history: String::new(), pinned: String::new() };
        let Directory::Present(directories) = layers.directory(&format!("{PREFIX}/{RECORDS}"))? else {
            return Ok(found);
        };
        let mut seen = HashSet::new();
        for directory in directories.top_down() {
            let deleted = directory.deleted_names()?.into_iter().filter_map(|name| name.into_string().ok());
            let names: Vec<String> = deleted.collect();
            for entry in fs::read_dir(directory.on_disk())? {
                let Ok(name) = entry?.file_name().into_string() else { continue };
                let path = directory.join(&name);
                if path.is_deleted()? || !seen.insert(name.clone()) {
                    continue;
                }
                if name == "history" {
                    found.history = read_text(&path)?;
                } else if name == "pinned" {
                    found.pinned = read_text(&path)?;
                } else if name.strip_suffix(".json").is_some() {
                    found.records.insert(name, without_paths(read_text(&path)?));
                }
            }
            seen.extend(names);
        }
        Ok(found)
    }
}

/// A record without the description of its files, which is most of it.
fn without_paths(text: String) -> String {
    match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(mut record)) => {
            record.remove("paths_data");
            Value::Object(record).to_string()
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_hold_packages() {
        assert_eq!(pinned("# mine\n\n numpy 1.26.*  # not 2\nlibdemo=1\n"), ["numpy 1.26.*", "libdemo=1"]);
    }
}
