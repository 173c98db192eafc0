//! Compilers and headers that bases leave out, as a layer that lies over an image while something is compiled in it.

use std::collections::BTreeSet;
use std::io::Write;

use lamina_store::{CommitRules, Work};
use lamina_workshop::Workshop;
use serde::{Deserialize, Serialize};

use crate::bootstrap::{unpack_all, wanted};
use crate::closure::close;
use crate::install::lay_out::LayOut;
use crate::install::strip::Strip;
use crate::plan::architecture;
use crate::{BaseError, Suite, archive, mirror};

/// Packages of the compilers.
const COMPILERS: [&str; 4] = ["gcc", "g++", "gfortran", HEADERS_OF_C];
/// Packages of what builds run beside any compiler.
const TOOLS: [&str; 2] = ["make", "pkg-config"];
const HEADERS_OF_C: &str = "libc6-dev";
/// Headers of Debian's own Python. Other Pythons bring theirs.
const HEADERS: &str = "libpython3-dev";

/// What an image has of compilers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Own {
    /// None.
    Nothing,
    /// Debian's, which others of Debian can be added to.
    Debians,
    /// Others, which are not mixed with any.
    Others,
}

impl Own {
    /// The packages that such an image may lack; all but that of C's headers have a program of their name.
    pub fn may_lack(self) -> impl Iterator<Item = &'static str> {
        let compilers = (self != Self::Others).then_some(COMPILERS);
        compilers.into_iter().flatten().chain(TOOLS)
    }
}

/// What images on a release of Debian lack to compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain<'a> {
    /// The release.
    pub suite: Suite,
    /// Packages of compilers, and of what builds run beside them.
    pub packages: Vec<String>,
    /// The series of Debian's own Python, if its headers are lacking.
    pub headers: Option<&'a str>,
}

impl Toolchain<'_> {
    /// What is in it, for people.
    #[must_use]
    pub fn contents(&self) -> String {
        // They belong to a compiler.
        let is_shown =
            |package: &&String| **package != HEADERS_OF_C || !self.packages.iter().any(|other| other == "gcc");
        let packages = self.packages.iter().filter(is_shown).cloned();
        let headers = self.headers.map(|series| format!("headers of Python {series}"));
        packages.chain(headers).collect::<Vec<_>>().join(", ")
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
        // What the image has itself stays as it is, with all that belongs to it.
        let is_own = |package: &&str| !self.packages.iter().any(|lacking| lacking == package);
        let own: Vec<&str> = COMPILERS.into_iter().chain(TOOLS).filter(is_own).collect();
        let wanted: Vec<&str> = self.packages.iter().map(String::as_str).chain(self.headers.map(|_| HEADERS)).collect();
        let known: BTreeSet<_> =
            close(&index, &[&base[..], &own].concat()).map_err(unfit)?.iter().map(|package| &package.name).collect();
        let mut packages = close(&index, &[&base[..], &own, &wanted].concat()).map_err(unfit)?;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_what_is_lacking() {
        let contents = |own: Own, headers| {
            let packages = own.may_lack().map(str::to_owned).collect();
            Toolchain { suite: Suite::Bookworm, packages, headers }.contents()
        };
        assert_eq!(
            contents(Own::Nothing, Some("3.11")),
            "gcc, g++, gfortran, make, pkg-config, headers of Python 3.11"
        );
        assert_eq!(contents(Own::Others, None), "make, pkg-config");
        let headers = Toolchain { suite: Suite::Bookworm, packages: vec![HEADERS_OF_C.to_owned()], headers: None };
        assert_eq!(headers.contents(), "libc6-dev");
    }
}
