//! The schedule on a backend that makes layers out of nothing.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Condvar;
use std::sync::atomic::AtomicBool;

use lamina_devices::DevicesError;
use lamina_ground::ErrorClass;
use lamina_image::{ExistingImage, FileSet, GpuRequest};
use lamina_registry::LocalImage;
use serde_json::{Value, json};

use super::*;
use crate::plan::Outlook;
use crate::steps::LocalFiles;

/// A store in memory. A step's layer holds its command, whose first word says what it does.
#[derive(Debug, Default)]
struct Memory {
    /// Where the steps' logs are, once there are any.
    logs: OnceLock<tempfile::TempDir>,
    records: Mutex<HashMap<LayerKey, LayerRecord>>,
    images: Mutex<Vec<ImageRecord>>,
    /// Commands that were executed.
    executed: Mutex<Vec<String>>,
    /// Steps that execute now, and the most that did so together.
    at_once: Mutex<(usize, usize)>,
    attached: Mutex<Vec<Stack<Digest>>>,
    is_damaged: AtomicBool,
    /// What a shared cache has.
    elsewhere: Mutex<HashMap<LayerKey, LayerRecord>>,
    /// Titles of steps on images in which only signed packages were.
    pristine: Mutex<Vec<String>>,
    /// What was offered to it: titles, and how.
    offered: Mutex<Vec<(String, Offer)>>,
}

impl LocalFiles for &Memory {
    fn layer(&self, files: &FileSet, _below: &Stack<Digest>) -> Result<Committed, BuildError> {
        Ok(committed(&files.entries[0].source, &files.entries[0].source))
    }

    fn context(&self, context: &lamina_store::Context<'_>) -> Result<Committed, BuildError> {
        let root = context.root.display().to_string();
        Ok(committed(&root, &root))
    }

    fn fingerprint(&self, image: &LocalImage) -> Result<String, BuildError> {
        Ok(image.to_string())
    }
}

fn committed(name: &str, content: &str) -> Committed {
    let content = Digest::of(content.as_bytes());
    Committed { digest: Digest::of(name.as_bytes()), content, files: 1, bytes: 10, bytes_new: 4 }
}

impl Backend for &Memory {
    fn find(&self, key: &LayerKey) -> Result<Option<LayerRecord>, BuildError> {
        Ok(self.records.lock().unwrap().get(key).cloned())
    }

    fn image(&self, image: &ExistingImage) -> Result<ImageRecord, BuildError> {
        let ExistingImage::Id { id } = image else { panic!("{image:?}") };
        let images = self.images.lock().unwrap();
        let found = images.iter().find(|image| image.id == *id).cloned();
        found.ok_or(BuildError::NoImage { id: Some(id.clone()), name: None, place: None })
    }

    fn confirm(&self) -> Result<bool, BuildError> {
        Ok(!self.is_damaged.load(Ordering::Relaxed))
    }

    fn recent(&self, kind: &str, _count: u32) -> Result<Vec<LayerRecord>, BuildError> {
        let records = self.records.lock().unwrap();
        Ok(records.values().filter(|record| record.material["kind"] == kind).cloned().collect())
    }

    fn lock(&self, _key: &LayerKey, _cancel: &CancelToken, _waiting: &dyn Fn()) -> Result<Box<dyn Any>, BuildError> {
        Ok(Box::new(()))
    }

    fn make(
        &self,
        _recipe: Box<dyn Recipe>,
        task: &Task<'_>,
        _memory: u64,
        _log: &mut StepLog,
    ) -> Result<Product, StepError> {
        let step = serde_json::to_value(&task.node.step).unwrap();
        let command = step["commands"][0].as_str().unwrap_or("base").to_owned();
        self.executed.lock().unwrap().push(command.clone());
        if task.inputs.first().is_some_and(|input| input.pristine) {
            self.pristine.lock().unwrap().push(command.clone());
        }
        {
            let mut at_once = self.at_once.lock().unwrap();
            at_once.0 += 1;
            at_once.1 = at_once.1.max(at_once.0);
        }
        let outcome = Memory::run(&command, task);
        self.at_once.lock().unwrap().0 -= 1;
        outcome
    }

