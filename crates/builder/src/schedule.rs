//! The schedule: every step once, independent images in parallel, cached layers without any work.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use lamina_cache::Offer;
use lamina_events::{CancelToken, Event, Miss, Sink, Stop};
use lamina_ground::{Hint, Stack, causes, seconds_since_1970};
use lamina_image::{Definition, Digest, Facts, Graph, KeyMaterial, LayerKey, Node, RecordedFacts};
use lamina_store::{Committed, ImageRecord, LayerPart, LayerRecord, StoreError};
use lamina_workshop::Workshop;

use crate::backend::{self, Backend, Product, StoreBackend, Task};
use crate::error::Mistake;
use crate::log::StepLog;
use crate::plan::{self, Found, Outlook, Planned, PlannedStep};
use crate::slots::{Share, Slots};
use crate::state::State;
use crate::steps::{self, Declared, Recipe, StepError};
use crate::{BuildError, BuiltImage, StepFailure, secrets};

/// How to build.
#[derive(Debug, Clone, Copy, Default)]
pub struct BuildOptions {
    /// Rebuild every layer.
    pub force_build: bool,
    /// Rebuild every layer, but leave the cache as it was.
    pub ignore_cache: bool,
}

type Outcome = Result<Arc<State>, BuildError>;

/// The state after a step that is planned; if it is not known, the place of the step that it depends on.
type Known = Result<Arc<State>, usize>;

/// Builds images.
#[derive(Debug)]
pub struct Builder<'a> {
    backend: Box<dyn Backend + 'a>,
    graph: Graph,
    options: BuildOptions,
    sink: &'a Sink,
    cancel: &'a CancelToken,
    /// The outcome of every step of the graph.
    states: Vec<OnceLock<Outcome>>,
    /// Images that are not complete yet.
    remaining: Mutex<usize>,
    /// Where steps execute.
    slots: Arc<Slots>,
}

/// Numbers of steps, unique within the process.
static NEXT_STEP: AtomicU64 = AtomicU64::new(1);

impl<'a> Builder<'a> {
    /// Prepares to build images of `definition`.
    ///
    /// # Errors
    /// When the definition does not hold together.
    pub fn new(
        workshop: Workshop<'a>,
        definition: &Definition,
        options: BuildOptions,
        sink: &'a Sink,
    ) -> Result<Self, BuildError> {
        // What is wrong with them is said in any case.
        backend::caches()?;
        Self::on(Box::new(StoreBackend::new(workshop)), definition, options, sink, workshop.cancel)
    }

    fn on(
        backend: Box<dyn Backend + 'a>,
        definition: &Definition,
        options: BuildOptions,
        sink: &'a Sink,
        cancel: &'a CancelToken,
    ) -> Result<Self, BuildError> {
        let graph = steps::lower(definition)?;
        let states = (0..graph.len()).map(|_| OnceLock::new()).collect();
        Ok(Self {
            backend,
            graph,
            options,
            sink,
            cancel,
            states,
            remaining: Mutex::default(),
            slots: Slots::of_process(),
        })
    }

    /// What a build of the images that end at `targets` would do, inputs before what builds on them. Nothing is executed,
    /// recorded or reported.
    ///
    /// # Errors
    /// When a step cannot be planned: something that it reads is missing, or the index cannot be read.
    pub fn plan(&self, targets: &[&str]) -> Result<Vec<PlannedStep>, BuildError> {
        let mut places = Vec::new();
        for place in self.places(targets)? {
            places.extend(self.graph.with_inputs(place));
        }
        places.sort_unstable();
        places.dedup();
        let mut states: HashMap<usize, Known> = HashMap::new();
        let mut planned = Vec::with_capacity(places.len());
        for place in places {
            let (node, inputs) = self.graph.step(place);
            let known: Result<Vec<_>, usize> = inputs.iter().map(|input| states[input].clone()).collect();
            let (state, key, outlook) = match known {
                Ok(inputs) => self.look(place, node, &inputs)?,
                Err(unknown) => (Err(unknown), None, Outlook::Unknown(self.graph.step(unknown).0.id.clone())),
            };
            states.insert(place, state);
            planned.push(PlannedStep { node: node.id.clone(), title: node.title.clone(), key, outlook });
        }
        Ok(planned)
    }

