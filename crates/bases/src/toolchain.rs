//! Compilers and headers that bases leave out, as a layer that lies over an image while something is compiled in it.

use std::collections::BTreeSet;
use std::io::Write;

use lamina_store::{CommitRules, Work};
use lamina_workshop::Workshop;

use crate::bootstrap::{unpack_all, wanted};
use crate::closure::close;
use crate::install::lay_out::LayOut;
use crate::install::strip::Strip;
use crate::plan::architecture;
use crate::{BaseError, Suite, archive, mirror};

/// Packages of the compilers, and of what builds run beside them.
const COMPILERS: [&str; 6] = ["gcc", "g++", "gfortran", "libc6-dev", "make", "pkg-config"];
/// Headers of Debian's own Python. Other Pythons bring theirs.
const HEADERS: &str = "libpython3-dev";

/// What images on a release of Debian lack to compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Toolchain<'a> {
    /// The release.
    pub suite: Suite,
    /// Whether compilers are lacking.
    pub compilers: bool,
    /// The series of Debian's own Python, if its headers are lacking.
    pub headers: Option<&'a str>,
}

impl Toolchain<'_> {
    /// What is in it, for people.
    #[must_use]
    pub fn contents(&self) -> String {
        let compilers = self.compilers.then(|| "gcc, g++, gfortran, make, pkg-config".to_owned());
        let headers = self.headers.map(|series| format!("headers of Python {series}"));
        compilers.into_iter().chain(headers).collect::<Vec<_>>().join(", ")
    }

    /// How the layer is committed: what packages bring has the time of packages.
    #[must_use]
    pub fn commit_rules() -> CommitRules {
        CommitRules { package_times: true, ..CommitRules::default() }
    }

    /// Unpacks the packages into a new work directory, without those that a base has. None of their scripts run, and
    /// nothing but files below `/usr` stays: no package database knows of them.
    ///
    /// # Errors
    /// When the mirror cannot be reached or trusted, or its packages do not fit together.
    pub fn make(&self, workshop: &Workshop<'_>, log: &mut (dyn Write + Send)) -> Result<Work, BaseError> {
        let mirror = mirror::find()?;
        (workshop.progress)("reading indexes", 0, 0);
        let downloads = workshop.store.layout().downloads();
        let index = archive::read(self.suite, &mirror, workshop.fetch, &downloads)?;
        let unfit = |reason| BaseError::Dependency { suite: self.suite.name().into(), reason };
        let base = wanted(self.suite, self.headers.is_some());
        // An image with compilers of its own keeps what belongs to them.
        let own = if self.compilers { Vec::new() } else { COMPILERS.to_vec() };
        let known: BTreeSet<_> =
            close(&index, &[&base[..], &own].concat()).map_err(unfit)?.iter().map(|package| &package.name).collect();
        let mut packages = close(&index, &[&base[..], &own, &self.packages()].concat()).map_err(unfit)?;
        packages.retain(|package| !known.contains(&package.name));
        // What cannot be logged is no reason to fail.
        let _ = writeln!(
            log,
            "toolchain: {} packages of {} from {} ({})",
            packages.len(),
            self.suite,
            mirror.archive,
            mirror.origin
        );
        let work = workshop.store.new_work()?;
        workshop.store.job(&LayOut { work: work.id().into(), architecture: architecture()?.into() }, &[])?;
        unpack_all(&packages, &work, &downloads, workshop)?;
        workshop.store.job(&Strip { work: work.id().into() }, &[])?;
        Ok(work)
    }

    fn packages(&self) -> Vec<&'static str> {
        let compilers = self.compilers.then_some(COMPILERS);
        compilers.into_iter().flatten().chain(self.headers.map(|_| HEADERS)).collect()
    }
}
