//! Volumes of a store whose worker runs in this process.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use lamina_ground::{ErrorClass, Hint};
use lamina_store::{JobTable, Layout, Store};

use crate::{Entry, EntryKind, Upload, Volume, VolumeError, VolumeName, Volumes, jobs};

struct Stand {
    store: Store,
    directory: tempfile::TempDir,
}

impl Stand {
    fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    fn on(directory: tempfile::TempDir) -> Self {
        let store = open(&directory);
        Self { store, directory }
    }

    fn volumes(&self) -> Volumes<'_> {
        Volumes::new(&self.store)
    }

    fn make(&self, text: &str) -> Volume {
        self.volumes().create(Some(name(text))).unwrap()
    }

    /// Where the files of a volume are.
    fn files(&self, id: &str) -> PathBuf {
        self.store.layout().content().join(self.volumes().mountable(id, None).unwrap().as_str())
    }

    fn put(&self, id: &str, files: &[(&str, &str)], force: bool) -> Result<(), VolumeError> {
        let upload = |(path, text): &(&str, &str)| {
            let mut file = tempfile::tempfile_in(self.directory.path()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.rewind().unwrap();
            Upload { staged: self.volumes().stage(file.as_fd()).unwrap(), path: (*path).to_owned(), mode: 0o640 }
        };
        self.volumes().publish(id, files.iter().map(upload).collect(), force)
    }

    fn read(&self, id: &str, path: &str) -> Result<String, VolumeError> {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let read = self.volumes().read(id, path, writer.as_fd());
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        read.map(|size| {
            assert_eq!(size, text.len() as u64);
            text
        })
    }

    fn paths(&self, id: &str, path: &str, recursive: bool) -> Vec<String> {
        self.volumes().files(id, path, recursive).unwrap().into_iter().map(|entry| entry.path).collect()
    }
}

fn open(directory: &tempfile::TempDir) -> Store {
    let layout = Layout::prepare(&directory.path().join("store")).unwrap();
    let (engine, worker) = UnixStream::pair().unwrap();
    let content = layout.content();
    std::thread::spawn(move || lamina_store::worker_main(worker, &content, jobs(JobTable::new()), || ()));
    Store::open(layout, engine).unwrap()
}

fn name(name: &str) -> VolumeName {
    VolumeName { environment: "main".to_owned(), name: name.to_owned() }
}

fn class<T: std::fmt::Debug>(result: Result<T, VolumeError>) -> ErrorClass {
    result.unwrap_err().class()
}

#[test]
fn a_volume_is_made_found_renamed_and_removed() {
    let stand = Stand::new();
    let volumes = stand.volumes();
    let missing = volumes.named(&name("data"), false).unwrap_err();
    assert_eq!((missing.class(), missing.to_string()), (ErrorClass::NotFoundError, "there is no volume `data`".into()));
    assert!(missing.hint().unwrap().contains("`modal volume create data`"));
    let made = volumes.named(&name("data"), true).unwrap();
    assert_eq!(volumes.named(&name("data"), true).unwrap(), made);
    assert_eq!(class(volumes.create(Some(name("data")))), ErrorClass::AlreadyExistsError);
    assert_eq!(class(volumes.create(Some(name("a/b")))), ErrorClass::InvalidError);
    let other = VolumeName { environment: "staging".into(), name: "data".into() };
    assert_ne!(volumes.create(Some(other)).unwrap().id, made.id);
    stand.put(&made.id, &[("a", "1")], false).unwrap();
    volumes.rename(&made.id, "new").unwrap();
    assert_eq!(volumes.named(&name("new"), false).unwrap().id, made.id);
    assert_eq!(stand.read(&made.id, "a").unwrap(), "1");
    stand.make("taken");
    assert_eq!(class(volumes.rename(&made.id, "taken")), ErrorClass::AlreadyExistsError);
    assert_eq!(volumes.list("main").unwrap().len(), 2);
    volumes.delete(&made.id).unwrap();
    assert_eq!(class(volumes.get(&made.id)), ErrorClass::NotFoundError);
    assert_eq!(class(volumes.delete(&made.id)), ErrorClass::NotFoundError);
}

#[test]
fn no_volume_is_called_as_an_app_is_identified() {
    let (stand, id) = (Stand::new(), "ap-1234567890123456789012");
    assert_eq!(class(stand.volumes().named(&name(id), true)), ErrorClass::InvalidError);
    let made = stand.make("data");
    assert_eq!(class(stand.volumes().rename(&made.id, id)), ErrorClass::InvalidError);
}

#[test]
fn volumes_that_are_made_at_the_same_time_are_one() {
    let stand = Stand::new();
    let ids = std::thread::scope(|scope| {
        let make = || scope.spawn(|| stand.volumes().named(&name("data"), true).unwrap().id);
        let threads: Vec<_> = std::iter::repeat_with(make).take(8).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<std::collections::HashSet<_>>()
    });
    assert_eq!(ids.len(), 1);
}

