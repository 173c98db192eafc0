//! What the schedule needs of the store and the sandboxes, so that tests can stand in for them.

use std::any::Any;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use lamina_cache::{Caches, Offer, Waiting};
use lamina_devices::DevicesError;
use lamina_events::{CancelToken, Event, Sink};
use lamina_fetch::FetchError;
use lamina_ground::{DEFAULT_PATH, Stack};
use lamina_image::{Digest, ExistingImage, Facts, FileSet, GpuRequest, LayerKey, Node};
use lamina_registry::{LocalImage, RegistryError};
use lamina_store::{Committed, Context, ImageName, ImageRecord, LayerRecord};
use lamina_workshop::Workshop;

use crate::host::HostSettings;
use crate::log::StepLog;
use crate::state::State;
use crate::steps::{LocalFiles, Made, Recipe, StepContext, StepError};
use crate::toolchain::{Image, When};
use crate::{BuildError, secrets};

/// Where layers are looked for, made and recorded.
pub(crate) trait Backend: LocalFiles + Debug {
    /// The record with this key, if its layers are there; they stay as long as this process lives. They are usable once
    /// `confirm` says so.
    fn find(&self, key: &LayerKey) -> Result<Option<LayerRecord>, BuildError>;
    /// An image that was built before; its layers stay as long as this process lives, and are usable once `confirm` says so.
    fn image(&self, image: &ExistingImage) -> Result<ImageRecord, BuildError>;
    /// Whether all layers that were found are what they should be.
    fn confirm(&self) -> Result<bool, BuildError>;
    /// The newest records whose key material has this `kind`.
    fn recent(&self, kind: &str, count: u32) -> Result<Vec<LayerRecord>, BuildError>;
    /// Keeps others from making the same layers until what is returned is dropped; calls `waiting` if somebody does.
    fn lock(&self, key: &LayerKey, cancel: &CancelToken, waiting: &dyn Fn()) -> Result<Box<dyn Any>, BuildError>;
    /// Executes a step with at most `memory` bytes, and commits its layers.
    fn make(
        &self,
        recipe: Box<dyn Recipe>,
        task: &Task<'_>,
        memory: u64,
        log: &mut StepLog,
    ) -> Result<Product, StepError>;
    /// The record of layers that a shared cache has, which are in the store then.
    fn fetch(&self, key: &LayerKey, task: &Task<'_>) -> Result<Option<LayerRecord>, BuildError>;
    /// Leaves layers to be brought to shared caches that are not known to have them.
    fn offer(&self, key: &LayerKey, offer: Offer) -> Result<(), BuildError>;
    /// Says what is to be said of shared caches, at the end of a build.
    fn settle(&self, sink: &Sink) -> Result<(), BuildError>;
    /// Records the layers of a step.
    fn record(&self, record: &LayerRecord) -> Result<(), BuildError>;
    /// Records an image.
    fn record_image(&self, record: &ImageRecord) -> Result<(), BuildError>;
    /// Prepares files for being attached over `below`: the views to lie there.
    fn attach(&self, files: &FileSet, below: &Stack<Digest>, sink: &Sink) -> Result<Stack<Digest>, BuildError>;
    /// The layer with compilers that containers of an image have over it, if something in it compiles.
    fn lend_toolchain(&self, state: &State, sink: &Sink) -> Result<Option<Digest>, BuildError>;
    /// Looks whether this machine has the GPUs that a step asks for.
    fn check_gpus(&self, requests: &[GpuRequest]) -> Result<(), DevicesError>;
    /// The directory of the steps' logs.
    fn logs(&self) -> PathBuf;
}

/// The execution of one step.
pub(crate) struct Task<'a> {
    pub(crate) node: &'a Node,
    /// What the step uses; the first one is what it builds on.
    pub(crate) inputs: &'a [Arc<State>],
    /// Its number among all steps of the process.
    pub(crate) number: u64,
    /// Whether its layers are not for others.
    pub(crate) is_private: bool,
    pub(crate) sink: &'a Sink,
    pub(crate) cancel: &'a CancelToken,
}

