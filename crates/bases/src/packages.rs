//! Package indexes: what there is, in which version, and what it needs.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use lamina_fetch::is_sha256;

use crate::control::{Stanza, stanzas};
use crate::{BaseError, version};

/// A package of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) essential: bool,
    pub(crate) required: bool,
    pub(crate) depends: Vec<Alternatives>,
    /// Virtual packages, with their version if they have one.
    pub(crate) provides: Vec<(String, Option<String>)>,
    /// Path below the archive's address.
    pub(crate) filename: String,
    pub(crate) sha256: String,
    pub(crate) size: u64,
    /// The address of the archive that has it.
    pub(crate) archive: String,
}

/// One requirement: any of these.
pub(crate) type Alternatives = Vec<Dependency>;

/// A package by name, possibly in certain versions only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) version: Option<(Relation, String)>,
}

/// How a version has to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

impl Relation {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Earlier => order.is_lt(),
            Self::EarlierOrEqual => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::LaterOrEqual => order.is_ge(),
            Self::Later => order.is_gt(),
        }
    }
}

impl Dependency {
    /// Whether a package of the right name has the right version.
    pub(crate) fn accepts(&self, found: &str) -> bool {
        self.version.as_ref().is_none_or(|(relation, wanted)| relation.holds(version::compare(found, wanted)))
    }
}

/// The newest version of each package, by name.
pub(crate) type Index = BTreeMap<String, Package>;

/// Adds the packages of a verified index to `index`; where both have a package, the newer version stays.
pub(crate) fn add_packages(index: &mut Index, text: &str, archive: &str, name: &str) -> Result<(), BaseError> {
    for stanza in stanzas(text) {
        let package = package(&stanza, archive).map_err(|reason| BaseError::malformed(name, &reason))?;
        match index.get(&package.name) {
            Some(known) if version::compare(&known.version, &package.version).is_ge() => {}
            _ => {
                index.insert(package.name.clone(), package);
            }
        }
    }
    Ok(())
}

fn package(stanza: &Stanza<'_>, archive: &str) -> Result<Package, String> {
    let name = stanza.get("Package").ok_or("a package has no name")?;
    if !is_package_name(name) {
        return Err(format!("`{name}` is no package name"));
    }
    let field = |field| stanza.get(field).ok_or_else(|| format!("`{name}` has no `{field}`"));
    let filename = field("Filename")?;
    if filename.starts_with('/') || filename.split('/').any(|part| part == ".." || part.is_empty()) {
        return Err(format!("`{name}` has the path `{filename}`, which leads out of the archive"));
    }
    let sha256 = field("SHA256")?;
    if !is_sha256(sha256) {
        return Err(format!("`{name}` has no proper SHA-256"));
    }
    let mut depends = Vec::new();
    for kind in ["Pre-Depends", "Depends"] {
        depends.extend(dependencies(stanza.get(kind).unwrap_or_default()));
    }
    Ok(Package {
        name: name.into(),
        version: field("Version")?.into(),
        essential: stanza.flag("Essential").unwrap_or_default(),
        required: stanza.get("Priority") == Some("required"),
        depends,
        provides: provides(stanza.get("Provides").unwrap_or_default()),
        filename: filename.into(),
        sha256: sha256.into(),
        size: field("Size")?.parse().map_err(|_| format!("`{name}` has no proper size"))?,
        archive: archive.into(),
    })
}

/// Whether a text is a package's name; such a text is also safe in file names and commands.
pub(crate) fn is_package_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
}

/// Reads `a (>= 1) | b, c:any`.
pub(crate) fn dependencies(text: &str) -> Vec<Alternatives> {
    text.split(',')
        .map(|group| group.split('|').filter_map(dependency).collect::<Alternatives>())
        .filter(|group| !group.is_empty())
        .collect()
}

fn dependency(text: &str) -> Option<Dependency> {
    let (name, rest) = match text.split_once('(') {
        Some((name, rest)) => (name, Some(rest)),
        None => (text, None),
    };
    let name = name.split(['[', '<']).next()?.trim();
    let name = name.split_once(':').map_or(name, |(name, _)| name);
    let version = rest.and_then(|rest| {
        let condition = rest.split(')').next()?.trim();
        let operator = condition.find(|character: char| !"<>=".contains(character)).unwrap_or(condition.len());
        let (operator, version) = condition.split_at(operator);
        let relation = match operator {
            "<<" => Relation::Earlier,
            "<=" | "<" => Relation::EarlierOrEqual,
            "=" => Relation::Equal,
            ">=" | ">" => Relation::LaterOrEqual,
            ">>" => Relation::Later,
            _ => return None,
        };
        Some((relation, version.trim().to_owned()))
    });
    (!name.is_empty()).then(|| Dependency { name: name.into(), version })
}

fn provides(text: &str) -> Vec<(String, Option<String>)> {
    dependencies(text)
        .into_iter()
        .flatten()
        .map(|provided| (provided.name, provided.version.map(|(_, version)| version)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read() {
        let all =
            dependencies("libc6 (>= 2.36), init-system-helpers (>> 1:1~) | sysv, python3:any (<<3.12), , a [amd64]");
        assert_eq!(all.len(), 4);
        assert_eq!(all[1].len(), 2);
        assert!(all[0][0].accepts("2.36-9") && !all[0][0].accepts("2.35"));
        assert!(all[1][0].accepts("1:1.0") && !all[1][0].accepts("9"));
        assert_eq!(all[2][0].name, "python3");
        assert!(all[2][0].accepts("3.11") && !all[2][0].accepts("3.12"));
        assert_eq!(all[3][0].name, "a");
    }

    fn stanza(name: &str, version: &str, filename: &str) -> String {
        format!(
            "Package: {name}\nVersion: {version}\nEssential: yes\nPriority: required\nProvides: x (= 2), y\nSize: 3\n\
             Filename: {filename}\nSHA256: {}\n\n",
            "0".repeat(64)
        )
    }

    #[test]
    fn the_newer_version_stays() {
        let mut index = Index::new();
        add_packages(&mut index, &stanza("a", "1.2-1", "pool/a"), "http://main", "n").unwrap();
        add_packages(&mut index, &stanza("a", "1.10-1", "pool/a"), "http://security", "n").unwrap();
        add_packages(&mut index, &stanza("a", "1.9-1", "pool/a"), "http://updates", "n").unwrap();
        let package = &index["a"];
        assert_eq!((package.version.as_str(), package.archive.as_str()), ("1.10-1", "http://security"));
        assert!(package.essential && package.required);
        assert_eq!(package.provides, [("x".into(), Some("2".into())), ("y".into(), None)]);
    }

    #[test]
    fn hostile_entries_are_refused() {
        for (name, filename) in
            [("a", "/etc/a"), ("a", "pool/../../a"), ("../a", "pool/a"), ("A b", "pool/a"), ("", "pool/a")]
        {
            let text = stanza(name, "1", filename);
            assert!(add_packages(&mut Index::new(), &text, "http://m", "n").is_err(), "{name} {filename}");
        }
    }
}