#[test]
fn files_in_the_way_of_one_another_are_not_put() {
    let stand = Stand::new();
    let id = stand.make("data").id;
    let put = |one, other, force| stand.put(&id, &[("z", "z"), (one, "1"), (other, "2")], force);
    for (one, other) in [("b", "b/c"), ("d/e/f", "/d/e")] {
        for force in [false, true] {
            assert_eq!(class(put(one, other, force)), ErrorClass::InvalidError, "{one} {other}");
        }
    }
    assert_eq!(class(put("/a", "a/", false)), ErrorClass::FileExistsError);
    assert!(stand.paths(&id, "/", true).is_empty());
    stand.put(&id, &[("a", "1"), ("a.b", "2"), ("ab/a", "3")], false).unwrap();
    put("a", "a", true).unwrap();
    assert_eq!(stand.read(&id, "a").unwrap(), "2");
}

#[test]
fn files_are_put_listed_read_and_removed() {
    let stand = Stand::new();
    let id = stand.make("data").id;
    stand.put(&id, &[("/a.txt", "one"), ("deep/er/b.txt", "two")], false).unwrap();
    symlink("a.txt", stand.files(&id).join("link")).unwrap();
    assert_eq!(stand.paths(&id, "/", false), ["a.txt", "deep", "link"]);
    assert_eq!(stand.paths(&id, "/", true), ["a.txt", "deep", "deep/er", "deep/er/b.txt", "link"]);
    assert_eq!(stand.paths(&id, "deep/er", false), ["deep/er/b.txt"]);
    let listed = stand.volumes().files(&id, "a.txt", false).unwrap();
    assert!(matches!(&listed[..], [Entry { path, kind: EntryKind::File, size: 3, .. }] if path == "a.txt"));
    let mode = fs_err::metadata(stand.files(&id).join("a.txt")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    assert_eq!(stand.read(&id, "link").unwrap(), "one");
    assert_eq!(class(stand.read(&id, "nothing")), ErrorClass::FileNotFoundError);
    assert_eq!(class(stand.read(&id, "deep")), ErrorClass::InvalidError);
    assert_eq!(class(stand.volumes().files(&id, "nothing", false)), ErrorClass::FileNotFoundError);
    stand.volumes().remove(&id, "link", false).unwrap();
    assert_eq!(class(stand.volumes().remove(&id, "link", false)), ErrorClass::FileNotFoundError);
    assert_eq!(class(stand.volumes().remove(&id, "deep", false)), ErrorClass::InvalidError);
    assert_eq!(class(stand.volumes().remove(&id, "/", true)), ErrorClass::InvalidError);
    stand.volumes().remove(&id, "deep", true).unwrap();
    assert_eq!(stand.paths(&id, "", true), ["a.txt"]);
    stand.volumes().commit(&id).unwrap();
}

#[test]
fn either_all_files_are_put_or_none() {
    let stand = Stand::new();
    let id = stand.make("data").id;
    stand.put(&id, &[("b", "old")], false).unwrap();
    assert_eq!(class(stand.put(&id, &[("a", "new"), ("b", "new")], false)), ErrorClass::FileExistsError);
    assert_eq!((stand.paths(&id, "", true), stand.read(&id, "b").unwrap()), (vec!["b".to_owned()], "old".to_owned()));
    stand.put(&id, &[("a", "new"), ("b", "new")], true).unwrap();
    assert_eq!(stand.read(&id, "b").unwrap(), "new");
    fs_err::create_dir(stand.files(&id).join("directory")).unwrap();
    assert_eq!(class(stand.put(&id, &[("directory", "x")], true)), ErrorClass::InvalidError);
    assert_eq!(class(stand.put(&id, &[("b/c", "x")], true)), ErrorClass::InvalidError);
    assert_eq!(class(stand.put(&id, &[("/", "x")], true)), ErrorClass::InvalidError);
}

#[test]
fn nothing_outside_of_a_volume_is_reached_by_its_links() {
    let stand = Stand::new();
    let (id, other) = (stand.make("data").id, stand.make("other").id);
    stand.put(&other, &[("treasure", "gold")], false).unwrap();
    let (files, theirs) = (stand.files(&id), stand.files(&other));
    symlink(theirs.join("treasure"), files.join("absolute")).unwrap();
    symlink(format!("../../{other}/files"), files.join("relative")).unwrap();
    assert_eq!(class(stand.read(&id, "absolute")), ErrorClass::InvalidError);
    assert_eq!(class(stand.read(&id, "relative/treasure")), ErrorClass::InvalidError);
    assert_eq!(class(stand.volumes().files(&id, "relative", true)), ErrorClass::InvalidError);
    assert_eq!(class(stand.volumes().remove(&id, "relative/treasure", true)), ErrorClass::InvalidError);
    assert_eq!(class(stand.put(&id, &[("relative/new", "x")], true)), ErrorClass::InvalidError);
    assert_eq!(class(stand.volumes().copy(&id, vec!["relative".into()], "copy", true)), ErrorClass::InvalidError);
    assert_eq!(class(stand.volumes().mountable(&id, Some("../x"))), ErrorClass::InvalidError);
    // The link is replaced, and not what it leads to.
    stand.put(&id, &[("absolute", "mine")], true).unwrap();
    assert_eq!(stand.paths(&id, "", true), ["absolute", "relative"]);
    stand.volumes().remove(&id, "relative", true).unwrap();
    assert_eq!((stand.read(&other, "treasure").unwrap(), stand.paths(&other, "", true).len()), ("gold".into(), 1));
}

#[test]
fn what_has_no_contents_keeps_nobody_waiting() {
    let stand = Stand::new();
    let id = stand.make("data").id;
    let pipe = stand.files(&id).join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(stand.files(&id).join("socket")).unwrap();
    for path in ["pipe", "socket"] {
        assert_eq!(class(stand.read(&id, path)), ErrorClass::InvalidError);
        assert_eq!(class(stand.volumes().copy(&id, vec![path.into()], "copy", true)), ErrorClass::InvalidError);
    }
}

#[test]
fn copies_follow_the_rules_of_cp() {
    let stand = Stand::new();
    let id = stand.make("data").id;
    stand.put(&id, &[("a", "1"), ("b", "2"), ("from/x", "3"), ("into/y", "4")], false).unwrap();
    symlink("x", stand.files(&id).join("from/link")).unwrap();
    let copy = |sources: &[&str], destination: &str, recursive| {
        stand.volumes().copy(&id, sources.iter().map(|it| (*it).to_owned()).collect(), destination, recursive)
    };
    copy(&["a"], "b", false).unwrap();
    assert_eq!(stand.read(&id, "b").unwrap(), "1");
    copy(&["a", "b"], "into", false).unwrap();
    copy(&["from"], "into", true).unwrap();
    copy(&["from"], "new", true).unwrap();
    assert_eq!(
        stand.paths(&id, "into", true),
        ["into/a", "into/b", "into/from", "into/from/link", "into/from/x", "into/y"]
    );
    assert_eq!(stand.paths(&id, "new", true), ["new/link", "new/x"]);
    for (sources, destination, recursive) in [
        (&["a", "b"][..], "nowhere", false),
        (&["from"], "other", false),
        (&["from"], "from/below", true),
        (&["from"], "from", true),
        (&["/"], "other", true),
        (&["a"], "a", false),
        (&["a"], "nowhere/", false),
    ] {
        assert_eq!(class(copy(sources, destination, recursive)), ErrorClass::InvalidError, "{sources:?} {destination}");
    }
    assert_eq!(class(copy(&["nothing"], "b", false)), ErrorClass::FileNotFoundError);
}

#[test]
fn what_was_not_put_is_gone_with_the_process_and_the_rest_stays() {
    let stand = Stand::new();
    let id = stand.make("data").id;
    stand.put(&id, &[("a", "1")], false).unwrap();
    let ephemeral = stand.volumes().create(None).unwrap();
    stand.put(&ephemeral.id, &[("b", "2")], false).unwrap();
    assert_eq!((ephemeral.name, stand.read(&ephemeral.id, "b").unwrap()), (None, "2".to_owned()));
    assert_eq!(class(stand.volumes().rename(&ephemeral.id, "name")), ErrorClass::InvalidError);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"unfinished").unwrap();
    stand.volumes().stage(file.as_fd()).unwrap();
    let Stand { store, directory } = stand;
    let work = store.layout().content().join("work");
    drop(store);
    let again = Stand::on(directory);
    // The former worker clears away, or else the new one.
    while fs_err::read_dir(&work).unwrap().count() > 1 {
        std::thread::yield_now();
    }
    assert_eq!(class(again.volumes().get(&ephemeral.id)), ErrorClass::NotFoundError);
    assert_eq!(again.volumes().named(&name("data"), false).unwrap().id, id);
    assert_eq!(again.read(&id, "a").unwrap(), "1");
}

#[test]
fn what_containers_make_of_any_depth_and_number_is_told_and_removed() {
    let stand = Stand::new();
    let id = stand.make("data").id;
    let mut directory = stand.files(&id).join("deep");
    fs_err::create_dir(&directory).unwrap();
    for _ in 0..300 {
        directory = directory.join("d");
        fs_err::create_dir(&directory).unwrap();
    }
    let error = stand.volumes().files(&id, "", true).unwrap_err();
    assert!(error.class() == ErrorClass::InvalidError && error.to_string().contains("deeper than 256"), "{error}");
    assert_eq!(class(stand.volumes().copy(&id, vec!["deep".into()], "copy", true)), ErrorClass::InvalidError);
    assert_eq!(stand.paths(&id, "deep", false), ["deep/d"]);
    stand.volumes().remove(&id, "deep", true).unwrap();
    let (files, long) = (stand.files(&id), "\n".repeat(200));
    for number in 0..30_000 {
        rustix::fs::symlinkat("x", rustix::fs::CWD, files.join(format!("{long}{number}"))).unwrap();
    }
    let error = stand.volumes().files(&id, "", true).unwrap_err();
    assert!(error.to_string().contains("more to list than can be told at once"), "{:.80}", error.to_string());
}
