//! What a chain of steps has come to.

use std::collections::BTreeMap;
use std::sync::Arc;

use lamina_ground::Stack;
use lamina_image::{Digest, Facts, FileSet, Hasher, LayerKey, Node, RuntimeConfig, image_id};
use lamina_store::{ImageRecord, LayerRecord};

use crate::BuildError;

use crate::toolchain::compiles_later;

/// A built image, ready to run things in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// The image id, `im-…`.
    pub id: String,
    /// The layers.
    pub layers: Stack<Digest>,
    /// Views of attached local files, which lie over the layers.
    pub attachments: Stack<Digest>,
    /// The layer of the compilers that containers have over the image, if they have some.
    pub toolchain: Option<Digest>,
    /// Environment and working directory.
    pub config: RuntimeConfig,
    /// The interpreter, an absolute path inside the image; `None` to look it up on the PATH.
    pub python: Option<String>,
    /// How many of the lowest layers brought it, where these are from elsewhere.
    pub foreign_layers: Option<usize>,
}

/// The state after a step: what the next one builds on.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of its own")]
pub(crate) struct State {
    /// The layers.
    pub(crate) layers: Stack<Digest>,
    /// Digests of what they hold.
    pub(crate) contents: Stack<Digest>,
    /// Keys of the steps that made them, the lowest one's first.
    pub(crate) keys: Vec<LayerKey>,
    /// Titles of these.
    pub(crate) titles: Vec<String>,
    /// Titles of the steps that made the layers, and where their logs are.
    pub(crate) logs: Vec<(String, String)>,
    /// Local files that containers get over the layers, one set over the other.
    pub(crate) attached: Stack<FileSet>,
    /// Environment and working directory.
    pub(crate) config: RuntimeConfig,
    /// What instructions of a Dockerfile know beside the image.
    pub(crate) stage: Stage,
    /// What the steps say about the image.
    pub(crate) facts: Arc<Facts>,
    /// Whether everything in it came signed from Debian's archive: no step has run the user's commands or packages of
    /// anybody else. Only then are files that a step leaves in a shared cache what the archive sent.
    pub(crate) pristine: bool,
    /// Whether it may hold local files, or what secrets or volumes led to: such layers are not for others.
    pub(crate) private: bool,
    /// Bytes of all layers.
    pub(crate) bytes: u64,
    /// Whether every layer came from the store.
    pub(crate) cached: bool,
    /// Title of the last step.
    pub(crate) title: String,
    /// Whether something in it compiles while functions run.
    pub(crate) compiles: bool,
}

/// What instructions of one stage of a Dockerfile know beside the image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stage {
    /// Values of `ARG`.
    pub(crate) arguments: BTreeMap<String, String>,
    /// Whether `CMD` stands above: an `ENTRYPOINT` leaves it alone then.
    pub(crate) has_command: bool,
}

impl State {
    /// Adds what a step says about the image.
    fn learn(&mut self, facts: Facts) {
        if facts != Facts::default() {
            self.config.extend(facts.config.clone());
            Arc::make_mut(&mut self.facts).extend(facts);
        }
    }

    /// The state of an image that was built before. Nobody knows any more whether everything in it was signed.
    pub(crate) fn of_image(record: &ImageRecord) -> Result<Self, BuildError> {
        let facts = record.facts.read();
        let known = facts.filter(|_| record.contents.len() == record.layers.len());
        // Recorded by an earlier version; the next build of the image records all of it.
        let facts =
            known.ok_or_else(|| BuildError::NoImage { id: Some(record.id.clone()), name: None, place: None })?;
        let mut titles = record.titles.clone();
        titles.resize(record.keys.len(), String::new());
        Ok(Self {
            layers: record.layers.clone(),
            contents: record.contents.clone(),
            keys: record.keys.clone(),
            titles,
            logs: record.logs.clone(),
            config: record.config.clone(),
            facts: Arc::new(facts),
            bytes: record.bytes,
            cached: true,
            // Nor what steps it consists of.
            private: true,
            title: record.title.clone(),
            ..Self::default()
        })
    }

    /// What a step with these inputs starts from: the first of them, or nothing.
    pub(crate) fn on(inputs: &[Arc<Self>]) -> Self {
        let state = inputs.first().map_or_else(Self::default, |parent| Self::clone(parent));
        // Nothing at all is complete.
        let cached = inputs.iter().all(|input| input.cached);
        let private = inputs.iter().any(|input| input.private);
        Self { private, cached, ..state }
    }

    /// Adds the layers of a step, and what it says about the image.
    pub(crate) fn add(&mut self, node: &Node, record: &LayerRecord, facts: Facts, pristine: bool) {
        self.compiles |= compiles_later(&record.material, &facts.packages);
        self.learn(facts);
        self.title.clone_from(&node.title);
        self.logs.extend(record.log.clone().map(|log| (node.title.clone(), log)));
        // No signature says what came from a cache that others write to.
        self.pristine = pristine && record.fetched_from.is_none();
        self.bytes += record.bytes;
        for layer in record.layers().bottom_up() {
            self.layers.put(layer.digest);
            self.contents.put(layer.content);
            self.keys.push(record.key);
            self.titles.push(node.words().into_owned());
        }
    }

    /// Digest of the content of all layers together: what the next step's key depends on.
    pub(crate) fn content(&self) -> Digest {
        let mut hasher = Hasher::new();
        for layer in self.contents.bottom_up() {
            hasher.update(layer.as_bytes());
        }
        hasher.finish()
    }

    /// The image id of this state.
    pub(crate) fn image_id(&self) -> String {
        image_id(&self.contents, &self.config)
    }

    /// The state as an image, with the views of its attached files.
    pub(crate) fn built(&self, attachments: Stack<Digest>, toolchain: Option<Digest>) -> BuiltImage {
        let python = self.facts.python.as_ref();
        BuiltImage {
            id: self.image_id(),
            layers: self.layers.clone(),
            attachments,
            toolchain,
            config: self.config.clone(),
            python: python.map(|python| python.interpreter.clone()),
            foreign_layers: python.and_then(|python| Some(python.foreign.as_ref()?.layers)),
        }
    }
}
