//! Names and identities of objects.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use lamina_image::{Digest, Hasher};
use serde::{Deserialize, Serialize};

/// What makes an inode what it is, besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// Permission bits, set-id and sticky bits included.
    pub mode: u32,
    /// Owner as seen inside.
    pub uid: u32,
    /// Group as seen inside.
    pub gid: u32,
    /// Extended attributes as seen inside, by name.
    #[serde(default, with = "pairs", skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl ObjectMeta {
    /// A file of container root without extended attributes.
    #[must_use]
    pub fn root_owned(mode: u32) -> Self {
        Self { mode, ..Self::default() }
    }

    /// The part of an object's name that stands for this.
    fn digest(&self) -> u32 {
        let mut hasher = Hasher::new();
        for number in [self.mode, self.uid, self.gid] {
            hasher.update(&number.to_le_bytes());
        }
        for (name, value) in &self.xattrs {
            for bytes in [name, value] {
                hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
            }
        }
        let [a, b, c, d, ..] = *hasher.finish().as_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

/// Name of an object: one name, one inode identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    content: Digest,
    meta: u32,
}

impl ObjectName {
    /// The name of these bytes with this owner, mode and attributes.
    #[must_use]
    pub fn new(content: Digest, meta: &ObjectMeta) -> Self {
        Self { content, meta: meta.digest() }
    }

    /// Digest of the bytes.
    #[must_use]
    pub fn content(&self) -> Digest {
        self.content
    }

    /// Path relative to the content directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let text = self.to_string();
        PathBuf::from(format!("objects/{}/{}", &text[..2], &text[2..]))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{:08x}", self.content, self.meta)
    }
}

/// Attributes as a list of pairs: names are bytes, which JSON has no keys for.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

    pub(super) fn serialize<S: Serializer>(attributes: &Attributes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(attributes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Attributes, D::Error> {
        Ok(Vec::<(Vec<u8>, Vec<u8>)>::deserialize(deserializer)?.into_iter().collect())
    }
}
