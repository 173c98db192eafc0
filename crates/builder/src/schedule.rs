//! The schedule: every step once, independent images in parallel, cached layers without any work.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use lamina_events::{CancelToken, Event, Miss, Sink};
use lamina_fetch::Client;
use lamina_ground::Hint;
use lamina_image::{Definition, Facts, KeyMaterial, LayerKey, Node, RecordedFacts, Step};
use lamina_sandbox::{IdMap, Launcher};
use lamina_store::{ImageRecord, LayerRecord, Store, StoreError};
use serde_json::Value;

use crate::host::HostSettings;
use crate::log::StepLog;
use crate::state::State;
use crate::steps::{self, Made, Plan, StepContext, StepError};
use crate::{BuildError, BuiltImage, StepFailure, secrets};

/// Programs of the host, as far as there are such.
#[derive(Debug, Clone, Default)]
pub struct HostPrograms {
    /// `uv`.
    pub uv: Option<PathBuf>,
    /// The interpreter that runs the user's program.
    pub python: Option<PathBuf>,
}

/// What building works with.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The layer store.
    pub store: Store,
    /// Starts sandboxes.
    pub launcher: Launcher,
    /// Downloads.
    pub fetch: Client,
    /// Programs of the host.
    pub programs: HostPrograms,
    /// The ids that the store maps.
    pub id_map: IdMap,
    /// Read on first use: a cached build has no need of them.
    host: Arc<OnceLock<HostSettings>>,
}

impl Tools {
    /// Puts the tools together.
    #[must_use]
    pub fn new(store: Store, launcher: Launcher, fetch: Client, programs: HostPrograms, id_map: IdMap) -> Self {
        Self { store, launcher, fetch, programs, id_map, host: Arc::default() }
    }

    /// The host's network settings.
    pub(crate) fn host(&self) -> &HostSettings {
        self.host.get_or_init(HostSettings::read)
    }
}

/// How to build.
#[derive(Debug, Clone, Copy, Default)]
pub struct BuildOptions {
    /// Rebuild every layer.
    pub force_build: bool,
    /// Rebuild every layer, but leave the cache as it was.
    pub ignore_cache: bool,
}

type Outcome = Result<Arc<State>, BuildError>;

/// Builds images.
#[derive(Debug)]
pub struct Builder<'a> {
    tools: &'a Tools,
    definition: &'a Definition,
    options: BuildOptions,
    sink: &'a Sink,
    cancel: &'a CancelToken,
    /// For every node, the one that stands for all that do the same.
    equals: HashMap<&'a str, &'a str>,
    states: Mutex<HashMap<&'a str, Arc<OnceLock<Outcome>>>>,
    /// Images that are not complete yet.
    remaining: Mutex<usize>,
}

/// Layers that a step which is not cached is compared with, to say why it is not.
const COMPARED_LAYERS: u32 = 20;

/// Numbers of steps, unique within the process.
static NEXT_STEP: AtomicU64 = AtomicU64::new(1);

impl<'a> Builder<'a> {
    /// Prepares to build images of `definition`.
    #[must_use]
    pub fn new(
        tools: &'a Tools,
        definition: &'a Definition,
        options: BuildOptions,
        sink: &'a Sink,
        cancel: &'a CancelToken,
    ) -> Self {
        let equals = definition.first_equals();
        let (states, remaining) = (Mutex::default(), Mutex::default());
        Self { tools, definition, options, sink, cancel, equals, states, remaining }
    }