    /// The state after a step if it is known, and what a build would do.
    fn look(
        &self,
        place: usize,
        node: &Node,
        inputs: &[Arc<State>],
    ) -> Result<(Known, Option<LayerKey>, Outlook), BuildError> {
        let mut state = State::on(inputs);
        let kind = match Declared::of(&node.step) {
            Declared::Metadata(kind) => {
                kind.apply(node, &mut state)?;
                return Ok((Ok(Arc::new(state)), None, Outlook::Metadata));
            }
            Declared::Existing(image) => {
                let state = State::of_image(&self.backend.image(image)?)?;
                return Ok((Ok(Arc::new(state)), None, Outlook::Metadata));
            }
            Declared::Layers(kind) => kind,
        };
        let planned = plan::plan(kind, node, inputs, self.is_forced(node), &*self.backend)?;
        let key = Some(planned.material.key());
        Ok(match planned.found {
            Found::Hit(hit) => {
                let (record, facts) = *hit;
                state.add(node, &record, facts, planned.pristine);
                (Ok(Arc::new(state)), key, Outlook::Hit)
            }
            Found::Miss(miss) => (Err(place), key, Outlook::Miss(miss)),
        })
    }

    /// Builds the images that end at `targets`, in parallel. Steps that they share are executed once. Layers that were in the
    /// store are usable once [`lamina_store::Store::confirm`] says so.
    ///
    /// # Errors
    /// The first failure. The other images' builds are stopped then; layers that were finished stay in the store.
    pub fn build(&self, targets: &[&str]) -> Result<HashMap<String, BuiltImage>, BuildError> {
        self.check_gpus(targets)?;
        let places = self.places(targets)?;
        let mut distinct = places.clone();
        distinct.sort_unstable();
        distinct.dedup();
        *self.remaining.lock().unwrap_or_else(PoisonError::into_inner) = distinct.len();
        let share = self.slots.share(distinct.len());
        let outcomes: Vec<_> = match &distinct[..] {
            // The common case needs no thread.
            [target] => vec![(*target, self.build_one(*target, &share))],
            _ => std::thread::scope(|scope| {
                let start = |target: &usize| {
                    let (target, share) = (*target, &share);
                    (target, scope.spawn(move || self.build_one(target, share)))
                };
                let running: Vec<_> = distinct.iter().map(start).collect();
                let join = |handle: std::thread::ScopedJoinHandle<'_, Result<BuiltImage, BuildError>>| {
                    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                running.into_iter().map(|(target, handle)| (target, join(handle))).collect()
            }),
        };
        self.backend.settle(self.sink)?;
        let images = first_failure(outcomes)?;
        let image = |(target, place): (&&str, &usize)| Some(((*target).to_owned(), images.get(place)?.clone()));
        Ok(targets.iter().zip(&places).filter_map(image).collect())
    }

    /// The places of nodes in the graph.
    fn places(&self, targets: &[&str]) -> Result<Vec<usize>, BuildError> {
        let unknown = |id: &str| BuildError::invalid(Mistake::UnknownImage(id.to_owned()));
        targets.iter().map(|id| self.graph.place(id).ok_or_else(|| unknown(id))).collect()
    }

    fn build_one(&self, target: usize, share: &Share) -> Result<BuiltImage, BuildError> {
        let begin = Instant::now();
        let outcome = self.state(target, share).and_then(|state| {
            let attachments = self.attach(&state)?;
            let toolchain = self.backend.lend_toolchain(&state, self.sink)?;
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
            Ok(state.built(attachments, toolchain))
        });
        if !matches!(outcome, Ok(_) | Err(BuildError::Damaged)) {
            self.cancel.cancel();
        }
        outcome
    }

    /// The views of the files that are attached to an image.
    fn attach(&self, state: &State) -> Result<Stack<Digest>, BuildError> {
        let mut views = Stack::new();
        for files in state.attached.bottom_up() {
            views.put_all(&self.backend.attach(files, &state.layers.under(&views), self.sink)?);
        }
        Ok(views)
    }

