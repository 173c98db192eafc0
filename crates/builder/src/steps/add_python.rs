//! `add_python=`.

use std::os::fd::OwnedFd;

use lamina_bases::{BaseError, added_python};
use lamina_fetch::FetchError;
use lamina_ground::{ErrorClass, Stack, StorePath};
use lamina_image::{AddPython, Facts, KeyMaterial, RuntimeConfig};
use lamina_packages::{Entry, Layers};
use lamina_registry::unpack_archive;
use lamina_store::{CommitRules, Job, JobError, StoreError, WorkerContext};
use serde::{Deserialize, Serialize};

use super::project::mistake;
use super::registry::failed;
use super::{Kind, LayerKind, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::log::StepLog;

/// The series that Modal adds.
const SERIES: [&str; 6] = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.14t"];
/// A C library, which may be written behind a series.
const GLIBC: &str = "-gnu";
/// Where programs that draw in terminals find what these can do; the builds look in places of their own otherwise.
const TERMINALS: (&str, &str) = ("TERMINFO_DIRS", "/etc/terminfo:/lib/terminfo:/usr/share/terminfo:/usr/lib/terminfo");

struct Added {
    series: &'static str,
}

impl Kind for AddPython {}

impl LayerKind for AddPython {
    /// Which patch version the series has today is no part of the key.
    fn plan(&self, _planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        let wanted = self.version.strip_suffix(GLIBC).unwrap_or(&self.version);
        let series = SERIES.into_iter().find(|series| *series == wanted).ok_or_else(|| {
            let series: Vec<_> = SERIES.iter().map(|series| format!("`{series}`")).collect();
            let message = format!("`add_python` takes a series, not `{}`: {}", self.version, series.join(", "));
            mistake(ErrorClass::InvalidError, message, None)
        })?;
        material.add("kind", "add_python");
        material.add("series", series);
        Ok(Box::new(Added { series }))
    }
}

impl Recipe for Added {
    fn execute(self: Box<Self>, context: &StepContext<'_>, _log: &mut StepLog) -> Result<Made, StepError> {
        let workshop = &context.workshop;
        let below = &context.parent.layers;
        let look = LookForLibc { views: workshop.store.view_paths(below) };
        let libc = workshop.store.job(&look, &[]).map_err(StoreError::from)?;
        if let Some(lacking) = libc.lacking() {
            return Err(StepError::Failed {
                message: format!("the image has {lacking}, and the Python that is added needs the GNU C library"),
                hint: Some(
                    "use an image of Debian, Ubuntu or the like, or one that has a Python itself, such as `python:3.12-alpine`"
                        .to_owned(),
                ),
            });
        }
        (workshop.progress)("downloading Python", 0, 0);
        let archive =
            added_python(self.series, workshop.programs.uv.as_deref(), workshop.cancel).map_err(base_error)?;
        (workshop.progress)("unpacking", 0, 0);
        let reserve = workshop.launcher.disk_reserve().map_err(|error| failed(FetchError::Io(error).into()))?;
        let work = unpack_archive(archive, "Python", below, workshop.store, reserve).map_err(failed)?;
        let environment = [(TERMINALS.0.to_owned(), TERMINALS.1.to_owned())].into();
        let config = RuntimeConfig { environment, ..RuntimeConfig::default() };
        let facts = Box::new(Facts { config, ..Facts::default() });
        Ok(Made::Work { work, rules: CommitRules::default(), facts, held: None })
    }
}

fn base_error(error: BaseError) -> StepError {
    match error {
        BaseError::Cancelled(_) => StepError::Other(BuildError::Cancelled),
        error => StepError::of(error),
    }
}

/// Looks which C library an image has, without running anything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LookForLibc {
    views: Stack<StorePath>,
}

/// The loaders that an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loaders {
    glibc: bool,
    musl: bool,
}

impl Loaders {
    /// What it has in place of the GNU C library.
    fn lacking(self) -> Option<&'static str> {
        match self {
            Self { glibc: true, .. } => None,
            Self { musl: true, .. } => Some("musl as its C library"),
            Self { .. } => Some("no C library"),
        }
    }
}

impl Job for LookForLibc {
    const NAME: &'static str = "builder.look-for-libc";
    type Output = Loaders;

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<Loaders, JobError> {
        let mut layers = Layers::new(context.content(), &self.views);
        let architecture = std::env::consts::ARCH;
        let (glibc, directory) = match architecture {
            "aarch64" => ("ld-linux-aarch64.so.1".to_owned(), "lib"),
            _ => (format!("ld-linux-{}.so.2", architecture.replace('_', "-")), "lib64"),
        };
        let mut has = |directories: &[&str], name: &str| {
            for directory in directories {
                // Of a directory that is a link, the one that it leads to is among the others.
                if matches!(layers.entry(&format!("/{directory}/{name}"))?, Entry::OfBase(_) | Entry::Above(_)) {
                    return Ok::<_, JobError>(true);
                }
            }
            Ok(false)
        };
        let usual = [directory, &format!("usr/{directory}"), "lib", "usr/lib"];
        Ok(Loaders {
            glibc: has(&usual, &glibc)?,
            musl: has(&["lib", "usr/lib"], &format!("ld-musl-{architecture}.so.1"))?,
        })
    }
}
