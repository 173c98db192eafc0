//! Collection: what nobody needs goes, what anybody uses stays, and nothing that goes is missed.

use std::time::Duration;

use lamina_events::{CancelToken, Event, Sink};
use lamina_ground::{Hint, Stack};
use lamina_image::{Digest, LayerKey, RecordedFacts, RuntimeConfig};
use lamina_store::{Collected, CommitRules, Committed, ImageRecord, LayerRecord, Policy, Store, StoreError};

use crate::support::{TestStore, directory_set, settle, write};

/// Everything that nobody uses.
fn everything() -> Policy {
    Policy { unused_for: Some(Duration::ZERO), ..Policy::default() }
}

fn collect(store: &Store, policy: &Policy) -> Collected {
    store.collect(policy, &CancelToken::new(), &|| ()).unwrap()
}

/// A layer with a file of its own and one that all layers have, recorded under its name.
fn record_layer(store: &TestStore, name: &str) -> Committed {
    let committed = store.layer(CommitRules::default(), |upper| {
        write(upper.join(format!("opt/{name}")), name.repeat(5000));
        write(upper.join("opt/common"), "common".repeat(5000));
        write(upper.join(format!("etc/{name}")), format!("copied, not linked: {name}"));
    });
    let record = LayerRecord {
        key: key(name),
        digest: committed.digest,
        content: committed.digest,
        below: Stack::new(),
        companion_of: None,
        fetched_from: None,
        title: name.to_owned(),
        created: 1,
        seconds: 0.0,
        files: committed.files,
        bytes: committed.bytes,
        bytes_new: committed.bytes_new,
        material: serde_json::Value::Null,
        log: None,
        facts: lamina_image::RecordedFacts::default(),
    };
    store.record_layer(&record).unwrap();
    committed
}

fn key(name: &str) -> LayerKey {
    LayerKey(Digest::of(name.as_bytes()))
}

fn record_image(store: &Store, id: &str, layers: &[(&str, &Committed)], last_used: u64) {
    let record = ImageRecord {
        id: id.to_owned(),
        layers: Stack::from_bottom_up(layers.iter().map(|(_, layer)| layer.digest)),
        keys: layers.iter().map(|(name, _)| key(name)).collect(),
        config: RuntimeConfig::default(),
        title: id.to_owned(),
        created: 1,
        last_used,
        bytes: layers.iter().map(|(_, layer)| layer.bytes).sum(),
        logs: Vec::new(),
        contents: Stack::new(),
        facts: RecordedFacts::default(),
        titles: Vec::new(),
        attached: Vec::new(),
    };
    store.record_image(&record).unwrap();
}

/// A store with two images that share a layer, made by a process that has ended.
fn two_images() -> (TestStore, [Committed; 3]) {
    let mut store = TestStore::new();
    let layers = ["base", "one", "two"].map(|name| record_layer(&store, name));
    record_image(&store, "im-one", &[("base", &layers[0]), ("one", &layers[1])], 1);
    record_image(&store, "im-two", &[("base", &layers[0]), ("two", &layers[2])], u64::MAX >> 2);
    store.reopen();
    (store, layers)
}

fn objects(store: &TestStore) -> usize {
    let directories = store.names("objects");
    directories.iter().map(|directory| store.names(&format!("objects/{directory}")).len()).sum()
}