    fn fetch(&self, key: &LayerKey, _task: &Task<'_>) -> Result<Option<LayerRecord>, BuildError> {
        let fetched = self.elsewhere.lock().unwrap().get(key).cloned();
        fetched.iter().try_for_each(|record| self.record(record))?;
        Ok(fetched)
    }

    fn offer(&self, key: &LayerKey, offer: Offer) -> Result<(), BuildError> {
        self.offered.lock().unwrap().push((self.records.lock().unwrap()[key].title.clone(), offer));
        Ok(())
    }

    fn settle(&self, _sink: &Sink) -> Result<(), BuildError> {
        Ok(())
    }

    fn record(&self, record: &LayerRecord) -> Result<(), BuildError> {
        self.records.lock().unwrap().insert(record.key, record.clone());
        Ok(())
    }

    fn record_image(&self, record: &ImageRecord) -> Result<(), BuildError> {
        self.images.lock().unwrap().push(record.clone());
        Ok(())
    }

    fn attach(&self, _files: &FileSet, below: &Stack<Digest>, _sink: &Sink) -> Result<Stack<Digest>, BuildError> {
        self.attached.lock().unwrap().push(below.clone());
        Ok(Stack::from_bottom_up([Digest::of(format!("view {}", below.len()).as_bytes())]))
    }

    fn lend_toolchain(&self, _state: &State, _sink: &Sink) -> Result<Option<Digest>, BuildError> {
        Ok(None)
    }

    fn check_gpus(&self, requests: &[GpuRequest]) -> Result<(), DevicesError> {
        let is_there = |request: &GpuRequest| request.kind == "T4";
        if requests.iter().any(is_there) {
            return Ok(());
        }
        Err(DevicesError::Absent { asked: requests.to_vec(), has: "1 Tesla T4".to_owned(), problems: Vec::new() })
    }

    fn logs(&self) -> PathBuf {
        self.logs.get_or_init(|| tempfile::tempdir().unwrap()).path().to_owned()
    }
}

impl Memory {
    fn run(command: &str, task: &Task<'_>) -> Result<Product, StepError> {
        let failed = |message: &str| StepError::Failed { message: message.to_owned(), hint: None };
        let mut product = Product { below: Stack::new(), top: committed(command, command), facts: Facts::default() };
        match command.split(' ').next().unwrap_or_default() {
            "fail" => return Err(failed("it does not work")),
            // What it is called by is not what is in it.
            "same" => product.top = committed("same", "same"),
            // Long enough for others to begin meanwhile, if they may.
            "slow" => std::thread::sleep(std::time::Duration::from_millis(5)),
            "two" => product.below = Stack::from_bottom_up([committed("beneath", "beneath")]),
            "hang" => {
                let ended = Arc::new((Mutex::new(false), Condvar::new()));
                let waker = Arc::clone(&ended);
                let _guard = task.cancel.on_cancel(move || {
                    *waker.0.lock().unwrap() = true;
                    waker.1.notify_all();
                });
                drop(ended.1.wait_while(ended.0.lock().unwrap(), |ended| !*ended).unwrap());
                return Err(failed("it was ended by signal 9"));
            }
            _ => {}
        }
        Ok(product)
    }

    fn executed(&self) -> Vec<String> {
        std::mem::take(&mut *self.executed.lock().unwrap())
    }
}

/// A definition: `(id, input, command)`; no input is a base, the command `attach` attaches files, and `gpu T4 …` asks for one.
fn definition(nodes: &[(&str, &str, &str)]) -> Definition {
    let node = |(id, input, command): &(&str, &str, &str)| {
        let step = match (*input, *command) {
            ("", _) => json!({ "kind": "debian_slim", "python_version": "3.11", "local_python": "3.11" }),
            (_, "attach") => {
                json!({ "kind": "attach_files", "files": { "entries": [{ "source": "/a", "target": "/b", "kind": "file" }] } })
            }
            (_, "env") => json!({ "kind": "env", "variables": { "A": "1" } }),
            (_, "missing file") => {
                json!({ "kind": "uv_pip_install", "packages": [], "requirements": ["/nowhere/requirements.txt"] })
            }
            _ => json!({ "kind": "run_commands", "commands": [command] }),
        };
        let inputs: Vec<&str> = Some(*input).filter(|input| !input.is_empty()).into_iter().collect();
        let gpu: Vec<&str> = command.strip_prefix("gpu ").and_then(|rest| rest.split(' ').next()).into_iter().collect();
        json!({ "id": id, "inputs": inputs, "step": step, "title": command, "gpu": gpu })
    };
    serde_json::from_value(nodes.iter().map(node).collect::<Vec<Value>>().into()).unwrap()
}

