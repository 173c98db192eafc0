//! Whether a project asks for the versions that its lock was made for, as far as that can be told without reading versions
//! as `uv` does.

use std::collections::{BTreeMap, BTreeSet};

use lamina_wheels::{normalize_name, requirement_name};
use toml::{Table, Value};

/// The bounds of one requirement, in a form in which equal ones are the same.
type Bounds = BTreeSet<String>;

/// A requirement that a project has in other words than its lock, and both.
pub(super) struct Difference {
    /// What the project asks for.
    pub(super) declared: String,
    /// What the lock was made for.
    pub(super) locked: String,
}

/// The first package that both name once and with other versions.
pub(super) fn difference<'a>(
    declared: impl Iterator<Item = &'a Value>,
    locked: impl Iterator<Item = &'a Value>,
) -> Option<Difference> {
    let requirements = declared.filter_map(Value::as_array).flatten().filter_map(Value::as_str);
    let declared = once(requirements.map(|text| (requirement_name(text), of_requirement(text))));
    let entries = locked.filter_map(Value::as_array).flatten().filter_map(Value::as_table);
    let locked =
        once(entries.map(|entry| (entry.get("name").and_then(Value::as_str).map(normalize_name), of_lock(entry))));
    declared.iter().find_map(|(name, bounds)| {
        let (declared, locked) = (bounds.as_ref()?, locked.get(name)?.as_ref()?);
        let written = |bounds: &Bounds| {
            let bounds: Vec<&str> = bounds.iter().map(String::as_str).collect();
            format!("{name}{}", bounds.join(","))
        };
        (declared != locked).then(|| Difference { declared: written(declared), locked: written(locked) })
    })
}

/// The bounds of each name; of those that come more than once, which may be for different environments, none.
fn once(all: impl Iterator<Item = (Option<String>, Option<Bounds>)>) -> BTreeMap<String, Option<Bounds>> {
    let mut by_name = BTreeMap::new();
    for (name, bounds) in all.filter_map(|(name, bounds)| Some((name?, bounds))) {
        by_name.entry(name).and_modify(|bounds| *bounds = None).or_insert(bounds);
    }
    by_name
}

/// The bounds in a requirement that is a name, extras and versions; `None` where that is not all or not plain.
fn of_requirement(text: &str) -> Option<Bounds> {
    let text = text.split(';').next()?.trim();
    let end = text.find(|character: char| !(character.is_ascii_alphanumeric() || "-_.".contains(character)));
    let rest = text[end.unwrap_or(text.len())..].trim_start();
    let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
    bounds(rest)
}

/// The bounds of what a lock says of a requirement; `None` where that is not an index's.
fn of_lock(entry: &Table) -> Option<Bounds> {
    const PLAIN: [&str; 6] = ["extra", "extras", "index", "marker", "name", "specifier"];
    if !entry.keys().all(|key| PLAIN.contains(&key.as_str())) {
        return None;
    }
    bounds(entry.get("specifier").map_or(Some(""), Value::as_str)?)
}

fn bounds(text: &str) -> Option<Bounds> {
    text.split(',').map(str::trim).filter(|bound| !bound.is_empty()).map(bound).collect()
}

/// One bound, without zeros at the end where they do not matter; `None` if its version is more than numbers.
fn bound(text: &str) -> Option<String> {
    let (operator, version) = text.split_at(text.find(|character: char| !"<>=!~".contains(character))?);
    let version = version.trim();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = |version: &str| version.split('.').all(is_number);
    match operator {
        "<" | "<=" | ">" | ">=" | "==" | "!=" if is_plain(version) => {
            let mut shortest = version;
            while let Some(shorter) = shortest.strip_suffix(".0") {
                shortest = shorter;
            }
            Some(format!("{operator}{shortest}"))
        }
        "~=" if is_plain(version) => Some(format!("{operator}{version}")),
        "==" | "!=" if version.strip_suffix(".*").is_some_and(is_plain) => Some(format!("{operator}{version}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(declared: &[&str], locked: &str) -> Option<String> {
        let declared = Value::from(declared.to_vec());
        let locked: Table = format!("all = [{locked}]").parse().unwrap();
        let difference = difference([&declared].into_iter(), locked.values())?;
        Some(format!("{} {}", difference.declared, difference.locked))
    }

    #[test]
    fn other_versions_are_found() {
        for (declared, locked) in [
            ("a>=2", "{ name = 'a', specifier = '>=1' }"),
            ("a", "{ name = 'a', specifier = '>=1' }"),
            ("A[x] == 1.*; python_version > '3'", "{ name = 'a' }"),
            ("a>=1,<2", "{ name = 'a', specifier = '>=1,<3' }"),
            ("a~=1.0", "{ name = 'a', specifier = '~=1.0.0' }"),
        ] {
            assert!(differs(&[declared], locked).is_some(), "{declared} {locked}");
        }
        let said = differs(&["b", "a >= 2.0, < 3"], "{ name = 'a', specifier = '==1.5' }, { name = 'b' }");
        insta::assert_snapshot!(said.unwrap(), @"a<3,>=2 a==1.5");
    }

    #[test]
    fn the_same_in_other_words_is_no_difference_and_nor_is_what_is_not_understood() {
        for (declared, locked) in [
            ("a>=1.0", "{ name = 'a', specifier = '>=1' }"),
            ("a <2, >= 1", "{ name = 'a', specifier = '>=1,<2', index = 'https://x.invalid' }"),
            ("a[x,y]", "{ name = 'a', extras = ['x', 'y'] }"),
            ("a>=1b1", "{ name = 'a', specifier = '>=1' }"),
            ("a (>=2)", "{ name = 'a', specifier = '>=1' }"),
            ("a @ https://x.invalid/a-1.whl", "{ name = 'a' }"),
            ("a>=2", "{ name = 'a', git = 'https://x.invalid' }"),
            ("a>=2", "{ name = 'a', specifier = '>=1' }, { name = 'a', specifier = '>=2' }"),
            ("a>=2", "{ name = 'b' }"),
        ] {
            assert_eq!(differs(&[declared], locked), None, "{declared} {locked}");
        }
        assert_eq!(differs(&["a>=2", "a>=1"], "{ name = 'a', specifier = '>=3' }"), None);
    }
}