#[test]
fn an_image_goes_with_the_layers_and_objects_that_only_it_has() {
    let (store, [base, one, two]) = two_images();
    let before = objects(&store);
    let usage = store.usage().unwrap();
    let dry = collect(&store, &Policy { dry_run: true, ids: vec!["im-one".into()], ..Policy::default() });
    assert_eq!((dry.images.len(), dry.layers, objects(&store)), (1, 1, before));
    let collected = collect(&store, &Policy { ids: vec!["im-one".into()], ..Policy::default() });
    assert_eq!(collected.images.iter().map(|image| &*image.id).collect::<Vec<_>>(), ["im-one"]);
    assert_eq!(collected.layers, 1);
    // Its own file and the one that was copied; what it shares with others stays.
    assert_eq!(objects(&store), before - 2);
    assert!(collected.bytes >= dry.bytes && dry.bytes >= 5000);
    let freed = usage.total() - store.usage().unwrap().total();
    assert!(freed.abs_diff(collected.bytes) < 64 << 10, "{freed} {collected:?}");
    assert!(!store.has_view(&one.digest));
    for layer in [base, two] {
        assert!(store.has_view(&layer.digest));
        assert_eq!(store.verify(&layer.digest).unwrap(), Vec::<String>::new());
    }
    assert!(store.find_layer(&key("one")).unwrap().is_none() && store.find_layer(&key("two")).unwrap().is_some());
    assert_eq!(store.find_image("im-one").unwrap(), None);
    assert!(store.names("work").iter().all(|name| name.ends_with("-temporary")));
}

#[test]
fn an_image_that_was_collected_can_be_made_again() {
    let (store, [_, one, _]) = two_images();
    collect(&store, &everything());
    assert_eq!((store.list_images().unwrap(), objects(&store)), (Vec::new(), 0));
    let again = record_layer(&store, "one");
    assert_eq!(again.content, one.content);
    assert_eq!(store.verify(&again.digest).unwrap(), Vec::<String>::new());
}

#[test]
fn what_another_process_uses_stays() {
    let (store, [base, one, two]) = two_images();
    let other = TestStore::open(&store.root);
    assert!(other.find_layer(&key("base")).unwrap().is_some());
    assert!(other.hold(&[one.digest]).unwrap());
    let collected = collect(&store, &everything());
    assert_eq!(collected.used.iter().map(|image| &*image.id).collect::<Vec<_>>(), ["im-one"]);
    assert_eq!(collected.images.iter().map(|image| &*image.id).collect::<Vec<_>>(), ["im-two"]);
    for layer in [&base, &one] {
        assert_eq!(store.verify(&layer.digest).unwrap(), Vec::<String>::new());
    }
    assert!(!store.has_view(&two.digest));
    assert!(!other.hold(&[two.digest]).unwrap());
    drop(other);
    assert_eq!(collect(&store, &everything()).used, Vec::new());
    assert!(!store.has_view(&base.digest));
}

#[test]
fn local_files_of_a_running_process_stay_and_others_are_shown_again() {
    let (store, _) = two_images();
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("a.py"), "print('a')");
    settle();
    let set = directory_set(local.path(), "/root/src");
    let other = TestStore::open(&store.root);
    let view = other.file_set(&set, &Stack::new()).unwrap();
    collect(&store, &everything());
    assert!(view.views.bottom_up().iter().all(|digest| store.has_view(digest)));
    drop(other);
    collect(&store, &Policy { unused_for: Some(Duration::from_hours(1)), ..Policy::default() });
    assert!(
        store.has_view(view.views.top().unwrap()),
        "a file set that was used within the hour is still compared with"
    );
    std::thread::sleep(Duration::from_millis(1100));
    collect(&store, &everything());
    assert!(!store.has_view(view.views.top().unwrap()));
    assert_eq!(store.file_set(&set, &Stack::new()).unwrap().views, view.views);
    assert_eq!(store.verify(view.views.top().unwrap()).unwrap(), Vec::<String>::new());
}

#[test]
fn whoever_stores_something_is_waited_for() {
    let (store, _) = two_images();
    let cancel = CancelToken::new();
    let busy = store.hold_off_collection().unwrap();
    let waited = std::cell::Cell::new(false);
    let outcome = store.collect(&everything(), &cancel, &|| {
        waited.set(true);
        cancel.cancel();
    });
    assert!(waited.get() && outcome.is_err());
    drop(busy);
    assert_eq!(collect(&store, &everything()).images.len(), 2);
}

