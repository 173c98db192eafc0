//! Putting unpacked packages into a step's upper; runs in the store worker.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;

use lamina_ground::{Stack, StorePath};
use lamina_packages::{Content, Contents, File, Layers, Linked, MISSING, Package};
use lamina_store::{Job, JobError, JobErrorKind, WorkerContext};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::PREFIX;
use crate::installed::RECORDS;
use crate::manifest::{Manifest, descriptions, manifest_name};
use crate::place::{LinkedPackage, Placed, Python, place, unpacked};
use crate::preparing::{Prepared, Preparing, early_script};
use crate::programs;

/// Kind of a [`JobError`]: Python modules without a Python.
pub(crate) const NO_PYTHON: JobErrorKind = JobErrorKind::new("conda-no-python");

/// Installs packages, all of them unpacked before, into a bare upper. Of several with the same path, the last one's file
/// stays.
#[derive(Serialize, Deserialize)]
pub(crate) struct LinkPackages {
    pub(crate) work: String,
    pub(crate) layers: Stack<StorePath>,
    /// Each after those that it needs.
    pub(crate) packages: Vec<LinkedPackage>,
    pub(crate) python: Option<Python>,
    /// The files of packages that go, below the prefix.
    pub(crate) remove: Vec<String>,
    /// The scripts of packages that go.
    pub(crate) unlink: Vec<Script>,
    /// What scripts have made of packages, once they were run.
    pub(crate) prepared: Option<Prepared>,
    /// What is written down about the environment so far, and now.
    pub(crate) history: String,
    /// Whether these are the environment's first packages.
    pub(crate) is_new: bool,
}

/// What installing has done, and what is still to be done inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Everything is in the upper.
    Linked(Linked, Finishing),
    /// Nothing is: this is to be done first.
    Unprepared(Preparing),
}

/// What is still to be done in a sandbox, in this order. All paths are absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finishing {
    /// Files of packages that went.
    pub remove: Vec<String>,
    /// Python sources to compile.
    pub sources: Vec<String>,
    /// Scripts of packages.
    pub scripts: Vec<Script>,
    /// Whether what activating the environment does is another thing than before.
    pub activates: bool,
    /// Whether shells are to be told about a new environment.
    pub is_new: bool,
}

/// A script of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Its path.
    pub path: String,
    /// The package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The number of its build.
    pub build_number: u64,
}

impl Finishing {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Job for LinkPackages {
    const NAME: &'static str = "conda.link";
    type Output = Outcome;

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Outcome, JobError> {
        let manifest = |package: &LinkedPackage| {
            let manifest: Option<Manifest> = descriptions(context).load(&manifest_name(&package.sha256))?;
            manifest.ok_or_else(|| JobError::new(MISSING, format!("`{}` is not unpacked", package.name)))
        };
        let manifests = self.packages.par_iter().map(manifest).collect::<Result<Vec<_>, _>>()?;
        let nothing = Prepared::default();
        let prepared = match &self.prepared {
            Some(prepared) => prepared,
            None => match self.preparing(&manifests) {
                Some(preparing) => return Ok(Outcome::Unprepared(preparing)),
                None => &nothing,
            },
        };
        let placed = self.packages.par_iter().zip(&manifests).map(|(package, manifest)| {
            place(package, manifest, self.python.as_ref(), prepared)
                .ok_or_else(|| JobError::new(NO_PYTHON, package.file_name.clone()))
        });
        let placed = placed.collect::<Result<Vec<Placed>, _>>()?;
        let finishing = self.finishing(&placed);
        let mut packages: Vec<Package> = placed.into_iter().map(|placed| placed.package).collect();
        let content = Content::Text { bytes: self.history.into_bytes(), mode: 0o644 };
        let history = File { path: format!("{PREFIX}/{RECORDS}/history"), content };
        let mut files = programs::files(self.is_new, &self.packages);
        files.push(history);
        packages.push(Package { name: "conda".to_owned(), files, empty_directories: Vec::new() });
        let contents = Contents::new(packages)?;
        let linked = contents.link(context, &self.work, &mut Layers::new(context.content(), &self.layers))?;
        Ok(Outcome::Linked(linked, finishing))
    }
}

/// Where packages have the scripts that activating the environment runs.
const ACTIVATION: &str = "etc/conda/activate.d/";

impl LinkPackages {
    /// What is to be done before; `None` if no package has a script for then.
    fn preparing(&self, manifests: &[Manifest]) -> Option<Preparing> {
        let scripts = self.packages.iter().zip(manifests).filter_map(|(package, manifest)| {
            let path = early_script(&package.name);
            manifest.packed.iter().find(|entry| entry.path == path)?;
            Some((package.clone(), script(package, &format!("{}/{path}", unpacked(&package.file_name)))?))
        });
        let (packages, link): (Vec<_>, Vec<_>) = scripts.unzip();
        let remove = self.remove.iter().map(|path| format!("{PREFIX}/{path}")).collect();
        let is_nothing = link.is_empty() && self.unlink.is_empty();
        (!is_nothing).then(|| Preparing { unlink: self.unlink.clone(), remove, link, packages })
    }

