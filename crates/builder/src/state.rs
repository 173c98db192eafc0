//! What a chain of steps has come to.

use std::sync::Arc;

use lamina_image::{Digest, Facts, Hasher, LayerKey, RuntimeConfig, image_id};

/// A built image, ready to run things in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// The image id, `im-…`.
    pub id: String,
    /// The layers, bottom first.
    pub layers: Vec<Digest>,
    /// Views of attached local files, bottom first; they lie over the layers.
    pub attachments: Vec<Digest>,
    /// Environment and working directory.
    pub config: RuntimeConfig,
    /// The interpreter, an absolute path inside the image; `None` to look it up on the PATH.
    pub python: Option<String>,
}

/// The state after a step: what the next one builds on.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// The layers, bottom first.
    pub(crate) layers: Vec<Digest>,
    /// Digests of what they hold, in the same order.
    pub(crate) contents: Vec<Digest>,
    /// Keys of the layers, in the same order.
    pub(crate) keys: Vec<LayerKey>,
    /// Titles of the steps that made the layers, and where their logs are.
    pub(crate) logs: Vec<(String, String)>,
    /// Views of attached files, bottom first.
    pub(crate) attachments: Vec<Digest>,
    /// Environment and working directory.
    pub(crate) config: RuntimeConfig,
    /// What the steps say about the image.
    pub(crate) facts: Arc<Facts>,
    /// Whether everything in it came signed from Debian's archive: no step has run the user's commands or packages of
    /// anybody else. Only then are files that a step leaves in a shared cache what the archive sent.
    pub(crate) pristine: bool,
    /// Bytes of all layers.
    pub(crate) bytes: u64,
    /// Whether every layer came from the store.
    pub(crate) cached: bool,
    /// Title of the last step.
    pub(crate) title: String,
}

impl State {
    /// Adds what a step says about the image.
    pub(crate) fn learn(&mut self, facts: Facts) {
        if facts != Facts::default() {
            self.config.extend(facts.config.clone());
            Arc::make_mut(&mut self.facts).extend(facts);
        }
    }

    /// Digest of the content of all layers together: what the next step's key depends on.
    pub(crate) fn content(&self) -> Digest {
        let mut hasher = Hasher::new();
        for layer in &self.contents {
            hasher.update(layer.as_bytes());
        }
        hasher.finish()
    }

    /// The image id of this state.
    pub(crate) fn image_id(&self) -> String {
        image_id(&self.contents, &self.config)
    }

    /// The state as an image.
    pub(crate) fn built(&self) -> BuiltImage {
        BuiltImage {
            id: self.image_id(),
            layers: self.layers.clone(),
            attachments: self.attachments.clone(),
            config: self.config.clone(),
            python: self.facts.python.as_ref().map(|python| python.interpreter.clone()),
        }
    }
}