#[test]
fn a_wait_for_a_collection_is_said_once_and_can_be_cancelled() {
    let (store, _) = two_images();
    let collecting = std::fs::File::options().write(true).open(store.root.join("locks/collection")).unwrap();
    rustix::fs::flock(&collecting, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    let cancel = CancelToken::new();
    let waiting = store.on_behalf_of(&cancel, &Sink::new(move |event| said.send(event).unwrap()));
    let again = waiting.clone();
    let thread = std::thread::spawn(move || waiting.hold_off_collection().map(drop));
    assert!(matches!(heard.recv().unwrap(), Event::Warning { message } if message.contains("removes images")));
    cancel.cancel();
    assert!(matches!(thread.join().unwrap(), Err(StoreError::Cancelled(_))));
    drop(collecting);
    drop(again);
    assert!(heard.recv().is_err());
    assert!(store.hold_off_collection().is_ok());
}

#[test]
fn a_process_that_nobody_can_tell_the_needs_of_stops_a_collection() {
    let (store, [base, ..]) = two_images();
    let other = TestStore::open(&store.root);
    assert!(other.hold(&[base.digest]).unwrap());
    let is_others = |path: &std::path::PathBuf| std::fs::read_to_string(path).unwrap().contains("layer ");
    let locks = std::fs::read_dir(store.root.join("locks")).unwrap().map(|entry| entry.unwrap().path());
    let lease = locks.filter(|path| path.is_file()).find(is_others).unwrap();
    // No text; a digest and a time in the form of another version; a digest that was cut off.
    for text in [
        &b"\xff\xfe\n"[..],
        b"begin 1\nlayer sha9-00\n",
        b"begin long ago\n",
        b"begin 1\nlayer 00\n",
        b"begin 1\nlayer \n",
    ] {
        std::fs::write(&lease, text).unwrap();
        let error = store.collect(&everything(), &CancelToken::new(), &|| ()).unwrap_err();
        assert!(error.to_string().contains("locks/session-"), "{error}");
        assert_eq!(error.hint().as_deref(), Some("end that first"));
        assert!(store.has_view(&base.digest));
    }
    std::fs::write(&lease, "begin 1\nword of a later version\n").unwrap();
    assert!(store.collect(&Policy::default(), &CancelToken::new(), &|| ()).is_ok());
    drop(other);
    assert_eq!(collect(&store, &everything()).images.len(), 2);
}

#[test]
fn a_store_that_is_too_large_gives_up_downloads_before_images() {
    let (store, _) = two_images();
    let download = store.layout().downloads().join("old");
    write(&download, vec![1; 1 << 20]);
    let limit = store.usage().unwrap().total() - (512 << 10);
    std::thread::sleep(Duration::from_millis(1100));
    let collected = collect(&store, &Policy { maximum_bytes: Some(limit), ..Policy::default() });
    assert!(collected.images.is_empty() && !download.exists());
    assert!(store.usage().unwrap().total() <= limit);
    let one_less = store.usage().unwrap().total() - (16 << 10);
    let collected = collect(&store, &Policy { maximum_bytes: Some(one_less), ..Policy::default() });
    assert_eq!(collected.images.iter().map(|image| &*image.id).collect::<Vec<_>>(), ["im-one"]);
}

#[test]
fn collecting_and_building_at_once_loses_nothing() {
    let store = TestStore::new();
    let root = store.root.clone();
    let building = std::thread::spawn(move || {
        for round in 0..30 {
            let store = TestStore::open(&root);
            let name = format!("layer{}", round % 3);
            let layer = record_layer(&store, &name);
            assert!(store.find_layer(&key(&name)).unwrap().is_some(), "round {round}");
            assert_eq!(store.verify(&layer.digest).unwrap(), Vec::<String>::new(), "round {round}");
        }
    });
    while !building.is_finished() {
        collect(&store, &everything());
    }
    building.join().unwrap();
}

#[test]
fn usage_tells_what_is_shared() {
    let (store, _) = two_images();
    let usage = store.usage().unwrap();
    assert_eq!(usage.images.iter().map(|one| &*one.image.id).collect::<Vec<_>>(), ["im-two", "im-one"]);
    for one in &usage.images {
        assert!(one.unique > 0 && one.unique < one.bytes, "{one:?}");
        assert!(one.bytes < usage.layers);
    }
    assert_eq!((usage.packages, usage.local_files), (0, 0));
    assert!(usage.total() > usage.layers);
}
