//! What the index keeps.
//!
//! Programs of other versions read and write the same rows, so a field that is added has `#[serde(default)]`; see "How
//! records grow" in `docs/store-format.md`.

use lamina_ground::Stack;
use lamina_image::{Digest, KeyMaterial, LayerKey, RecordedFacts, RuntimeConfig};
use serde::{Deserialize, Serialize};

use crate::Committed;

/// What a step made, in the index: a layer, and the `below` ones if there are several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of everything that can influence the step's result.
    pub key: LayerKey,
    /// Digest of the layer's diff tree.
    pub digest: Digest,
    /// Digest of what the layer holds, whenever it was made.
    pub content: Digest,
    /// The step's layers beneath that one; most steps make only one.
    #[serde(default, skip_serializing_if = "Stack::is_empty")]
    pub below: Stack<LayerPart>,
    /// The layers of the image that this layer was made for without being one of them: it stays as long as
    /// an image that begins with these layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub companion_of: Option<Stack<Digest>>,
    /// The cache that machines share and that it came from: nobody but those who may write there says what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched_from: Option<String>,
    /// The method call as the user wrote it.
    pub title: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// How long making it took.
    pub seconds: f64,
    /// Regular files in the layers.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes that the store did not have before.
    pub bytes_new: u64,
    /// What went into the key, by name.
    pub material: serde_json::Value,
    /// The full log, relative to the store's `logs` directory.
    pub log: Option<String>,
    /// What the step says about the image.
    pub facts: RecordedFacts,
}

/// One of several layers that a step made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerPart {
    /// Digest of the layer's diff tree.
    pub digest: Digest,
    /// Digest of what the layer holds, whenever it was made.
    pub content: Digest,
}

impl LayerRecord {
    /// That of one layer, made of `material` by what `title` says since `created`, in `seconds`.
    #[must_use]
    pub fn of(committed: &Committed, material: &KeyMaterial, title: &str, created: u64, seconds: f64) -> Self {
        Self {
            key: material.key(),
            digest: committed.digest,
            content: committed.content,
            below: Stack::new(),
            companion_of: None,
            fetched_from: None,
            title: title.to_owned(),
            created,
            seconds,
            files: committed.files,
            bytes: committed.bytes,
            bytes_new: committed.bytes_new,
            material: material.canonical(),
            log: None,
            facts: RecordedFacts::default(),
        }
    }

    /// The layers.
    #[must_use]
    pub fn layers(&self) -> Stack<LayerPart> {
        let mut layers = self.below.clone();
        layers.put(LayerPart { digest: self.digest, content: self.content });
        layers
    }

    /// Digests of the layers' diff trees.
    #[must_use]
    pub fn digests(&self) -> Stack<Digest> {
        self.layers().map(|layer| layer.digest)
    }
}

/// An image in the index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The image id, `im-…`.
    pub id: String,
    /// Its layers.
    pub layers: Stack<Digest>,
    /// Keys of the steps that made them.
    pub keys: Vec<LayerKey>,
    /// How things are run in it.
    pub config: RuntimeConfig,
    /// The last step's title.
    pub title: String,
    /// When it was first built, in seconds since 1970.
    pub created: u64,
    /// When it was last asked for, in seconds since 1970.
    pub last_used: u64,
    /// Bytes of all its layers.
    pub bytes: u64,
    /// Full logs of its steps: title and path.
    pub logs: Vec<(String, String)>,
    /// Digests of what its layers hold, and what is known of it: what steps need that build on it. Older records have
    /// neither.
    #[serde(default, skip_serializing_if = "Stack::is_empty")]
    pub contents: Stack<Digest>,
    /// What its steps say about it.
    #[serde(default)]
    pub facts: RecordedFacts,
    /// The method calls that made its layers; older records have none.
    #[serde(default)]
    pub titles: Vec<String>,
    /// Where containers get local files beside it, which are no part of it. Older records have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<String>,
}

/// A layer as an archive, as registries have it: that which it came in, or one that was made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRecord {
    /// Digest of the layer's diff tree.
    pub layer: Digest,
    /// How it was made of the layer, or what it was unpacked over. One layer may have several.
    pub form: String,
    /// SHA-256 of the archive, in hexadecimal digits.
    pub diff_id: String,
    /// SHA-256 of it as it is compressed, in hexadecimal digits.
    pub sha256: String,
    /// Length in bytes as it is compressed.
    pub size: u64,
    /// How it is compressed: `zstd`, `gzip` or `none`.
    pub compression: String,
    /// Repositories that have it, with their registries.
    #[serde(default)]
    pub repositories: Vec<String>,
    /// The image of a registry whose uppermost layer it was, the newest: its name and the SHA-256 of its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<(String, String)>,
}

/// A name of an image. Another image may get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageName {
    /// The environment.
    pub environment: String,
    /// The name.
    pub name: String,
    /// The tag.
    pub tag: String,
}

impl std::fmt::Display for ImageName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.name, self.tag)
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedImage {
    /// The name.
    #[serde(flatten)]
    pub name: ImageName,
    /// The image id.
    pub image: String,
    /// When it got the name, in seconds since 1970.
    pub created: u64,
    /// What gave it the name, if that is known.
    #[serde(default, skip_serializing_if = "Origin::is_unknown")]
    pub origin: Origin,
}

/// The source of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The program or Dockerfile: its path in its repository, or its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The commit of its directory, with `-dirty` behind it where something there is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

impl Origin {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}