    fn finishing(&self, placed: &[Placed]) -> Finishing {
        let paths: HashSet<&str> = placed
            .iter()
            .flat_map(|placed| &placed.package.files)
            .filter_map(|file| file.path.strip_prefix(PREFIX)?.strip_prefix('/'))
            .collect();
        let is_activation = |path: &str| path.starts_with(ACTIVATION);
        // What was prepared is without them already.
        let remove = self.remove.iter().filter(|path| self.prepared.is_none() && !paths.contains(path.as_str()));
        let late_script = |package: &LinkedPackage| {
            let path = format!("bin/.{}-post-link.sh", package.name);
            paths.contains(path.as_str()).then(|| script(package, &format!("{PREFIX}/{path}")))?
        };
        Finishing {
            remove: remove.map(|path| format!("{PREFIX}/{path}")).collect(),
            sources: placed.iter().flat_map(|placed| &placed.sources).cloned().collect(),
            scripts: self.packages.iter().filter_map(late_script).collect(),
            activates: paths.iter().any(|path| is_activation(path))
                || self.remove.iter().any(|path| is_activation(path)),
            is_new: self.is_new,
        }
    }
}

/// A script of a package that is to be installed.
fn script(package: &LinkedPackage, path: &str) -> Option<Script> {
    #[derive(Deserialize)]
    struct Record {
        version: String,
        #[serde(default)]
        build_number: u64,
    }

    let Record { version, build_number } = serde_json::from_str(&package.record).ok()?;
    Some(Script { path: path.to_owned(), name: package.name.clone(), version, build_number })
}

/// What conda writes down about a change of an environment. The time is that of all that packages install.
pub(crate) fn history(before: &str, removed: &[String], installed: &[String], requested: &[String]) -> String {
    let mut history = before.to_owned();
    if !history.is_empty() && !history.ends_with('\n') {
        history.push('\n');
    }
    // Writing to a text does not fail.
    let _ = writeln!(history, "==> 2000-01-01 00:00:00 <==");
    let requested: Vec<String> = requested.iter().map(|spec| plain(spec)).collect();
    let _ = writeln!(history, "# cmd: micromamba install {}", requested.join(" "));
    for (sign, packages) in [('-', removed), ('+', installed)] {
        for package in packages {
            let _ = writeln!(history, "{sign}{package}");
        }
    }
    // An empty list is none that mamba can read.
    if !requested.is_empty() {
        let quoted: Vec<_> = requested.iter().map(|spec| format!("'{}'", spec.replace('\'', ""))).collect();
        let _ = writeln!(history, "# update specs: [{}]", quoted.join(", "));
    }
    history
}

/// A specification in one line, in which nothing escapes the quotes around it.
fn plain(spec: &str) -> String {
    spec.replace('\\', "").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_grows() {
        let first = history("", &[], &["c::a-1-0".to_owned()], &["a".to_owned()]);
        let second = history(&first, &["c::a-1-0".to_owned()], &["c::a-2-0".to_owned()], &["a>=2".to_owned()]);
        insta::assert_snapshot!(second, @"
        ==> 2000-01-01 00:00:00 <==
        # cmd: micromamba install a
        +c::a-1-0
        # update specs: ['a']
        ==> 2000-01-01 00:00:00 <==
        # cmd: micromamba install a>=2
        -c::a-1-0
        +c::a-2-0
        # update specs: ['a>=2']
        ");
    }

    #[test]
    fn history_is_readable_whatever_was_asked_for() {
        let written = history("", &[], &["c::a-1-0".to_owned()], &["a\n+c::evil-1-0 'x\\".to_owned()]);
        insta::assert_snapshot!(written, @"
        ==> 2000-01-01 00:00:00 <==
        # cmd: micromamba install a +c::evil-1-0 'x
        +c::a-1-0
        # update specs: ['a +c::evil-1-0 x']
        ");
        assert!(!history("", &[], &[], &[]).contains("specs"));
    }
}