/// What came of a build.
struct Built {
    outcome: Result<HashMap<String, BuiltImage>, BuildError>,
    events: Vec<Event>,
}

impl Built {
    /// The events of each step: its title, then what happened, in short.
    fn steps(&self) -> BTreeMap<String, Vec<&'static str>> {
        let mut titles = HashMap::new();
        let mut steps: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
        for event in &self.events {
            let (step, what) = match event {
                Event::StepQueued { step, title } => {
                    titles.insert(*step, title.clone());
                    (step, "queued")
                }
                Event::StepCached { step, .. } => (step, "cached"),
                Event::StepStarted { step, miss: Miss::Forced } => (step, "forced"),
                Event::StepStarted { step, .. } => (step, "started"),
                Event::StepFinished { step, .. } => (step, "finished"),
                Event::StepFailed { step, .. } => (step, "failed"),
                Event::StepStopped { step, cause: Stop::Cancelled } => (step, "stopped"),
                Event::StepStopped { step, cause: Stop::Damaged } => (step, "damaged"),
                _ => continue,
            };
            steps.entry(titles[step].clone()).or_default().push(what);
        }
        steps
    }
}

fn build_with(memory: &Memory, nodes: &[(&str, &str, &str)], targets: &[&str], options: BuildOptions) -> Built {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let sink = Sink::new(move |event| seen.lock().unwrap().push(event));
    let cancel = CancelToken::new();
    let outcome = Builder::on(Box::new(memory), &definition(nodes), options, &sink, &cancel)
        .and_then(|builder| builder.build(targets));
    let events = std::mem::take(&mut *events.lock().unwrap());
    Built { outcome, events }
}

fn build(memory: &Memory, nodes: &[(&str, &str, &str)], targets: &[&str]) -> Built {
    build_with(memory, nodes, targets, BuildOptions::default())
}

const CHAIN: [(&str, &str, &str); 3] = [("0", "", "base"), ("1", "0", "first"), ("2", "1", "second")];

#[test]
fn long_chains_need_no_deep_stack() {
    let memory = Memory::default();
    let ids: Vec<String> = (0..600).map(|number| number.to_string()).collect();
    let mut nodes = vec![("0", "", "base")];
    nodes.extend(ids.windows(2).map(|pair| (&*pair[1], &*pair[0], "same")));
    let built = build(&memory, &nodes, &["599"]);
    assert!(built.outcome.is_ok(), "{:?}", built.outcome.err());
}

#[test]
fn what_was_made_once_is_found_again() {
    let memory = Memory::default();
    let first = build(&memory, &CHAIN, &["2"]);
    assert_eq!(memory.executed(), ["base", "first", "second"]);
    assert_eq!(first.steps()["second"], ["queued", "started", "finished"]);
    let again = build(&memory, &CHAIN, &["2"]);
    assert_eq!(memory.executed(), [""; 0]);
    assert!(again.steps().values().all(|events| *events == ["queued", "cached"]));
    assert_eq!(first.outcome.unwrap(), again.outcome.unwrap());
    assert!(matches!(again.events.last(), Some(Event::ImageBuilt { cached: true, remaining: 0, .. })));
}

