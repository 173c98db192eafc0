//! Whether an image has compilers of its own, looked up in its layers without running anything.

use std::os::fd::OwnedFd;

use lamina_bases::OwnCompilers;
use lamina_ground::{Stack, StorePath};
use lamina_packages::{Entry, Layers};
use lamina_store::{Job, JobError, WorkerContext};
use serde::{Deserialize, Serialize};

/// Names under which builds look for a C compiler.
const COMPILERS: [&str; 2] = ["cc", "gcc"];
/// Debian's package of one.
const DEBIANS: &str = "gcc";

/// Looks for compilers and headers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Look {
    views: Stack<StorePath>,
    directories: Vec<String>,
    header: Option<String>,
}

/// What an image lacks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Packages of compilers, and of what builds run beside them.
    pub(crate) lacking: Vec<String>,
    /// Whether it has headers of Debian's own Python; also where it is another one, which brings them.
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
        let mut image = Image { layers: Layers::new(context.content(), &self.views), directories: self.directories };
        let own = image.own()?;
        let mut lacking = Vec::new();
        for package in own.may_lack() {
            if own == OwnCompilers::Nothing || !(image.has_program(package)? || image.has_package(package)?) {
                lacking.push(package.to_owned());
            }
        }
        let headers = self.header.map_or(Ok(true), |header| image.has_file(&header))?;
        Ok(Found { lacking, headers })
    }
}

struct Image {
    layers: Layers,
    directories: Vec<String>,
}

impl Image {
    fn own(&mut self) -> Result<OwnCompilers, JobError> {
        for name in COMPILERS {
            if self.has_program(name)? {
                return Ok(if self.has_package(DEBIANS)? { OwnCompilers::Debians } else { OwnCompilers::Others });
            }
        }
        Ok(OwnCompilers::Nothing)
    }

    fn has_program(&mut self, name: &str) -> Result<bool, JobError> {
        for index in 0..self.directories.len() {
            let path = format!("{}/{name}", self.directories[index]);
            if self.has_file(&path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether dpkg has the package's list of files.
    fn has_package(&mut self, name: &str) -> Result<bool, JobError> {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        Ok(self.has_file(&format!("/var/lib/dpkg/info/{name}.list"))?
            || self.has_file(&format!("/var/lib/dpkg/info/{name}:{architecture}.list"))?)
    }

    /// Whether there is something at a path. A directory behind a link (`/bin`) is looked at under its own name.
    fn has_file(&mut self, path: &str) -> Result<bool, JobError> {
        Ok(matches!(self.layers.entry(path)?, Entry::OfBase(_) | Entry::Above(_)))
    }
}
