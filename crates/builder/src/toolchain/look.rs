//! Whether an image has compilers of its own, looked up in its layers without running anything.

use std::os::fd::OwnedFd;

use lamina_ground::{Stack, StorePath};
use lamina_packages::{Entry, Layers};
use lamina_store::{Job, JobError, WorkerContext};
use serde::{Deserialize, Serialize};

/// Names under which builds look for a C compiler.
const COMPILERS: [&str; 2] = ["cc", "gcc"];

/// Looks for compilers and headers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Look {
    views: Stack<StorePath>,
    directories: Vec<String>,
    header: Option<String>,
}

/// What an image has itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) compilers: bool,
    /// Those of Debian's own Python; also where it is another one, which brings them.
    pub(crate) headers: bool,
}

impl Look {
    /// Of an image with these views, which looks for programs in `search_path`. `series` is that of Debian's own Python.
    pub(crate) fn new(views: Stack<StorePath>, search_path: &str, series: Option<&str>) -> Self {
        let absolute = search_path.split(':').filter(|directory| directory.starts_with('/'));
        let directories = absolute.map(|directory| directory.trim_end_matches('/').to_owned()).collect();
        Self { views, directories, header: series.map(|series| format!("/usr/include/python{series}/Python.h")) }
    }
}

impl Job for Look {
    const NAME: &'static str = "builder.look-for-compilers";
    type Output = Found;

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<Found, JobError> {
        let mut layers = Layers::new(context.content(), &self.views);
        let compilers = self
            .directories
            .iter()
            .flat_map(|directory| COMPILERS.map(|name| format!("{directory}/{name}")))
            .try_fold(false, |found, path| Ok::<_, JobError>(found || has_file(&mut layers, &path)?))?;
        let headers = self.header.map_or(Ok(true), |header| has_file(&mut layers, &header))?;
        Ok(Found { compilers, headers })
    }
}

/// Whether there is something at a path. A directory behind a link (`/bin`) is looked at under its own name.
fn has_file(layers: &mut Layers, path: &str) -> Result<bool, JobError> {
    Ok(matches!(layers.entry(path)?, Entry::OfBase(_) | Entry::Above(_)))
}