#[test]
fn forced_steps_are_made_again_and_what_follows_stays_if_they_come_out_the_same() {
    let memory = Memory::default();
    build(&memory, &CHAIN, &["2"]).outcome.unwrap();
    memory.executed();
    let all = build_with(&memory, &CHAIN, &["2"], BuildOptions { force_build: true, ..BuildOptions::default() });
    assert_eq!(memory.executed(), ["base", "first", "second"]);
    assert_eq!(all.steps()["first"], ["queued", "forced", "finished"]);
    let nodes = |first| [("0", "", "base"), ("1", "0", first), ("2", "1", "second")];
    build(&memory, &nodes("same 1"), &["2"]).outcome.unwrap();
    assert_eq!(memory.executed(), ["same 1", "second"]);
    let changed = build(&memory, &nodes("same 2"), &["2"]);
    assert_eq!(memory.executed(), ["same 2"], "other text with equal bytes keeps what follows");
    assert_eq!(changed.steps()["second"], ["queued", "cached"]);
}

#[test]
fn ignoring_the_cache_records_no_layers() {
    let memory = Memory::default();
    let options = BuildOptions { ignore_cache: true, ..BuildOptions::default() };
    build_with(&memory, &CHAIN, &["2"], options).outcome.unwrap();
    assert!(memory.records.lock().unwrap().is_empty());
}

#[test]
fn a_failed_step_leaves_the_image_before_it() {
    let memory = Memory::default();
    let built = build(&memory, &[CHAIN[0], CHAIN[1], ("2", "1", "fail"), ("3", "2", "never")], &["3"]);
    let Err(BuildError::Step(failure)) = &built.outcome else { panic!("{:?}", built.outcome) };
    assert_eq!((&*failure.title, &*failure.message), ("fail", "it does not work"));
    assert_eq!(built.steps()["fail"], ["queued", "started", "failed"]);
    assert!(!built.steps().contains_key("never"));
    let images = memory.images.lock().unwrap();
    assert_eq!(images.iter().map(|image| &*image.title).collect::<Vec<_>>(), ["first"]);
    assert_eq!(failure.parent.as_ref(), Some(&images[0].id));
}

#[test]
fn every_queued_step_comes_to_an_end_where_planning_fails() {
    let memory = Memory::default();
    let built = build(&memory, &[CHAIN[0], ("1", "0", "missing file")], &["1"]);
    assert!(matches!(built.outcome, Err(BuildError::FileNotFound(_))), "{:?}", built.outcome);
    for (title, events) in built.steps() {
        assert!(matches!(events.last(), Some(&("finished" | "cached" | "failed"))), "{title}: {events:?}");
    }
}

#[test]
fn images_share_their_steps() {
    let memory = Memory::default();
    let nodes = [CHAIN[0], CHAIN[1], ("2", "1", "left"), ("3", "1", "right"), ("4", "0", "first"), ("5", "4", "left")];
    let built = build(&memory, &nodes, &["2", "3", "5"]);
    let mut executed = memory.executed();
    executed.sort();
    assert_eq!(executed, ["base", "first", "left", "right"]);
    let images = built.outcome.unwrap();
    assert_eq!(images["2"], images["5"]);
    assert_ne!(images["2"].id, images["3"].id);
}

#[test]
fn a_failure_stops_the_other_images_and_is_the_one_reported() {
    let memory = Memory::default();
    let nodes = [CHAIN[0], ("1", "0", "hang"), ("2", "0", "fail"), ("3", "1", "never")];
    let built = build(&memory, &nodes, &["3", "2"]);
    // Both execute only where there is room for two.
    if memory.executed().contains(&"hang".to_owned()) {
        assert_eq!(built.steps()["hang"], ["queued", "started", "stopped"]);
    }
    let Err(BuildError::Step(failure)) = built.outcome else { panic!() };
    assert_eq!(failure.title, "fail");
}

#[test]
fn a_cancelled_build_executes_nothing() {
    let (memory, sink, cancel) = (Memory::default(), Sink::new(|_| ()), CancelToken::new());
    cancel.cancel();
    let builder = Builder::on(Box::new(&memory), &definition(&CHAIN), BuildOptions::default(), &sink, &cancel).unwrap();
    assert!(matches!(builder.build(&["2"]), Err(BuildError::Cancelled)));
    assert_eq!(memory.executed(), [""; 0]);
}

