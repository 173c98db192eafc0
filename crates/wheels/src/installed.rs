//! Which distributions an image already has; runs in the store worker.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;

use fs_err as fs;
use lamina_store::{Job, JobError, Store, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::error::WheelError;
use crate::layers::{Directory, Layers, is_whiteout};
use crate::request::{Installed, normalize_name};

/// Lists the distributions in `sites` (absolute directories of the image, in the order of `sys.path`).
///
/// `layers` are the image's, relative to the store's content directory, top-most first.
///
/// # Errors
/// When the layers cannot be read.
pub fn installed(store: &Store, layers: &[String], sites: &[String]) -> Result<Vec<Installed>, WheelError> {
    Ok(store.job(&ListInstalled { layers: layers.to_vec(), sites: sites.to_vec() }, &[])?)
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ListInstalled {
    layers: Vec<String>,
    sites: Vec<String>,
}

impl Job for ListInstalled {
    const NAME: &'static str = "wheels.installed";
    type Output = Vec<Installed>;

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Vec<Installed>, JobError> {
        let mut layers = Layers::new(context.content(), &self.layers);
        let mut distributions = BTreeMap::new();
        for site in &self.sites {
            let Directory::Present(directories) = layers.directory(site)? else {
                continue;
            };
            let mut seen = HashSet::new();
            for directory in directories {
                for entry in fs::read_dir(directory)? {
                    let entry = entry?;
                    let Ok(file_name) = entry.file_name().into_string() else {
                        continue;
                    };
                    let Some((name, version)) = parse(&file_name) else {
                        continue;
                    };
                    let fresh = seen.insert(file_name.clone());
                    if fresh && !is_whiteout(&entry.path(), &entry.metadata()?) {
                        let distribution = Installed { name: name.clone(), version, site: site.clone() };
                        distributions.entry(name).or_insert(distribution);
                    }
                }
            }
        }
        Ok(distributions.into_values().collect())
    }
}

/// Name and version from the name of a metadata directory.
fn parse(file_name: &str) -> Option<(String, String)> {
    let stem = file_name.strip_suffix(".dist-info").or_else(|| file_name.strip_suffix(".egg-info"))?;
    let mut parts = stem.split('-');
    let (name, version) = (parts.next()?, parts.next()?);
    (!name.is_empty() && !version.is_empty()).then(|| (normalize_name(name), version.replace('_', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_directories_name_distributions() {
        assert_eq!(parse("typing_extensions-4.1.dist-info"), Some(("typing-extensions".into(), "4.1".into())));
        assert_eq!(parse("PyYAML-6.0.egg-info"), Some(("pyyaml".into(), "6.0".into())));
        assert_eq!(parse("wheel-0.38.4-py3.11.egg-info"), Some(("wheel".into(), "0.38.4".into())));
        assert_eq!(parse("pip"), None);
    }
}