/// The layers that a step made: at least one.
pub(crate) struct Product {
    /// Those beneath the uppermost one.
    pub(crate) below: Stack<Committed>,
    /// The uppermost one.
    pub(crate) top: Committed,
    /// What the step says about the image.
    pub(crate) facts: Facts,
}

/// The store of this machine.
#[derive(Debug)]
pub(crate) struct StoreBackend<'a> {
    workshop: Workshop<'a>,
    /// Read on first use: a cached build has no need of them.
    host: OnceLock<HostSettings>,
}

impl LocalFiles for StoreBackend<'_> {
    fn layer(&self, files: &FileSet, below: &Stack<Digest>) -> Result<Committed, BuildError> {
        Ok(self.workshop.store.file_set_layer(files, below)?)
    }

    fn context(&self, context: &Context<'_>) -> Result<Committed, BuildError> {
        Ok(self.workshop.store.context_layer(context)?)
    }

    fn fingerprint(&self, image: &LocalImage) -> Result<String, BuildError> {
        image.fingerprint(self.workshop.cancel).map_err(|error| match error {
            RegistryError::Fetch(FetchError::Cancelled(_)) => BuildError::Cancelled,
            error => BuildError::invalid(error),
        })
    }
}

impl Backend for StoreBackend<'_> {
    fn find(&self, key: &LayerKey) -> Result<Option<LayerRecord>, BuildError> {
        Ok(self.workshop.store.expect_layer(key)?)
    }

    fn image(&self, image: &ExistingImage) -> Result<ImageRecord, BuildError> {
        let store = self.workshop.store;
        let (id, name, place) = match image {
            ExistingImage::Id { id } => (id.clone(), None, None),
            ExistingImage::Name { environment, name, tag, place } => {
                let place = place.clone().map(Box::new);
                let name = ImageName { environment: environment.clone(), name: name.clone(), tag: tag.clone() };
                let Some(named) = store.named_image(&name)? else {
                    return Err(BuildError::NoImage { id: None, name: Some(name), place });
                };
                (named.image, Some(name), place)
            }
        };
        store.expect_image(&id)?.ok_or(BuildError::NoImage { id: Some(id), name, place })
    }

    fn confirm(&self) -> Result<bool, BuildError> {
        Ok(self.workshop.store.confirm()?)
    }

    fn recent(&self, kind: &str, count: u32) -> Result<Vec<LayerRecord>, BuildError> {
        Ok(self.workshop.store.recent_layers(kind, count)?)
    }

    fn lock(&self, key: &LayerKey, cancel: &CancelToken, waiting: &dyn Fn()) -> Result<Box<dyn Any>, BuildError> {
        Ok(Box::new(self.workshop.store.lock(&format!("layer-{key}"), cancel, waiting)?))
    }

    fn make(
        &self,
        recipe: Box<dyn Recipe>,
        task: &Task<'_>,
        memory: u64,
        log: &mut StepLog,
    ) -> Result<Product, StepError> {
        let nothing = State::default();
        let progress = |what: &str, done, total| {
            task.sink.emit(Event::StepProgress { step: task.number, what: what.to_owned(), done, total });
        };
        let context = StepContext {
            workshop: Workshop { progress: &progress, cancel: task.cancel, ..self.workshop },
            host: &self.host,
            node: task.node,
            parent: task.inputs.first().map_or(&nothing, Arc::as_ref),
            others: task.inputs.get(1..).unwrap_or_default(),
            number: task.number,
            memory,
        };
        let made = recipe.execute(&context, log)?;
        self.publish(task, made)
    }

    fn fetch(&self, key: &LayerKey, task: &Task<'_>) -> Result<Option<LayerRecord>, BuildError> {
        let progress = |done, total| {
            task.sink.emit(Event::StepProgress { step: task.number, what: "fetching".to_owned(), done, total });
        };
        let is_private = task.is_private;
        let waiting = Waiting { is_private, cancel: task.cancel, sink: task.sink, progress: &progress };
        let fetched = caches()?.fetch(self.workshop.store, key, waiting).map_err(|_| BuildError::Cancelled)?;
        let fetched = fetched.map(|record| LayerRecord { title: task.node.title.clone(), ..record });
        fetched.iter().try_for_each(|record| self.record(record))?;
        Ok(fetched)
    }

    fn offer(&self, key: &LayerKey, offer: Offer) -> Result<(), BuildError> {
        caches()?.offer(self.workshop.store, key, offer);
        Ok(())
    }

    fn settle(&self, sink: &Sink) -> Result<(), BuildError> {
        caches()?.settle(self.workshop.store, sink);
        Ok(())
    }

    fn record(&self, record: &LayerRecord) -> Result<(), BuildError> {
        Ok(self.workshop.store.record_layer(record)?)
    }

    fn record_image(&self, record: &ImageRecord) -> Result<(), BuildError> {
        Ok(self.workshop.store.record_image(record)?)
    }

    fn attach(&self, files: &FileSet, below: &Stack<Digest>, sink: &Sink) -> Result<Stack<Digest>, BuildError> {
        let view = self.workshop.store.file_set(files, below)?;
        for message in view.warnings {
            sink.emit(Event::Warning { message });
        }
        Ok(view.views)
    }

    fn lend_toolchain(&self, state: &State, sink: &Sink) -> Result<Option<Digest>, BuildError> {
        let (when, workshop) = (When::of_environment()?, &self.workshop);
        if !when.includes(state.compiles) {
            return Ok(None);
        }
        let search_path = state.config.environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let image = Image { layers: &state.layers, facts: &state.facts, search_path };
        let Some(lacking) = image.lacking(workshop.store)? else { return Ok(None) };
        let lent = match lacking.find(workshop.store)? {
            Some(layer) => Some(layer),
            // Whatever was built before starts without asking any mirror.
            None if when == When::Auto && state.cached => None,
            None => match lacking.make(workshop, &mut std::io::sink()) {
                Err(error @ BuildError::Failed(_)) if when == When::Auto => {
                    sink.emit(Event::Warning { message: format!("functions have no compilers: {error}") });
                    None
                }
                made => Some(made?),
            },
        };
        tracing::info!(image = state.image_id(), lacking = lacking.contents(), is_lent = lent.is_some(), "compilers");
        Ok(lent)
    }

    fn check_gpus(&self, requests: &[GpuRequest]) -> Result<(), DevicesError> {
        self.workshop.devices.check(requests).map(drop)
    }

    fn logs(&self) -> PathBuf {
        self.workshop.store.layout().logs()
    }
}

/// The shared caches that `MODAL_CACHE` names.
pub(crate) fn caches() -> Result<&'static Caches, BuildError> {
    Caches::of_process().map_err(BuildError::invalid)
}

impl<'a> StoreBackend<'a> {
    pub(crate) fn new(workshop: Workshop<'a>) -> Self {
        Self { workshop, host: OnceLock::new() }
    }

    /// Commits what a step made, unless a secret stayed in it.
    fn publish(&self, task: &Task<'_>, made: Made) -> Result<Product, StepError> {
        let (work, rules, facts, _held) = match made {
            Made::Over { below, above } => {
                let product = self.publish(task, *above)?;
                return Ok(Product { below: Stack::from_bottom_up([below]).under(&product.below), ..product });
            }
            Made::Layers { below, top, facts } => return Ok(Product { below, top, facts: *facts }),
            Made::Work { work, rules, facts, held } => (work, rules, *facts, held),
        };
        task.cancel.check().map_err(BuildError::from)?;
        secrets::refuse_kept(&work, &task.node.secrets, self.workshop.store)?;
        let top = self.workshop.store.commit_until(&work, rules, task.cancel)?;
        Ok(Product { below: Stack::new(), top, facts })
    }
}