    /// Builds the images that end at `targets`, in parallel. Steps that they share are executed once. Layers that were in the
    /// store are usable once [`Store::confirm`] says so.
    ///
    /// # Errors
    /// The first failure. The other images' builds are stopped then; layers that were finished stay in the store.
    pub fn build(&self, targets: &[&'a str]) -> Result<HashMap<String, BuiltImage>, BuildError> {
        let invalid =
            |error: lamina_image::DefinitionError| BuildError::Invalid { message: error.to_string(), hint: None };
        self.definition.validate().map_err(invalid).map_err(BuildError::redacted)?;
        let mut distinct: Vec<&'a str> = targets.iter().map(|target| self.representative(target)).collect();
        distinct.sort_unstable();
        distinct.dedup();
        *self.remaining.lock().unwrap_or_else(PoisonError::into_inner) = distinct.len();
        let outcomes: Vec<_> = match &distinct[..] {
            // The common case needs no thread.
            [target] => vec![(*target, self.build_one(target))],
            _ => std::thread::scope(|scope| {
                let running: Vec<_> =
                    distinct.iter().map(|target| (*target, scope.spawn(|| self.build_one(target)))).collect();
                let join = |handle: std::thread::ScopedJoinHandle<'_, Result<BuiltImage, BuildError>>| {
                    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                running.into_iter().map(|(target, handle)| (target, join(handle))).collect()
            }),
        };
        let images = first_failure(outcomes).map_err(BuildError::redacted)?;
        let image = |target: &&'a str| Some(((*target).to_owned(), images.get(self.representative(target))?.clone()));
        Ok(targets.iter().filter_map(image).collect())
    }

    /// The node that stands for all that do the same as `id`.
    fn representative(&self, id: &'a str) -> &'a str {
        self.equals.get(id).copied().unwrap_or(id)
    }

    fn build_one(&self, target: &'a str) -> Result<BuiltImage, BuildError> {
        let begin = Instant::now();
        let outcome = self.state(target).and_then(|state| {
            let recorded = self.record_image(&state);
            // A cached image is of use even where nothing can be written.
            if !state.cached {
                recorded?;
            }
            let (image, seconds) = (state.image_id(), begin.elapsed().as_secs_f64());
            // Held, so that the last image to be reported is the one after which none remains.
            let mut remaining = self.remaining.lock().unwrap_or_else(PoisonError::into_inner);
            *remaining -= 1;
            self.sink.emit(Event::ImageBuilt { image, seconds, cached: state.cached, remaining: *remaining });
            drop(remaining);
            Ok(state.built())
        });
        if !matches!(outcome, Ok(_) | Err(BuildError::Damaged)) {
            self.cancel.cancel();
        }
        outcome
    }

    /// The state after a node; computed once, by whoever comes first.
    fn state(&self, id: &'a str) -> Outcome {
        let id = self.representative(id);
        let cell = Arc::clone(self.states.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default());
        cell.get_or_init(|| self.compute(id).map(Arc::new)).clone()
    }

    fn compute(&self, id: &'a str) -> Result<State, BuildError> {
        let node = self.definition.node(id).ok_or_else(|| BuildError::Invalid {
            message: format!("the definition has no image `{id}`"),
            hint: None,
        })?;
        let parent = match &node.parent {
            Some(parent) => self.state(parent)?,
            None => Arc::new(State { cached: true, ..State::default() }),
        };
        self.cancel.check()?;
        let mut state = State::clone(&parent);
        // Attached files are no part of the image.
        if !matches!(node.step, Step::AttachFiles { .. }) {
            state.title.clone_from(&node.title);
        }
        match &node.step {
            Step::Env { variables } => {
                state.config.extend_environment(variables);
                state.pristine = false;
            }
            Step::Workdir { path } => state.config.enter_directory(path),
            Step::AttachFiles { files } => self.attach(&mut state, files)?,
            _ => self.add_layer(&mut state, node, &parent)?,
        }
        Ok(state)
    }

    fn attach(&self, state: &mut State, files: &lamina_image::FileSet) -> Result<(), BuildError> {
        let below: Vec<_> = state.layers.iter().chain(&state.attachments).copied().collect();
        let view = self.tools.store.file_set(files, &below)?;
        for message in view.warnings {
            self.sink.emit(Event::Warning { message });
        }
        state.attachments.extend(view.views.into_iter().rev());
        Ok(())
    }

    /// Finds or makes the layer of a step and puts it on top of the state.
    fn add_layer(&self, state: &mut State, node: &Node, parent: &State) -> Result<(), BuildError> {
        let step = NEXT_STEP.fetch_add(1, Ordering::Relaxed);
        self.sink.emit(Event::StepQueued { step, title: node.title.clone() });
        let mut material = KeyMaterial::new(std::env::consts::ARCH);
        material.add("parent", parent.content().hex());
        material.add_exact("config", serde_json::to_value(&parent.config).unwrap_or_default());
        material.add("secrets", secrets::names(&node.secrets));
        if !node.environment.is_empty() {
            material.add_exact("environment", serde_json::to_value(&node.environment).unwrap_or_default());
        }
        let plan = steps::plan(self.tools, node, parent, &mut material)?;
        let (record, facts, cached) = self.find_or_make(step, node, parent, plan, &material)?;
        state.cached &= cached;
        state.learn(facts);
        state.pristine = match &node.step {
            Step::DebianSlim { .. } => true,
            Step::AptInstall { packages } => parent.pristine && steps::keeps_pristine(node, packages),
            _ => false,
        };
        state.bytes += record.bytes;
        state.layers.push(record.digest);
        state.contents.push(record.content);
        state.keys.push(record.key);
        state.logs.extend(record.log.map(|log| (node.title.clone(), log)));
        Ok(())
    }

    /// The layer, what it says about the image, and whether it was in the store.
    fn find_or_make(
        &self,
        step: u64,
        node: &Node,
        parent: &State,
        plan: Plan,
        material: &KeyMaterial,
    ) -> Result<(LayerRecord, Facts, bool), BuildError> {
        let key = material.key();
        let forced = self.options.force_build || self.options.ignore_cache || node.force_build;
        if let Some((record, facts)) = self.find(step, &key, forced)? {
            return Ok((record, facts, true));
        }
        let waiting = || self.sink.emit(Event::StepWaiting { step });
        let _lock = self.tools.store.lock(&format!("layer-{key}"), self.cancel, waiting)?;
        // Whoever held the lock may have made the layer meanwhile.
        if let Some((record, facts)) = self.find(step, &key, forced)? {
            return Ok((record, facts, true));
        }
        let (record, facts) = self.make(step, node, parent, plan, material, forced)?;
        Ok((record, facts, false))
    }

    /// The recorded layer, unless what it says about the image cannot be read: then it is made anew.
    fn find(&self, step: u64, key: &LayerKey, forced: bool) -> Result<Option<(LayerRecord, Facts)>, StoreError> {
        if forced {
            return Ok(None);
        }
        let found = self.tools.store.expect_layer(key)?;
        let Some((facts, record)) = found.and_then(|record| Some((record.facts.read()?, record))) else {
            return Ok(None);
        };
        self.sink.emit(Event::StepCached { step, bytes: record.bytes });
        Ok(Some((record, facts)))
    }

    /// Executes a step and commits what it made.
    fn make(
        &self,
        step: u64,
        node: &Node,
        parent: &State,
        plan: Plan,
        material: &KeyMaterial,
        forced: bool,
    ) -> Result<(LayerRecord, Facts), BuildError> {
        if !self.tools.store.confirm()? {
            return Err(BuildError::Damaged);
        }
        let begin = Instant::now();
        let miss = self.miss(node, material, forced)?;
        self.sink.emit(Event::StepStarted { step, miss });
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let name = format!("{created}-{}-{step}", material.key().0.short());
        let directory = self.tools.store.layout().logs();
        let kept = secrets::kept(&node.secrets);
        let masks = secrets::Masks::new(kept.values().map(String::as_str));
        let mut log = StepLog::create(&directory, &name, step, self.sink.clone(), masks).map_err(StoreError::from)?;
        let context =
            StepContext { tools: self.tools, node, parent, number: step, sink: self.sink, cancel: self.cancel };
        let outcome = plan.execute(&context, &mut log).and_then(|made| self.publish(kept, made));
        log.finish();
        let (committed, facts) = outcome.map_err(|error| self.failed(step, node, parent, error, &log))?;
        let seconds = begin.elapsed().as_secs_f64();
        let record = LayerRecord {
            key: material.key(),
            digest: committed.digest,
            content: committed.content,
            title: node.title.clone(),
            created,
            seconds,
            files: committed.files,
            bytes: committed.bytes,
            bytes_new: committed.bytes_new,
            material: material.canonical(),
            log: Some(format!("{name}.log")),
            facts: RecordedFacts::try_from(&facts).map_err(|error| BuildError::failed(std::io::Error::from(error)))?,
        };
        if !self.options.ignore_cache {
            self.tools.store.record_layer(&record)?;
        }
        let bytes_shared = committed.bytes.saturating_sub(committed.bytes_new);
        self.sink.emit(Event::StepFinished { step, seconds, bytes_new: committed.bytes_new, bytes_shared });
        Ok((record, facts))
    }

    /// Commits what a step made, unless a secret stayed in it.
    fn publish(
        &self,
        secrets: BTreeMap<String, String>,
        made: Made,
    ) -> Result<(lamina_store::Committed, Facts), StepError> {
        let (work, rules, facts, _held) = match made {
            Made::Layer(committed) => return Ok((committed, Facts::default())),
            Made::Work { work, rules, facts, held } => (work, rules, *facts, held),
        };
        self.cancel.check().map_err(BuildError::from)?;
        if !secrets.is_empty() {
            let search = secrets::FindSecrets { work: work.id().to_owned(), secrets };
            let finding = self.tools.store.job(&search, &[]).map_err(StoreError::from)?;
            if let Some(secrets::Finding { variable, path }) = finding {
                return Err(StepError::Failed {
                    message: format!("its result contains the value of the secret `{variable}`, in `{path}`"),
                    hint: Some(format!(
                        "delete the file in the same step, or do not write the secret to disk; if `{variable}` is none, \
                         say so with `secret.allow(\"{variable}\")`"
                    )),
                });
            }
        }
        Ok((self.tools.store.commit_until(&work, rules, self.cancel)?, facts))
    }

    /// Why the cache did not have a step.
    fn miss(&self, node: &Node, material: &KeyMaterial, forced: bool) -> Result<Miss, StoreError> {
        if forced {
            return Ok(Miss::Forced);
        }
        let kind = material.part("kind").and_then(Value::as_str).unwrap_or_default();
        let recent = self.tools.store.recent_layers(kind, COMPARED_LAYERS)?;
        Ok(former(&recent, &node.title, material).map_or(Miss::New, |former| {
            match material.differences(&former.material) {
                parts if parts.is_empty() => Miss::Lost,
                parts => Miss::Changed { parts },
            }
        }))
    }

    /// Reports a failed step, and records the state before it so that a shell can be opened there.
    fn failed(&self, step: u64, node: &Node, parent: &State, error: StepError, log: &StepLog) -> BuildError {
        // Whatever was interrupted, and however that looked to it.
        if self.cancel.is_cancelled() {
            return BuildError::Cancelled;
        }
        let (message, hint) = match error {
            StepError::Failed { message, hint } => (message, hint),
            StepError::Other(BuildError::Cancelled) => return BuildError::Cancelled,
            StepError::Other(error) => (error.to_string(), error.hint().map(Cow::into_owned)),
        };
        let message = log.masked(&message);
        let hint = hint.map(|hint| log.masked(&hint));
        let recorded = !parent.layers.is_empty() && self.record_image(parent).is_ok();
        let parent = recorded.then(|| parent.image_id());
        self.sink.emit(Event::StepFailed {
            step,
            message: message.clone(),
            tail: log.tail(),
            log: Some(log.path()),
            shell: parent.as_ref().map(|image| format!("modal shell {image}")),
            hint: hint.clone(),
        });
        BuildError::Step(Box::new(StepFailure {
            title: node.title.clone(),
            message,
            tail: log.tail(),
            log: Some(log.path()),
            parent,
            hint,
        }))
    }

    fn record_image(&self, state: &State) -> Result<(), StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        self.tools.store.record_image(&ImageRecord {
            id: state.image_id(),
            layers: state.layers.clone(),
            keys: state.keys.clone(),
            config: state.config.clone(),
            title: state.title.clone(),
            created: now,
            last_used: now,
            bytes: state.bytes,
            logs: state.logs.clone(),
        })
    }
}

/// The layer that a step most likely is a new version of: the same call, or a call on the same parent that has
/// something in common with it.
fn former<'a>(recent: &'a [LayerRecord], title: &str, material: &KeyMaterial) -> Option<&'a LayerRecord> {
    let related = |record: &&LayerRecord| {
        let shares = |name: &str| match (record.material.get(name), material.part(name)) {
            (Some(Value::Array(theirs)), Some(Value::Array(ours))) => theirs.iter().any(|one| ours.contains(one)),
            _ => false,
        };
        record.material.get("parent") == material.part("parent") && (shares("packages") || shares("commands"))
    };
    recent.iter().find(|record| record.title == title).or_else(|| recent.iter().find(related))
}

/// All images, or the failure that made the others stop.
fn first_failure(
    outcomes: Vec<(&str, Result<BuiltImage, BuildError>)>,
) -> Result<HashMap<String, BuiltImage>, BuildError> {
    let mut images = HashMap::new();
    let mut failures = Vec::new();
    for (target, outcome) in outcomes {
        match outcome {
            Ok(image) => drop(images.insert(target.to_owned(), image)),
            Err(error) => failures.push(error),
        }
    }
    // The others were cancelled because of one that says more.
    failures.sort_by_key(|error| matches!(error, BuildError::Cancelled | BuildError::Damaged));
    failures.into_iter().next().map_or(Ok(images), Err)
}
