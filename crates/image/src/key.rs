//! Layer keys and image ids.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use lamina_ground::{ALPHABET, Stack};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, DigestError, RuntimeConfig, redact_value};

/// Version of the way steps are executed. A change that makes the same step give another result raises it.
pub const BUILDER_VERSION: u32 = 2;

/// Digest of everything that can influence a step's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerKey(pub Digest);

impl fmt::Display for LayerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for LayerKey {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Everything that can influence a step's result, by name.
///
/// It is kept beside the layer, so that "why was this rebuilt" is a comparison of two records. Credentials in addresses
/// are not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyMaterial {
    parts: BTreeMap<String, Value>,
}

impl KeyMaterial {
    /// Material that every key of this architecture and builder version shares.
    #[must_use]
    pub fn new(architecture: &str) -> Self {
        let mut material = Self::default();
        material.add("architecture", architecture);
        material.add("builder_version", BUILDER_VERSION);
        material
    }

    /// Adds a named part, of which credentials in addresses do not matter: whoever fetches something gets the same.
    pub fn add(&mut self, name: &str, value: impl Into<Value>) {
        self.parts.insert(name.to_owned(), redact_value(&value.into()));
    }

    /// Adds a named part of which every byte matters: the step's result may contain it. Of credentials in addresses, the
    /// key depends on their digest.
    pub fn add_exact(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        let shown = redact_value(&value);
        if shown != value {
            self.parts.insert(format!("{name}_digest"), Digest::of(value.to_string().as_bytes()).hex().into());
        }
        self.parts.insert(name.to_owned(), shown);
    }

    /// A named part.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<&Value> {
        self.parts.get(name)
    }

    /// The key: the digest of the canonical JSON form (sorted names, no spaces).
    #[must_use]
    pub fn key(&self) -> LayerKey {
        LayerKey(Digest::of(self.canonical().to_string().as_bytes()))
    }

    /// The record kept beside the layer.
    #[must_use]
    pub fn canonical(&self) -> Value {
        Value::Object(self.parts.clone().into_iter().collect())
    }

    /// Names of the parts in which two records differ.
    #[must_use]
    pub fn differences(&self, former: &Value) -> Vec<String> {
        let empty = serde_json::Map::new();
        let former = former.as_object().unwrap_or(&empty);
        let mut names: Vec<String> = self
            .parts
            .iter()
            .filter(|(name, value)| former.get(*name) != Some(value))
            .map(|(name, _)| name.clone())
            .chain(former.keys().filter(|name| !self.parts.contains_key(*name)).cloned())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The id of an image: what its layers hold, and how things are run in it. Equal images have equal ids.
#[must_use]
pub fn image_id(layers: &Stack<Digest>, config: &RuntimeConfig) -> String {
    let description = serde_json::json!({ "layers": layers, "config": config });
    format!("im-{}", base62(Digest::of(description.to_string().as_bytes())))
}

/// The first 22 base-62 digits of a digest: 130 bits.
fn base62(digest: Digest) -> String {
    let mut number = digest.as_bytes().to_vec();
    (0..22)
        .map(|_| {
            let remainder = number.iter_mut().fold(0_u16, |remainder, byte| {
                let value = remainder << 8 | u16::from(*byte);
                *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
                value % 62
            });
            char::from(ALPHABET[usize::from(remainder)])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn material(packages: &[&str]) -> KeyMaterial {
        let mut material = KeyMaterial::new("x86_64");
        material.add("kind", "apt_install");
        material.add("packages", packages.to_vec());
        material
    }

    #[test]
    fn keys_are_pinned() {
        assert_eq!(
            material(&["git"]).key().to_string(),
            "c0da30e6890f007044ade48d47375f1683ce98e8231f71768846bb34c4413f38",
            "a changed key rebuilds every layer of every user: raise BUILDER_VERSION if that is meant"
        );
    }

    #[test]
    fn credentials_are_not_kept_and_count_only_where_they_may_be_seen() {
        let with = |add: fn(&mut KeyMaterial, &str, Value), credentials: &str| {
            let mut material = KeyMaterial::new("x86_64");
            add(&mut material, "part", format!("a @ https://{credentials}@host/x").into());
            assert!(!material.canonical().to_string().contains(credentials), "{:?}", material.canonical());
            material.key()
        };
        assert_eq!(with(KeyMaterial::add, "me:one"), with(KeyMaterial::add, "me:two"));
        assert_ne!(with(KeyMaterial::add_exact, "me:one"), with(KeyMaterial::add_exact, "me:two"));
        let (mut one, mut other) = (material(&["git"]), material(&["git"]));
        one.add("plain", "x");
        other.add_exact("plain", "x");
        assert_eq!(one, other);
    }

    #[test]
    fn differences_are_named() {
        let former = material(&["git"]).canonical();
        let mut now = material(&["git", "curl"]);
        now.add("parent", "x");
        assert_eq!(now.differences(&former), ["packages", "parent"]);
        assert_eq!(material(&["git"]).differences(&now.canonical()), ["packages", "parent"]);
    }

    #[test]
    fn image_ids_depend_on_layers_and_configuration() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let plain = RuntimeConfig::default();
        let mut configured = plain.clone();
        configured.environment.insert("A".into(), "1".into());
        let id = |layers: &[Digest], config| image_id(&Stack::from_bottom_up(layers.iter().copied()), config);
        let ids = [id(&[one, two], &plain), id(&[two, one], &plain), id(&[one], &plain), id(&[one], &configured)];
        for (index, id) in ids.iter().enumerate() {
            assert_eq!(id.len(), 25);
            assert!(!ids[..index].contains(id));
        }
    }
}