    /// The state after a step; computed once, by whoever comes first.
    fn state(&self, place: usize, share: &Share) -> Outcome {
        if let Some(outcome) = self.states[place].get() {
            return outcome.clone();
        }
        let (chain, others) = self.chain(place);
        if others.is_empty() {
            return self.climb(&chain, share);
        }
        std::thread::scope(|scope| {
            let cancelling = |outcome: Outcome| {
                // Nobody needs the others any more.
                if !matches!(outcome, Ok(_) | Err(BuildError::Damaged)) {
                    self.cancel.cancel();
                }
                outcome
            };
            let start = |other: usize| scope.spawn(move || cancelling(self.state(other, share)));
            let others: Vec<_> = others.into_iter().map(start).collect();
            let own = cancelling(self.climb(&chain, share));
            let join = |handle: std::thread::ScopedJoinHandle<'_, Outcome>| {
                handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            let mut outcomes: Vec<Outcome> = std::iter::once(own).chain(others.into_iter().map(join)).collect();
            // The others were cancelled because of one that says more.
            let is_cause = |outcome: &Outcome| matches!(outcome, Err(error) if !matches!(error, BuildError::Cancelled));
            let cause = outcomes.iter().position(is_cause).unwrap_or_default();
            outcomes.swap_remove(cause)
        })
    }

    /// The steps below a step that are not computed yet, each the first input of the next, from the bottom up, and what
    /// else they use.
    fn chain(&self, place: usize) -> (Vec<usize>, BTreeSet<usize>) {
        let is_missing = |place: &usize| self.states[*place].get().is_none();
        let (mut chain, mut others) = (Vec::new(), BTreeSet::new());
        let mut next = Some(place);
        while let Some(place) = next.filter(is_missing) {
            chain.push(place);
            let inputs = self.graph.step(place).1;
            next = inputs.first().copied();
            others.extend(inputs.iter().skip(1).copied().filter(is_missing));
        }
        chain.reverse();
        others.retain(|other| !chain.contains(other));
        (chain, others)
    }

    /// Computes the steps of a chain, the lowest first: a long one would need a deep stack otherwise.
    fn climb(&self, chain: &[usize], share: &Share) -> Outcome {
        let mut outcome = Err(BuildError::Cancelled);
        for place in chain {
            let computed = self.states[*place].get_or_init(|| self.compute(*place, share).map(Arc::new));
            outcome.clone_from(computed);
        }
        outcome
    }

    fn compute(&self, place: usize, share: &Share) -> Result<State, BuildError> {
        let (node, inputs) = self.graph.step(place);
        let inputs = inputs.iter().map(|input| self.state(*input, share)).collect::<Result<Vec<_>, _>>()?;
        self.cancel.check()?;
        let mut state = State::on(&inputs);
        match Declared::of(&node.step) {
            Declared::Metadata(kind) => kind.apply(node, &mut state)?,
            Declared::Existing(image) => state = State::of_image(&self.backend.image(image)?)?,
            Declared::Layers(kind) => {
                let planned = plan::plan(kind, node, &inputs, self.is_forced(node), &*self.backend)?;
                state.private |= kind.local().files.is_some() || planned.is_private(node);
                self.add_layers(&mut state, node, &inputs, planned, share)?;
            }
        }
        Ok(state)
    }

    fn is_forced(&self, node: &Node) -> bool {
        self.options.force_build || self.options.ignore_cache || node.force_build
    }