#[test]
fn nothing_is_executed_on_damaged_layers() {
    let memory = Memory::default();
    build(&memory, &CHAIN[..2], &["1"]).outcome.unwrap();
    memory.executed();
    memory.is_damaged.store(true, Ordering::Relaxed);
    let built = build(&memory, &CHAIN, &["2"]);
    assert!(matches!(built.outcome, Err(BuildError::Damaged)));
    assert_eq!(memory.executed(), [""; 0]);
    assert_eq!(built.steps()["second"], ["queued", "damaged"]);
}

#[test]
fn steps_at_once_have_a_bound_for_all_builds() {
    let (memory, slots) = (Memory::default(), Slots::of(1, 1 << 40));
    let ids: Vec<String> = (1..=20).map(|index| index.to_string()).collect();
    let (sink, cancel) = (Sink::new(|_| ()), CancelToken::new());
    std::thread::scope(|scope| {
        for build in ["one", "other"] {
            let commands: Vec<String> = ids.iter().map(|id| format!("slow {build} {id}")).collect();
            let mut nodes = vec![CHAIN[0]];
            nodes.extend(ids.iter().zip(&commands).map(|(id, command)| (&**id, "0", &**command)));
            let definition = definition(&nodes);
            let (ids, slots, memory, sink, cancel) = (&ids, &slots, &memory, &sink, &cancel);
            scope.spawn(move || {
                let mut builder =
                    Builder::on(Box::new(memory), &definition, BuildOptions::default(), sink, cancel).unwrap();
                builder.slots = Arc::clone(slots);
                builder.build(&ids.iter().map(|id| &**id).collect::<Vec<_>>()).unwrap();
            });
        }
    });
    assert_eq!(*memory.at_once.lock().unwrap(), (0, 2));
}

#[test]
fn a_step_with_several_layers_is_one_hit() {
    let memory = Memory::default();
    let nodes = [CHAIN[0], ("1", "0", "two layers"), ("2", "1", "second")];
    let first = build(&memory, &nodes, &["2"]).outcome.unwrap();
    assert_eq!(first["2"].layers.len(), 4);
    let layers = ["base", "beneath", "two layers", "second"].map(|name| Digest::of(name.as_bytes()));
    assert_eq!(first["2"].layers, Stack::from_bottom_up(layers));
    memory.executed();
    assert_eq!(build(&memory, &nodes, &["2"]).outcome.unwrap(), first);
    assert_eq!(memory.executed(), [""; 0]);
    let images = memory.images.lock().unwrap();
    assert_eq!((images[0].keys.len(), images[0].bytes), (4, 40));
    assert_eq!(images[0].keys[1], images[0].keys[2]);
}

