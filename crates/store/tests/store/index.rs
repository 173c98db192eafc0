//! Records, formats and the store directory itself.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lamina_ground::Hint;
use lamina_ground::Stack;
use lamina_image::{Digest, LayerKey, RuntimeConfig};
use lamina_store::{
    CommitRules, ImageName, ImageRecord, JobTable, LayerRecord, Layout, NamedImage, ObjectName, Origin, Store,
    StoreError, worker_main,
};

use crate::support::*;

pub(crate) fn layer_record(key: &[u8], digest: Digest, created: u64) -> LayerRecord {
    LayerRecord {
        key: LayerKey(Digest::of(key)),
        digest,
        content: digest,
        below: Stack::new(),
        companion_of: None,
        fetched_from: None,
        title: "apt_install(\"git\")".to_owned(),
        created,
        seconds: 1.5,
        files: 1,
        bytes: 2,
        bytes_new: 3,
        material: serde_json::json!({ "kind": "apt_install", "packages": ["git"] }),
        log: Some("apt.log".to_owned()),
        facts: lamina_image::RecordedFacts::default(),
    }
}

pub(crate) fn image_record(id: &str, last_used: u64) -> ImageRecord {
    ImageRecord {
        id: id.to_owned(),
        layers: Stack::from_bottom_up([Digest::of(b"layer")]),
        keys: vec![LayerKey(Digest::of(b"key"))],
        config: RuntimeConfig::default(),
        title: "base".to_owned(),
        created: last_used,
        last_used,
        bytes: 1,
        logs: vec![("base".to_owned(), "base.log".to_owned())],
        contents: Stack::new(),
        facts: lamina_image::RecordedFacts::default(),
        titles: Vec::new(),
        attached: Vec::new(),
    }
}

#[test]
fn a_name_stands_for_the_image_that_got_it_last() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(&directory.path().join("store"));
    let name = |environment: &str, tag: &str| ImageName {
        environment: environment.to_owned(),
        name: "a".to_owned(),
        tag: tag.to_owned(),
    };
    let give = |store: &Store, name: ImageName, image: &str| {
        store.name_image(&NamedImage { name, image: image.to_owned(), created: 1, origin: Origin::default() }).unwrap();
    };
    assert_eq!(store.image_names().unwrap(), []);
    assert_eq!(store.named_image(&name("main", "latest")).unwrap(), None);
    store.unname_image(&name("main", "latest")).unwrap();
    give(&store, name("main", "latest"), "im-1");
    give(&store, name("main", "v1"), "im-1");
    give(&store, name("other", "latest"), "im-3");
    give(&store, name("main", "latest"), "im-2");
    store.reopen();
    let found = |store: &Store, name| store.named_image(&name).unwrap().map(|named| named.image);
    assert_eq!(found(&store, name("main", "latest")).as_deref(), Some("im-2"));
    store.unname_image(&name("main", "latest")).unwrap();
    assert_eq!(found(&store, name("main", "latest")), None);
    let images: Vec<_> = store.image_names().unwrap().into_iter().map(|named| named.image).collect();
    assert_eq!(images, ["im-1", "im-3"]);
}

#[test]
fn layers_are_found_while_their_views_exist() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let mut store = TestStore::open(&root);
    let committed = store.layer(CommitRules::default(), |upper| write(upper.join("file"), "x"));
    let record = layer_record(b"key", committed.digest, 10);
    store.record_layer(&record).unwrap();
    store.record_layer(&layer_record(b"older", committed.digest, 5)).unwrap();
    store.close();
    let store = TestStore::open(&root);
    assert_eq!(store.find_layer(&record.key).unwrap(), Some(record.clone()));
    assert_eq!(store.recent_layers("apt_install", 1).unwrap(), std::slice::from_ref(&record));
    assert_eq!(store.recent_layers("another", 1).unwrap(), []);
    assert_eq!(store.find_layer(&LayerKey(Digest::of(b"other"))).unwrap(), None);
    // A view can be made again, as long as there are the tree and the objects.
    std::fs::remove_dir_all(store.content(store.view_path(&committed.digest))).unwrap();
    assert_eq!(store.find_layer(&record.key).unwrap(), Some(record.clone()));
    assert_eq!(store.read(&committed.digest, "file"), b"x");
    std::fs::remove_dir_all(store.content(store.view_path(&committed.digest))).unwrap();
    std::fs::remove_file(store.content(ObjectName::new(&Digest::of(b"x")).path())).unwrap();
    assert_eq!(store.find_layer(&record.key).unwrap(), None);
}

