//! `add_python=`.

use lamina_bases::{BaseError, added_python};
use lamina_fetch::FetchError;
use lamina_ground::ErrorClass;
use lamina_image::{AddPython, Facts, KeyMaterial, RuntimeConfig};
use lamina_registry::unpack_archive;
use lamina_store::{CommitRules, Work};
use lamina_wheels::{Unfinished, describe};

use super::commands::Run;
use super::look::look_at;
use super::project::mistake;
use super::python::wheel_error;
use super::registry::failed;
use super::{Kind, LayerKind, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::log::StepLog;

/// The series that Modal adds.
const SERIES: [&str; 8] = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.14t", "3.15", "3.15t"];
/// The Python that is added, as the usual PATH names it.
const INTERPRETER: &str = "/usr/local/bin/python";
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
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let workshop = &context.workshop;
        let below = &context.parent.layers;
        let traits = look_at(workshop.store, below, None)?;
        if !traits.glibc {
            let lacking = if traits.musl { "musl as its C library" } else { "no C library" };
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
        (workshop.progress)("compiling modules", 0, 0);
        let mut drop_empty = self.compile(&work, context, log)?;
        let views = workshop.store.view_paths(below);
        let described = describe(INTERPRETER, &views, Some(Unfinished(&work)), workshop).map_err(wheel_error)?;
        drop_empty.extend(described.created_mountpoints);
        let facts = Box::new(Facts { config, python: described.python, ..Facts::default() });
        let rules = CommitRules { package_times: true, drop_empty, ..CommitRules::default() };
        Ok(Made::Work { work, rules, facts, held: None })
    }
}

impl Added {
    /// Compiles the standard library, which every container would do again for itself, with nothing but the Python itself:
    /// the image may have no shell. Answers which mount points were made. What fails is only slower later.
    fn compile(&self, work: &Work, context: &StepContext<'_>, log: &mut StepLog) -> Result<Vec<String>, StepError> {
        let library = format!("/usr/local/lib/python{}", self.series);
        let program = ["/usr/local/bin/python3", "-I", "-m", "compileall", "-qq", &library].map(str::to_owned);
        let run = Run { program: Some(program.into()), ..Run::default() };
        match run.execute_unchecked(context, work, log) {
            Ok(exit) => Ok(exit.created_mountpoints),
            Err(StepError::Because(error)) => {
                log.line(&format!("its modules are not compiled: {error}"));
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }
}

fn base_error(error: BaseError) -> StepError {
    match error {
        BaseError::Cancelled(_) => StepError::Other(BuildError::Cancelled),
        error => StepError::of(error),
    }
}
