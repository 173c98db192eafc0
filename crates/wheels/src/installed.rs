//! Which distributions an image already has, and what its installers would obey; runs in the store worker.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::Path;

use fs_err as fs;
use lamina_ground::{Stack, StorePath};
use lamina_packages::{Directory, Layers, read_text};
use lamina_store::{Job, JobError, LayerPath, Store, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::error::WheelError;
use crate::inside::{Inside, PathLine, Places, is_of_setuptools, path_line};
use crate::request::{Installed, Installer, normalize_name};

/// What an image has that matters to an installer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// The distributions.
    pub installed: Vec<Installed>,
    /// Why only the installer itself does: what it would obey, in words.
    pub obeyed: Option<String>,
}

/// Looks for distributions in the views of an image's layers, and for what an installer inside would obey.
///
/// # Errors
/// When the layers cannot be read.
pub fn survey(store: &Store, views: &Stack<StorePath>, inside: &Inside<'_>) -> Result<Survey, WheelError> {
    let follow_paths = inside.installer == Installer::Pip;
    Ok(store.job(
        &SurveyImage { views: views.clone(), places: inside.places(), follow_paths, trusted: inside.trusted },
        &[],
    )?)
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SurveyImage {
    views: Stack<StorePath>,
    places: Places,
    /// Whether distributions also count in directories that `.pth` files name: to pip, not to `uv`.
    follow_paths: bool,
    /// How many of the lowest layers change no interpreter.
    trusted: usize,
}

impl Job for SurveyImage {
    const NAME: &'static str = "wheels.survey";
    type Output = Survey;

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Survey, JobError> {
        let mut layers = Layers::new(context.content(), &self.views).with_base(self.trusted);
        if let Some(obeyed) = self.places.find(&mut layers)? {
            return Ok(Survey { obeyed: Some(obeyed), ..Survey::default() });
        }
        let mut found = Found::default();
        for site in &self.places.sites {
            found.look_into(site, &mut layers)?;
        }
        let mut named = Vec::new();
        for file in std::mem::take(&mut found.path_files) {
            match found.read_path_file(&file)? {
                PathFile::Obeyed(obeyed) => return Ok(Survey { obeyed: Some(obeyed), ..Survey::default() }),
                PathFile::Names(directories) => named.extend(directories),
            }
        }
        if self.follow_paths {
            for site in &named {
                found.look_into(site, &mut layers)?;
            }
        }
        Ok(Survey { installed: found.distributions.into_values().collect(), obeyed: None })
    }
}

/// What site directories hold.
#[derive(Default)]
struct Found {
    distributions: BTreeMap<String, Installed>,
    /// Their metadata directories.
    metadata: Vec<LayerPath>,
    /// The `.pth` files that are not the base's, with their sites.
    path_files: Vec<(String, LayerPath)>,
}

/// What a `.pth` file comes to.
enum PathFile {
    /// Something that the installer has to see itself.
    Obeyed(String),
    /// Directories.
    Names(Vec<String>),
}

/// Longest `.pth` file that is read.
const PATH_FILE_LIMIT: u64 = 1 << 16;

impl Found {
    fn look_into(&mut self, site: &str, layers: &mut Layers) -> Result<(), JobError> {
        let Directory::Present(directories) = layers.directory(site)? else {
            return Ok(());
        };
        let mut seen = HashSet::new();
        for directory in directories.top_down() {
            seen.extend(directory.deleted_names()?.into_iter().filter_map(|name| name.into_string().ok()));
            for entry in fs::read_dir(directory.on_disk())? {
                let entry = entry?;
                let Ok(file_name) = entry.file_name().into_string() else {
                    continue;
                };
                let is_path_file = file_name.strip_suffix(".pth").is_some();
                let distribution = parse(&file_name);
                if (!is_path_file && distribution.is_none()) || !seen.insert(file_name.clone()) {
                    continue;
                }
                let path = directory.join(&file_name);
                if let Some((name, version)) = distribution {
                    self.metadata.push(path);
                    let distribution = Installed { name: name.clone(), version, site: site.to_owned() };
                    self.distributions.entry(name).or_insert(distribution);
                } else if !layers.is_of_base(&path) {
                    self.path_files.push((site.to_owned(), path));
                }
            }
        }
        Ok(())
    }

    /// Code that runs in every interpreter is an installed distribution's, or else it is there for a reason.
    fn read_path_file(&self, (site, path): &(String, LayerPath)) -> Result<PathFile, JobError> {
        let name = path.on_disk().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let obeyed = || PathFile::Obeyed(format!("`{site}/{name}` of the image changes its interpreter"));
        let metadata = fs::symlink_metadata(path.on_disk())?;
        if !metadata.is_file() || metadata.len() > PATH_FILE_LIMIT {
            return Ok(obeyed());
        }
        let text = read_text(path)?;
        let mut directories = Vec::new();
        for line in text.lines() {
            match path_line(line) {
                PathLine::Nothing => {}
                PathLine::Code if is_of_setuptools(line) || self.is_recorded(&name) => {}
                PathLine::Code => return Ok(obeyed()),
                PathLine::Directory(directory) => {
                    directories.push(Path::new(site).join(directory).to_string_lossy().into_owned());
                }
            }
        }
        Ok(PathFile::Names(directories))
    }

    /// Whether a distribution lists a file of its site directory.
    fn is_recorded(&self, name: &str) -> bool {
        let row = format!("\n{name},");
        self.metadata.iter().any(|directory| {
            read_text(&directory.join("RECORD"))
                .is_ok_and(|record| record.contains(&row) || record.starts_with(&row[1..]))
        })
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