#[test]
fn images_are_found_by_the_beginning_of_their_ids() {
    let store = TestStore::new();
    for (id, last_used) in [("im-aaa", 1), ("im-aab", 3), ("im-b", 2), ("im-bb", 1)] {
        store.record_image(&image_record(id, last_used)).unwrap();
    }
    store.record_image(&image_record("im-aaa", 9)).unwrap();
    let ids: Vec<_> = store.list_images().unwrap().into_iter().map(|image| image.id).collect();
    assert_eq!(ids, ["im-aaa", "im-aab", "im-b", "im-bb"]);
    let found = store.find_image("im-aaa").unwrap().unwrap();
    assert_eq!((found.created, found.last_used), (1, 9));
    assert_eq!(store.find_image("im-b").unwrap().unwrap().id, "im-b");
    assert_eq!(store.find_image("im-c").unwrap(), None);
    let error = store.find_image("im-a").unwrap_err().to_string();
    assert!(error.contains("`im-aaa`, `im-aab`"), "{error}");
}

#[test]
fn newer_formats_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    drop(TestStore::open(&root));
    let open = || {
        let (engine, socket) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(socket);
        Store::open(Layout::prepare(&root)?, engine)
    };
    let connection = rusqlite::Connection::open(root.join("index.db")).unwrap();
    connection.execute_batch("PRAGMA user_version = 2").unwrap();
    let error = open().unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { found: 2, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("update the package"));
    std::fs::write(root.join("format.json"), "{\"format\":4}").unwrap();
    assert!(matches!(open().unwrap_err(), StoreError::NewerFormat { found: 4, known: 3, .. }));
    std::fs::write(root.join("format.json"), "rubbish").unwrap();
    assert!(matches!(open().unwrap_err(), StoreError::Damaged { .. }));
}

/// A store as format 1 had it: objects with their metadata in their names, and a layer record without the content's digest.
fn store_of_format_1(root: &Path) {
    drop(TestStore::open(root));
    for (path, contents) in [
        ("content/objects/ab/cdef-01234567", "object"),
        ("content/trees/00", "tree"),
        ("content/views/00/usr/bin/tool", "object"),
        ("content/wheels/x.json", "{}"),
        ("content/caches/apt/archives/x.deb", "package"),
        ("contexts/0123", "context"),
        ("downloads/x", "download"),
        ("apps/ap-1/output", "output"),
        ("format.json", "{\"format\":1}\n"),
    ] {
        write(root.join(path), contents);
    }
    let connection = rusqlite::Connection::open(root.join("index.db")).unwrap();
    let record = "{\"key\":\"00\",\"digest\":\"00\"}";
    connection.execute("INSERT INTO layers VALUES ('00', 'title', 1, ?1)", [record]).unwrap();
    connection.execute("INSERT INTO images VALUES ('im-old', 1, '{}')", []).unwrap();
}

