//! Where caches are: what `MODAL_CACHE` says.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use lamina_ground::Hint;
use lamina_registry::Reference;

/// The beginning of the addresses of registries.
const OCI: &str = "oci://";

/// A cache that several machines share. Its text is as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    pub(crate) location: Location,
    /// Whether it is only read.
    pub(crate) is_read_only: bool,
}

/// What a cache is kept in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A repository of a registry.
    Repository(Reference),
    /// A directory.
    Directory(PathBuf),
}

/// A part of `MODAL_CACHE` names no cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`MODAL_CACHE` has `{text}`, {reason}: write `oci://registry.example/team/cache` or the absolute path of a directory, \
     several of them with commas between, and `:ro` behind one that is only to be read"
)]
pub struct AddressError {
    text: String,
    reason: String,
}

impl Hint for AddressError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        None
    }
}

impl Address {
    /// Reads a list with commas between.
    ///
    /// # Errors
    /// When one of them names no cache, or the same one twice.
    pub fn list(value: &str) -> Result<Vec<Self>, AddressError> {
        let mut addresses: Vec<Self> = Vec::new();
        for text in value.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let address: Self = text.parse()?;
            if addresses.iter().any(|other| other.location == address.location) {
                return Err(AddressError { text: text.to_owned(), reason: "which stands there twice".to_owned() });
            }
            addresses.push(address);
        }
        Ok(addresses)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |reason: &str| AddressError { text: text.to_owned(), reason: reason.to_owned() };
        let (place, is_read_only) = match (text.strip_suffix(":ro"), text.strip_suffix(":rw")) {
            (Some(place), _) => (place, true),
            (_, Some(place)) => (place, false),
            _ => (text, false),
        };
        let location = if let Some(name) = place.strip_prefix(OCI) {
            let reference: Reference =
                name.parse().map_err(|error| wrong(&format!("which is no repository ({error})")))?;
            let last = name.rsplit('/').next().unwrap_or_default();
            let host = name.split('/').next().unwrap_or_default();
            if !(host.contains(['.', ':']) || host == "localhost") || !name.contains('/') {
                return Err(wrong("which does not begin with the host of a registry"));
            }
            if last.contains([':', '@']) {
                return Err(wrong("which has a tag or digest, and a cache needs all tags of its repository"));
            }
            Location::Repository(Reference { tag: None, ..reference })
        } else if place.starts_with('/') {
            Location::Directory(PathBuf::from(place))
        } else {
            return Err(wrong("which is neither"));
        };
        Ok(Self { text: text.to_owned(), location, is_read_only })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_repositories_and_directories() {
        let list = Address::list("oci://ghcr.io/team/cache, /shared/cache:ro,oci://localhost:5000/a:rw,").unwrap();
        let read_only: Vec<bool> = list.iter().map(|address| address.is_read_only).collect();
        assert_eq!(read_only, [false, true, false]);
        assert_eq!(list[1].location, Location::Directory("/shared/cache".into()));
        let Location::Repository(reference) = &list[2].location else { panic!("{list:?}") };
        assert_eq!((&*reference.registry, &*reference.repository), ("localhost:5000", "a"));
        assert_eq!(Address::list(" ").unwrap(), []);
    }

    #[test]
    fn what_names_no_cache_is_refused() {
        for (text, reason) in [
            ("cache", "which is neither"),
            ("https://ghcr.io/team/cache", "which is neither"),
            ("oci://team/cache", "does not begin with the host"),
            ("oci://ghcr.io", "does not begin with the host"),
            ("oci://ghcr.io/team/cache:v1", "has a tag"),
            ("oci://ghcr.io/Team", "is no repository"),
            ("/a,/a:ro", "stands there twice"),
        ] {
            let error = Address::list(text).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("`MODAL_CACHE` has `"), "{text}: {error}");
        }
    }
}
