//! Which packages a base needs: the essential ones, those asked for, and all that these depend on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::packages::{Alternatives, Dependency, Index, Package};

/// The packages to install, by name. Takes of each requirement the first alternative that can be had, unless another
/// one is there already; the result depends on the index alone.
///
/// # Errors
/// A sentence that names the package and what it lacks.
pub(crate) fn close<'a>(index: &'a Index, wanted: &[&str]) -> Result<Vec<&'a Package>, String> {
    let mut closure = Closure::new(index);
    let basic = index.values().filter(|package| package.essential || package.required);
    for package in basic {
        closure.add(package);
    }
    for name in wanted {
        let package = index.get(*name).ok_or_else(|| format!("there is no package `{name}`"))?;
        closure.add(package);
    }
    while let Some(package) = closure.open.pop_front() {
        for requirement in &package.depends {
            closure.satisfy(package, requirement)?;
        }
    }
    Ok(closure.chosen.into_values().collect())
}

struct Closure<'a> {
    index: &'a Index,
    providers: BTreeMap<&'a str, Vec<(&'a Package, Option<&'a str>)>>,
    chosen: BTreeMap<&'a str, &'a Package>,
    open: VecDeque<&'a Package>,
}

impl<'a> Closure<'a> {
    fn new(index: &'a Index) -> Self {
        let mut providers: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for package in index.values() {
            for (name, version) in &package.provides {
                providers.entry(name.as_str()).or_default().push((package, version.as_deref()));
            }
        }
        Self { index, providers, chosen: BTreeMap::new(), open: VecDeque::new() }
    }

    fn add(&mut self, package: &'a Package) {
        if self.chosen.insert(&package.name, package).is_none() {
            self.open.push_back(package);
        }
    }

    /// Makes sure that one of the alternatives is chosen.
    fn satisfy(&mut self, package: &Package, requirement: &Alternatives) -> Result<(), String> {
        let is_chosen = |candidate: &&Package| self.chosen.contains_key(candidate.name.as_str());
        if requirement.iter().any(|dependency| self.candidates(dependency).any(|candidate| is_chosen(&candidate))) {
            return Ok(());
        }
        let first = requirement.iter().find_map(|dependency| self.candidates(dependency).next());
        match first {
            Some(candidate) => {
                self.add(candidate);
                Ok(())
            }
            None => Err(format!(
                "`{}` {} needs {}, which it does not have",
                package.name,
                package.version,
                describe(requirement)
            )),
        }
    }

    /// The packages that fulfil a dependency: the one of that name first, then those that provide it.
    fn candidates<'s>(&'s self, dependency: &'s Dependency) -> impl Iterator<Item = &'a Package> + use<'a, 's> {
        let real = self.index.get(&dependency.name).filter(|package| dependency.accepts(&package.version));
        let providers = self.providers.get(dependency.name.as_str()).into_iter().flatten();
        let virtual_ones = providers
            .filter(|(_, version)| match version {
                Some(version) => dependency.accepts(version),
                None => dependency.version.is_none(),
            })
            .map(|(package, _)| *package);
        real.into_iter().chain(virtual_ones)
    }
}

fn describe(requirement: &Alternatives) -> String {
    let names: BTreeSet<_> = requirement
        .iter()
        .map(|dependency| match &dependency.version {
            Some((_, version)) => format!("`{}` ({version})", dependency.name),
            None => format!("`{}`", dependency.name),
        })
        .collect();
    names.into_iter().collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::add_packages;

    fn names(entries: &[(&str, &str)], wanted: &[&str]) -> Result<Vec<String>, String> {
        let mut index = Index::new();
        for (name, fields) in entries {
            let text = format!(
                "Package: {name}\nVersion: 1.5\nFilename: pool/{name}\nSize: 1\nSHA256: {}\n{fields}\n",
                "0".repeat(64)
            );
            add_packages(&mut index, &text, "http://m", "n").unwrap();
        }
        let packages = close(&index, wanted)?;
        Ok(packages.into_iter().map(|package| package.name.clone()).collect())
    }

    #[test]
    fn essential_wanted_and_their_dependencies() {
        let entries = [
            ("base", "Essential: yes\nPre-Depends: libc (>= 1)"),
            ("libc", "Depends: gcc-base (= 1.5)"),
            ("gcc-base", "Depends: libc"),
            ("python3", "Depends: media-types | mime-support, awk"),
            ("media-types", ""),
            ("mime-support", ""),
            ("mawk", "Provides: awk"),
            ("gawk", "Provides: awk"),
            ("other", "Priority: optional"),
        ];
        let found = names(&entries, &["python3"]).unwrap();
        assert_eq!(found, ["base", "gawk", "gcc-base", "libc", "media-types", "python3"]);
        let found = names(&entries, &["python3", "mawk", "mime-support"]).unwrap();
        assert_eq!(found, ["base", "gcc-base", "libc", "mawk", "mime-support", "python3"]);
    }

    #[test]
    fn versions_decide_between_alternatives() {
        let entries = [
            ("a", "Depends: old (>= 2) | new (>= 1)"),
            ("old", ""),
            ("new", ""),
            ("b", "Depends: virtual (>= 3)"),
            ("unversioned", "Provides: virtual"),
            ("versioned", "Provides: virtual (= 3.1)"),
        ];
        assert_eq!(names(&entries, &["a", "b"]).unwrap(), ["a", "b", "new", "versioned"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let entries = [("a", "Depends: b (>= 2) | c"), ("b", "")];
        let message = names(&entries, &["a"]).unwrap_err();
        assert!(message.contains("`a` 1.5") && message.contains("`b` (2) or `c`"), "{message}");
        assert!(names(&entries, &["nothing"]).unwrap_err().contains("`nothing`"));
    }
}