#[test]
fn attached_files_lie_over_the_layers_and_are_no_part_of_the_image() {
    let memory = Memory::default();
    let nodes = [CHAIN[0], CHAIN[1], ("2", "1", "attach"), ("3", "2", "attach")];
    let images = build(&memory, &nodes, &["1", "3"]).outcome.unwrap();
    assert_eq!(images["1"].id, images["3"].id);
    assert_eq!((images["1"].attachments.len(), images["3"].attachments.len()), (0, 2));
    assert!(memory.images.lock().unwrap().iter().all(|image| image.title == "first"));
    assert_eq!(memory.attached.lock().unwrap().iter().map(Stack::len).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_plan_says_what_a_build_would_do_and_does_nothing() {
    let memory = Memory::default();
    let events = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&events);
    let sink = Sink::new(move |_| *seen.lock().unwrap() += 1);
    let cancel = CancelToken::new();
    let nodes =
        [CHAIN[0], CHAIN[1], ("2", "1", "env"), ("3", "2", "second"), ("4", "3", "attach"), ("5", "0", "other")];
    build(&memory, &nodes, &["3"]).outcome.unwrap();
    memory.executed();
    let plan = |nodes: &[(&str, &str, &str)], targets: &[&str]| -> Vec<(String, bool, Outlook)> {
        let builder =
            Builder::on(Box::new(&memory), &definition(nodes), BuildOptions::default(), &sink, &cancel).unwrap();
        let planned = builder.plan(targets).unwrap().into_iter();
        planned.map(|step| (step.node, step.key.is_some(), step.outlook)).collect()
    };
    let step = |id: &str, has_key, outlook| (id.to_owned(), has_key, outlook);
    let cached = [step("0", true, Outlook::Hit), step("1", true, Outlook::Hit), step("2", false, Outlook::Metadata)];
    let mut expected = cached.to_vec();
    expected.extend([step("3", true, Outlook::Hit), step("4", false, Outlook::Metadata)]);
    assert_eq!(plan(&nodes, &["4"]), expected);
    let changed = [CHAIN[0], ("1", "0", "changed"), ("2", "1", "env"), ("3", "2", "second")];
    let unknown = Outlook::Unknown("1".to_owned());
    let outlook = plan(&changed, &["3"]);
    assert!(matches!(&outlook[1], (_, true, Outlook::Miss(_))), "{outlook:?}");
    assert_eq!(outlook[2..], [step("2", false, unknown.clone()), step("3", false, unknown)]);
    assert_eq!((memory.executed(), *events.lock().unwrap()), (Vec::new(), 0));
    assert_eq!(memory.images.lock().unwrap().len(), 1);
}

#[test]
fn nothing_is_made_where_a_step_to_be_executed_lacks_its_gpu() {
    let memory = Memory::default();
    let nodes = [
        ("0", "", "base"),
        ("1", "0", "gpu T4 one"),
        ("2", "1", "gpu H100 two"),
        ("3", "2", "x"),
        ("4", "0", "gpu L4 other"),
    ];
    let refused = |targets: &[&str], options| {
        let BuildError::Refused { class, message, hint } =
            build_with(&memory, &nodes, targets, options).outcome.unwrap_err()
        else {
            panic!("it is another error")
        };
        assert!(
            matches!(class, ErrorClass::NotFoundError) && hint.is_some_and(|hint| hint.contains("MODAL_GPU=ignore"))
        );
        assert_eq!(memory.executed(), [""; 0]);
        message
    };
    let usual = BuildOptions::default();
    insta::assert_snapshot!(refused(&["3", "4"], usual), @r#"
    2 steps ask for GPUs that this machine does not have:
      `gpu H100 two`: this machine does not have what `gpu="H100"` asks for: it has 1 Tesla T4
      `gpu L4 other`: this machine does not have what `gpu="L4"` asks for: it has 1 Tesla T4
    "#);
    insta::assert_snapshot!(refused(&["2"], usual), @r#"`gpu H100 two`: this machine does not have what `gpu="H100"` asks for: it has 1 Tesla T4"#);
    // Only what the images need is executed.
    build(&memory, &nodes, &["1"]).outcome.unwrap();
    assert_eq!(memory.executed(), ["base", "gpu T4 one"]);
    // What is cached needs no GPU, unless it is made again.
    let digest = Digest::of(b"gpu H100 two");
    let key = {
        let (sink, cancel) = (Sink::new(|_| ()), CancelToken::new());
        let builder = Builder::on(Box::new(&memory), &definition(&nodes), usual, &sink, &cancel).unwrap();
        builder.plan(&["2"]).unwrap().pop().and_then(|step| step.key).unwrap()
    };
    let mut record = memory.records.lock().unwrap().values().next().unwrap().clone();
    (record.key, record.digest, record.content) = (key, digest, digest);
    memory.records.lock().unwrap().insert(key, record);
    build(&memory, &nodes, &["3"]).outcome.unwrap();
    assert_eq!(memory.executed(), ["x"]);
    assert!(refused(&["3"], BuildOptions { force_build: true, ..usual }).starts_with("`gpu H100 two`: "));
}

#[test]
fn what_a_shared_cache_has_is_not_made() {
    let (first, second) = (Memory::default(), Memory::default());
    build(&first, &CHAIN, &["2"]).outcome.unwrap();
    *second.elsewhere.lock().unwrap() = first.records.lock().unwrap().clone();
    let built = build(&second, &CHAIN, &["2"]);
    assert_eq!(second.executed(), [""; 0]);
    assert!(built.steps().values().all(|events| *events == ["queued", "cached"]), "{:?}", built.steps());
    assert!(matches!(built.events.last(), Some(Event::ImageBuilt { cached: true, .. })));
    assert_eq!(second.records.lock().unwrap().len(), 3);
    let forced = BuildOptions { force_build: true, ..BuildOptions::default() };
    build_with(&second, &CHAIN, &["2"], forced).outcome.unwrap();
    assert_eq!(second.executed(), ["base", "first", "second"], "who forces a build asks nobody");
}

#[test]
fn layers_are_offered_and_those_of_forced_steps_replace_others() {
    let memory = Memory::default();
    let offered = |options| {
        build_with(&memory, &CHAIN, &["2"], options).outcome.unwrap();
        let offered = std::mem::take(&mut *memory.offered.lock().unwrap());
        offered.into_iter().map(|(title, offer)| (title, offer.is_private, offer.replaces)).collect::<Vec<_>>()
    };
    let all = |replaces| ["base", "first", "second"].map(|title| (title.to_owned(), false, replaces));
    assert_eq!(offered(BuildOptions::default()), all(false));
    // Found here, which says nothing about there.
    assert_eq!(offered(BuildOptions::default()), all(false));
    assert_eq!(offered(BuildOptions { force_build: true, ..BuildOptions::default() }), all(true));
    assert_eq!(offered(BuildOptions { ignore_cache: true, ..BuildOptions::default() }), []);
}

#[test]
fn what_local_files_and_secrets_led_to_is_private_with_all_that_is_built_on_it() {
    let changed = |place: usize, node: Value| {
        let memory = Memory::default();
        let mut nodes = serde_json::to_value(definition(&CHAIN)).unwrap();
        for (name, value) in node.as_object().unwrap() {
            nodes[place][name] = value.clone();
        }
        let definition = serde_json::from_value(nodes).unwrap();
        let (sink, cancel) = (Sink::none(), CancelToken::new());
        let options = BuildOptions::default();
        Builder::on(Box::new(&memory), &definition, options, &sink, &cancel).unwrap().build(&["2"]).unwrap();
        memory.offered.into_inner().unwrap().into_iter().map(|(_, offer)| offer.is_private).collect::<Vec<_>>()
    };
    let offered = |first| changed(1, first);
    assert_eq!(offered(json!({})), [false, false, false]);
    assert_eq!(offered(json!({ "secrets": [{ "name": "s", "values": { "T": "x" } }] })), [false, true, true]);
    let files = json!({ "entries": [{ "source": "/a", "target": "/b", "kind": "file" }] });
    assert_eq!(offered(json!({ "step": { "kind": "copy_files", "files": files } })), [false, true, true]);
    let volumes = json!([{ "path": "/v", "volume": { "name": "v" } }]);
    let commands = json!({ "kind": "run_commands", "commands": ["first"], "volumes": volumes });
    assert_eq!(offered(json!({ "step": commands })), [false, true, true]);
    for (reference, is_private) in [("python:3.11", false), ("localhost:5000/a", true), ("oci:/images:a", true)] {
        let base = json!({ "step": { "kind": "from_registry", "reference": reference } });
        assert_eq!(changed(0, base), [is_private; 3], "{reference}");
    }
}

#[test]
fn what_came_from_a_cache_counts_as_signed_by_nobody() {
    let (first, second) = (Memory::default(), Memory::default());
    build(&first, &CHAIN[..2], &["1"]).outcome.unwrap();
    assert_eq!(*first.pristine.lock().unwrap(), ["first"], "what is on the base alone");
    let mut fetched = first.records.lock().unwrap().clone();
    fetched.retain(|_, record| record.title == "base");
    for record in fetched.values_mut() {
        record.fetched_from = Some("/cache".to_owned());
    }
    *second.elsewhere.lock().unwrap() = fetched;
    for (name, executed) in [("first", ["first"]), ("other", ["other"])] {
        // The second time it is found in the store.
        build(&second, &[CHAIN[0], ("1", "0", name)], &["1"]).outcome.unwrap();
        assert_eq!(second.executed(), executed);
        assert!(second.pristine.lock().unwrap().is_empty());
    }
}