    /// Makes the layers of a step unless they are there, and puts them on top of the state.
    fn add_layers(
        &self,
        state: &mut State,
        node: &Node,
        inputs: &[Arc<State>],
        planned: Planned,
        share: &Share,
    ) -> Result<(), BuildError> {
        let number = NEXT_STEP.fetch_add(1, Ordering::Relaxed);
        self.sink.emit(Event::StepQueued { step: number, title: node.title.clone() });
        let pristine = planned.pristine;
        let (record, facts, is_new) = match planned.found {
            Found::Hit(hit) => {
                let (record, facts) = *hit;
                self.sink.emit(Event::StepCached { step: number, bytes: record.bytes });
                (record, facts, false)
            }
            Found::Miss(miss) => {
                let is_private = state.private;
                let task = Task { node, inputs, number, is_private, sink: self.sink, cancel: self.cancel };
                let missing = Missing { recipe: planned.recipe, material: planned.material, miss };
                self.make_alone(&task, missing, share).inspect_err(|error| self.report(number, error))?
            }
        };
        state.cached &= !is_new;
        if !self.options.ignore_cache {
            let replaces = is_new && self.is_forced(node);
            self.backend.offer(&record.key, Offer { is_private: state.private, replaces })?;
        }
        state.add(node, &record, facts, pristine);
        Ok(())
    }

    /// Makes the layers of a step while nobody else makes them, and says whether they are new: whoever was at it may have
    /// made them meanwhile.
    fn make_alone(
        &self,
        task: &Task<'_>,
        missing: Missing,
        share: &Share,
    ) -> Result<(LayerRecord, Facts, bool), BuildError> {
        let key = missing.material.key();
        let waiting = || self.sink.emit(Event::StepWaiting { step: task.number });
        let _lock = self.backend.lock(&key, self.cancel, &waiting)?;
        if let Some((record, facts)) = plan::find(&key, self.is_forced(task.node), &*self.backend)? {
            self.sink.emit(Event::StepCached { step: task.number, bytes: record.bytes });
            return Ok((record, facts, false));
        }
        if !self.is_forced(task.node)
            && let Some(record) = self.backend.fetch(&key, task)?
            && let Some(facts) = record.facts.read()
        {
            self.sink.emit(Event::StepCached { step: task.number, bytes: record.bytes });
            return Ok((record, facts, false));
        }
        let slot = share.take(self.cancel)?;
        let (record, facts) = self.make(task, missing, slot.memory())?;
        Ok((record, facts, true))
    }

    /// Executes a step with at most `memory` bytes, and records what it made.
    fn make(&self, task: &Task<'_>, missing: Missing, memory: u64) -> Result<(LayerRecord, Facts), BuildError> {
        // What was found so far lies beneath the step.
        if !self.backend.confirm()? {
            return Err(BuildError::Damaged);
        }
        let Missing { recipe, material, miss } = missing;
        let (step, node, begin) = (task.number, task.node, Instant::now());
        self.sink.emit(Event::StepStarted { step, miss });
        let created = seconds_since_1970();
        let name = format!("{created}-{}-{step}", material.key().0.short());
        let kept = secrets::kept(&node.secrets);
        let masks = secrets::Masks::new(kept.values().map(String::as_str));
        let mut log =
            StepLog::create(&self.backend.logs(), &name, step, self.sink.clone(), masks).map_err(StoreError::from)?;
        let outcome = self.backend.make(recipe, task, memory, &mut log);
        log.finish();
        let Product { below, top, facts } = outcome.map_err(|error| self.failed(task, error, &log))?;
        let seconds = begin.elapsed().as_secs_f64();
        let sum = |value: fn(&Committed) -> u64| below.bottom_up().iter().map(value).sum::<u64>() + value(&top);
        let (bytes, bytes_new) = (sum(|layer| layer.bytes), sum(|layer| layer.bytes_new));
        let record = LayerRecord {
            below: below.map(|layer| LayerPart { digest: layer.digest, content: layer.content }),
            files: sum(|layer| layer.files),
            bytes,
            bytes_new,
            log: Some(format!("{name}.log")),
            facts: RecordedFacts::try_from(&facts).map_err(|error| BuildError::failed(std::io::Error::from(error)))?,
            ..LayerRecord::of(&top, &material, &node.title, created, seconds)
        };
        if !self.options.ignore_cache {
            self.backend.record(&record)?;
        }
        self.sink.emit(Event::StepFinished { step, seconds, bytes_new, bytes_shared: bytes.saturating_sub(bytes_new) });
        Ok((record, facts))
    }