#[test]
fn a_store_of_an_earlier_format_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    store_of_format_1(&root);
    let store = TestStore::open(&root);
    assert_eq!((store.list_images().unwrap(), store.find_layer(&LayerKey(Digest::of(b"x"))).unwrap()), (vec![], None));
    for gone in ["content/objects/ab", "content/trees/00", "content/views/00", "content/wheels/x.json", "contexts/0123"]
    {
        assert!(!root.join(gone).exists(), "{gone}");
    }
    for kept in ["content/caches/apt/archives/x.deb", "downloads/x", "apps/ap-1/output"] {
        assert!(root.join(kept).exists(), "{kept}");
    }
    assert_eq!(std::fs::read_to_string(root.join("format.json")).unwrap(), "{\"format\":3}\n");
    store.layer(CommitRules::default(), |upper| write(upper.join("file"), "x"));
}

#[test]
fn a_store_that_an_earlier_version_uses_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    store_of_format_1(&root);
    let session = std::fs::File::create(root.join("locks/session-0123456789abcdef")).unwrap();
    std::fs::write(root.join("locks/session-0123456789abcdef"), "begin 1\n").unwrap();
    rustix::fs::flock(&session, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let layout = Layout::prepare(&root).unwrap();
    let content = layout.content();
    let (engine, socket) = std::os::unix::net::UnixStream::pair().unwrap();
    let worker = std::thread::spawn(move || worker_main(socket, &content, JobTable::new(), || ()));
    let error = Store::open(layout, engine).unwrap_err();
    assert!(matches!(error, StoreError::FormerInUse { .. }), "{error}");
    worker.join().unwrap();
    assert!(root.join("content/views/00/usr/bin/tool").exists());
}

#[test]
fn stores_of_others_and_open_ones_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    Layout::prepare(&root).unwrap();
    assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
    let error = Layout::prepare(&root).unwrap_err();
    assert!(error.to_string().contains("chmod 700"), "{error}");
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&root, Some(12345), None).unwrap();
    assert!(matches!(Layout::prepare(&root), Err(StoreError::Owner { owner: 12345, .. })));
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(Layout::prepare(&file), Err(StoreError::NoStore(_))));
}

#[test]
fn a_removed_store_is_gone() {
    let mut store = TestStore::new();
    store.layer(CommitRules::default(), |upper| write(upper.join("file"), "x"));
    store.close();
    remove(&store.root);
    assert!(!store.root.exists());
}

fn remove(root: &Path) {
    let layout = Layout::prepare(root).unwrap();
    let content = layout.content();
    let (engine, socket) = std::os::unix::net::UnixStream::pair().unwrap();
    let worker = std::thread::spawn(move || worker_main(socket, &content, JobTable::new(), || ()));
    Store::remove(&layout, engine).unwrap();
    worker.join().unwrap();
}

#[test]
fn a_damaged_index_is_named_once_and_can_be_deleted_or_removed_with_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let path = root.join("index.db");
    let open = || {
        let (engine, socket) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(socket);
        Store::open(Layout::prepare(&root).unwrap(), engine).unwrap_err()
    };
    let mut store = TestStore::open(&root);
    store.record_image(&image_record("im-aaa", 1)).unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    store.record_image(&image_record("im-bbb", 1)).unwrap();
    store.close();
    // The write-ahead log with the second image stays.
    std::fs::write(&path, vec![7; 20_000]).unwrap();
    let error = open();
    assert_eq!(
        error.to_string(),
        format!("the index `{}` is damaged: file is not a database", path.canonicalize().unwrap().display())
    );
    assert!(std::error::Error::source(&error).is_none());
    assert!(error.hint().unwrap().starts_with("delete that file"));

    std::fs::remove_file(&path).unwrap();
    let mut store = TestStore::open(&root);
    assert_eq!(store.list_images().unwrap(), []);
    store.record_image(&image_record("im-ccc", 1)).unwrap();
    store.close();
    let mut store = TestStore::open(&root);
    assert_eq!(store.list_images().unwrap().len(), 1);
    store.close();

    std::fs::write(&path, vec![7; 20_000]).unwrap();
    std::fs::remove_file(root.join("index.db-wal")).unwrap();
    assert!(matches!(open(), StoreError::DamagedIndex { .. }));
    remove(&root);
    assert!(!root.exists());
}
