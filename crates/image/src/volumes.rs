//! Volumes in the file systems of steps and containers.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A volume in a place of the file system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The place, an absolute path.
    pub path: String,
    /// The volume.
    pub volume: VolumeReference,
    /// Whether writing is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// The directory of the volume that is meant; none is all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
}

/// Which volume is meant: by its name, by its id, or by both once that name has been looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VolumeReference {
    /// Its id, `vo-…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The environment of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Whether it is made where there is none of that name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub create: bool,
}

impl VolumeMount {
    /// What of it enters the key of a step: which volume it is, and where. What it holds does not.
    #[must_use]
    pub fn key(&self) -> Value {
        let VolumeReference { id, name, environment, .. } = &self.volume;
        let volume = name
            .as_ref()
            .map_or_else(|| json!({ "id": id }), |name| json!({ "name": name, "environment": environment }));
        json!({ "path": self.path, "volume": volume, "read_only": self.read_only, "sub_path": self.sub_path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_the_volume_and_not_which_one_has_the_name_now() {
        let read = |text: &str| serde_json::from_str::<VolumeMount>(text).unwrap();
        let named = read(r#"{"path":"/data","volume":{"name":"data","environment":"main","create":true}}"#);
        let found = read(r#"{"path":"/data","volume":{"id":"vo-1","name":"data","environment":"main"}}"#);
        assert_eq!(named.key(), found.key());
        let other = read(r#"{"path":"/data","volume":{"name":"data","environment":"staging"}}"#);
        let by_id = read(r#"{"path":"/data","volume":{"id":"vo-1"}}"#);
        let read_only = VolumeMount { read_only: true, ..named.clone() };
        let part = VolumeMount { sub_path: Some("a".into()), ..named.clone() };
        for different in [other, by_id, read_only, part] {
            assert_ne!(named.key(), different.key(), "{different:?}");
        }
    }
}