    /// Reports why a step has no layers, unless its own execution did, so that every queued step comes to an end.
    fn report(&self, step: u64, error: &BuildError) {
        let cause = match error {
            BuildError::Step(_) => return,
            BuildError::Cancelled => Some(Stop::Cancelled),
            BuildError::Damaged => Some(Stop::Damaged),
            _ => None,
        };
        if let Some(cause) = cause {
            return self.sink.emit(Event::StepStopped { step, cause });
        }
        self.sink.emit(Event::StepFailed {
            step,
            message: error.to_string(),
            tail: Vec::new(),
            log: None,
            shell: None,
            hint: error.hint().map(Cow::into_owned),
        });
    }

    /// Reports a failed step, and records the state before it so that a shell can be opened there.
    fn failed(&self, task: &Task<'_>, error: StepError, log: &StepLog) -> BuildError {
        // Whatever was interrupted, and however that looked to it.
        if self.cancel.is_cancelled() {
            return BuildError::Cancelled;
        }
        let mut refused_as = None;
        let (message, hint) = match error {
            StepError::Failed { message, hint } => (message, hint),
            StepError::Other(BuildError::Refused { class, message, hint }) => {
                refused_as = Some(class);
                (message, hint)
            }
            StepError::Because(error) => (causes(&*error), error.hint().map(Cow::into_owned)),
            StepError::Other(BuildError::Cancelled) => return BuildError::Cancelled,
            StepError::Other(error) => (error.to_string(), error.hint().map(Cow::into_owned)),
        };
        let message = log.masked(&message);
        let hint = hint.map(|hint| log.masked(&hint));
        let parent = task.inputs.first().filter(|parent| !parent.layers.is_empty());
        let parent = parent.filter(|parent| self.record_image(parent).is_ok()).map(|parent| parent.image_id());
        self.sink.emit(Event::StepFailed {
            step: task.number,
            message: message.clone(),
            tail: log.tail(),
            log: Some(log.path()),
            shell: parent.as_ref().map(|image| format!("modal shell {image}")),
            hint: hint.clone(),
        });
        if let Some(class) = refused_as {
            return BuildError::Refused { class, message, hint };
        }
        BuildError::Step(Box::new(StepFailure {
            title: task.node.title.clone(),
            message,
            tail: log.tail(),
            log: Some(log.path()),
            parent,
            hint,
        }))
    }

    fn record_image(&self, state: &State) -> Result<(), BuildError> {
        let now = seconds_since_1970();
        let facts = RecordedFacts::try_from(&*state.facts);
        let entries = state.attached.bottom_up().iter().flat_map(|files| &files.entries);
        let attached = entries.map(|entry| entry.target.clone()).collect();
        self.backend.record_image(&ImageRecord {
            id: state.image_id(),
            layers: state.layers.clone(),
            keys: state.keys.clone(),
            config: state.config.clone(),
            title: state.title.clone(),
            created: now,
            last_used: now,
            bytes: state.bytes,
            logs: state.logs.clone(),
            contents: state.contents.clone(),
            facts: facts.map_err(|error| BuildError::failed(std::io::Error::from(error)))?,
            titles: state.titles.clone(),
            attached,
        })
    }
}

/// A step whose layers are not there.
struct Missing {
    recipe: Box<dyn Recipe>,
    material: KeyMaterial,
    miss: Miss,
}

/// All images, or the failure that made the others stop.
fn first_failure(
    outcomes: Vec<(usize, Result<BuiltImage, BuildError>)>,
) -> Result<HashMap<usize, BuiltImage>, BuildError> {
    let mut images = HashMap::new();
    let mut failures = Vec::new();
    for (target, outcome) in outcomes {
        match outcome {
            Ok(image) => drop(images.insert(target, image)),
            Err(error) => failures.push(error),
        }
    }
    // The others were cancelled because of one that says more.
    failures.sort_by_key(|error| matches!(error, BuildError::Cancelled | BuildError::Damaged));
    failures.into_iter().next().map_or(Ok(images), Err)
}

mod gpus;
#[cfg(test)]
mod tests;
