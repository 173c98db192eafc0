//! Taking in local files.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use lamina_ground::Stack;
use lamina_image::{FileEntry, FileKind, FileSet, Ignore, Name};
use lamina_store::StoreError;
use lamina_store::tree::Node;

use crate::support::*;

/// What a container would see at a path.
fn read(store: &TestStore, views: &Stack<lamina_image::Digest>, path: &str) -> Option<String> {
    views.top_down().find_map(|view| std::fs::read_to_string(store.bytes(view, path)).ok())
}

fn paths(store: &TestStore, digest: &lamina_image::Digest) -> Vec<String> {
    let is_file = |entry: &&lamina_store::tree::Entry| matches!(entry.node, Node::File { .. });
    let tree = store.tree(digest);
    tree.entries().iter().filter(is_file).map(|it| String::from_utf8_lossy(&it.path).into_owned()).collect()
}

#[test]
fn a_directory_becomes_a_view_and_is_not_read_twice() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("a.py"), "a = 1");
    write(local.path().join("pkg/b.py"), "b = 1");
    write(local.path().join("run.sh"), "exit");
    std::fs::set_permissions(local.path().join("run.sh"), PermissionsExt::from_mode(0o4755)).unwrap();
    settle();
    let set = directory_set(local.path(), "/root/src/");
    let first = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!((first.files, first.bytes, first.read, first.views.len()), (3, 14, 3, 1));
    assert_eq!(first.warnings, Vec::<String>::new());
    let digest = first.digest.unwrap();
    assert_eq!(store.verify(&digest).unwrap(), Vec::<String>::new());
    assert_eq!(read(&store, &first.views, "root/src/pkg/b.py").unwrap(), "b = 1");
    assert_eq!(std::fs::metadata(store.view(&digest, "root/src/run.sh")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(store.view(&digest, "root/src")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(store.view(&digest, "root")).unwrap().mode() & 0o7777, 0o700);
    let second = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!((second.read, second.views), (0, first.views));
    let layer = store.file_set_layer(&set, &Stack::new()).unwrap();
    assert_eq!((layer.digest, layer.files, layer.bytes_new), (digest, 3, 0));
}

#[test]
fn contents_decide_not_times() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    let file = local.path().join("a.py");
    write(&file, "a = 1");
    let set = directory_set(local.path(), "/root");
    let first = store.file_set(&set, &Stack::new()).unwrap();
    // Same size, same modification time, and too soon after the first look for the clock to tell.
    let time = std::fs::metadata(&file).unwrap().modified().unwrap();
    write(&file, "a = 2");
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    let second = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!(read(&store, &second.views, "root/a.py").unwrap(), "a = 2");
    assert_ne!(first.digest, second.digest);
    settle();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    settle();
    let touched = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!((touched.read, touched.digest), (1, second.digest));
    let shown = std::fs::metadata(store.view(&touched.digest.unwrap(), "root/a.py")).unwrap();
    assert_eq!(shown.modified().unwrap(), time, "files keep their times");
    assert_eq!(store.file_set(&set, &Stack::new()).unwrap().read, 0);
}

#[test]
fn a_file_read_too_soon_after_its_change_is_read_again() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    let set = directory_set(local.path(), "/root");
    for round in 0..100 {
        write(local.path().join("a.py"), format!("{round:03}"));
        let view = store.file_set(&set, &Stack::new()).unwrap();
        assert_eq!(read(&store, &view.views, "root/a.py").unwrap(), format!("{round:03}"));
    }
}

#[test]
fn a_change_in_a_large_set_is_a_delta_and_a_removal_is_not() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    for index in 0..600 {
        write(local.path().join(format!("d{}/{index}.py", index % 7)), format!("index = {index}"));
    }
    settle();
    let set = directory_set(local.path(), "/root/src");
    let first = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!((first.read, first.views.len()), (600, 1));
    write(local.path().join("d3/3.py"), "changed");
    write(local.path().join("new/file.py"), "new");
    settle();
    let second = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!((second.read, second.views.len(), second.files), (2, 2, 601));
    assert_eq!(second.views.bottom(), first.views.top());
    assert_eq!(paths(&store, second.views.top().unwrap()), ["root/src/d3/3.py", "root/src/new/file.py"]);
    assert_eq!(read(&store, &second.views, "root/src/d3/3.py").unwrap(), "changed");
    assert_eq!(read(&store, &second.views, "root/src/d4/4.py").unwrap(), "index = 4");
    assert_eq!(store.file_set(&set, &Stack::new()).unwrap(), lamina_store::FileSetView { read: 0, ..second.clone() });
    let layer = store.file_set_layer(&set, &Stack::new()).unwrap();
    assert_eq!((Some(layer.digest), layer.files), (second.digest, 601));
    assert_eq!(store.file_set(&set, &Stack::new()).unwrap().views, Stack::from_bottom_up([layer.digest]));
    std::fs::remove_file(local.path().join("d3/3.py")).unwrap();
    let third = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!((third.files, third.read, third.views.len()), (600, 0, 1));
    assert_eq!(read(&store, &third.views, "root/src/d3/3.py"), None);
}

#[test]
fn a_lost_delta_is_made_again() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    for index in 0..600 {
        write(local.path().join(format!("{index}.py")), format!("index = {index}"));
    }
    settle();
    let set = directory_set(local.path(), "/root/src");
    store.file_set(&set, &Stack::new()).unwrap();
    write(local.path().join("3.py"), "changed");
    settle();
    let first = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!(first.views.len(), 2);
    std::fs::remove_dir_all(store.content(store.view_path(first.views.top().unwrap()))).unwrap();
    std::fs::remove_file(store.content("trees").join(first.views.top().unwrap().hex())).unwrap();
    let again = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!((again.read, &again.views), (0, &first.views));
    assert_eq!(read(&store, &again.views, "root/src/3.py").unwrap(), "changed");
}

#[test]
fn a_file_that_is_gone_before_it_was_recorded_is_not_shown() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("a.py"), "a = 1");
    settle();
    let set = directory_set(local.path(), "/root");
    let before = store.file_set(&set, &Stack::new()).unwrap();
    // Too new for its status to be relied on, so the record is as it was.
    write(local.path().join("b.py"), "b = 1");
    let between = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!((between.files, between.read), (2, 1));
    std::fs::remove_file(local.path().join("b.py")).unwrap();
    let after = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!((after.files, after.digest, after.views), (1, before.digest, before.views));
}

#[test]
fn links_are_followed_loops_and_odd_files_are_left_out() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    write(outside.path().join("shared.py"), "shared");
    write(local.path().join("pkg/mod.py"), "mod");
    symlink("pkg/mod.py", local.path().join("alias.py")).unwrap();
    symlink(outside.path(), local.path().join("outside")).unwrap();
    symlink("..", local.path().join("pkg/loop")).unwrap();
    symlink("nowhere", local.path().join("broken")).unwrap();
    symlink("circle", local.path().join("circle")).unwrap();
    fifo(local.path().join("pipe"));
    drop(std::os::unix::net::UnixListener::bind(local.path().join("socket")).unwrap());
    let view = store.file_set(&directory_set(local.path(), "/root"), &Stack::new()).unwrap();
    let digest = view.digest.unwrap();
    assert_eq!(paths(&store, &digest), ["root/alias.py", "root/outside/shared.py", "root/pkg/mod.py"]);
    let warnings = view.warnings.join("\n");
    for name in ["broken", "circle", "pipe", "socket"] {
        assert!(warnings.contains(&format!("/{name}` was left out")), "{name} not in {warnings}");
    }
    assert_eq!(view.warnings.len(), 4, "{warnings}");
    assert_eq!(links(&store, &digest), [("root/pkg/loop".to_owned(), "..".to_owned())]);
}

/// The links of a tree, with their targets.
fn links(store: &TestStore, digest: &lamina_image::Digest) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let tree = store.tree(digest);
    let link = |entry: &lamina_store::tree::Entry| match &entry.node {
        Node::Symlink { target, .. } => Some((text(&entry.path), text(target))),
        _ => None,
    };
    tree.entries().iter().filter_map(link).collect()
}

#[test]
fn directories_that_link_to_each_other_are_visited_once() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    for package in 0..14 {
        for file in 0..3 {
            write(local.path().join(format!("p{package}/{file}.js")), format!("{package}"));
        }
        std::fs::create_dir(local.path().join(format!("p{package}/modules"))).unwrap();
        for other in (0..14).filter(|other| *other != package) {
            symlink(format!("../../p{other}"), local.path().join(format!("p{package}/modules/p{other}"))).unwrap();
        }
    }
    write(outside.path().join("inner/x"), "x");
    write(outside.path().join("y"), "y");
    symlink(outside.path().join("inner"), local.path().join("a")).unwrap();
    symlink(outside.path(), local.path().join("b")).unwrap();
    symlink(outside.path(), local.path().join("c")).unwrap();
    let view = store.file_set(&directory_set(local.path(), "/app"), &Stack::new()).unwrap();
    let digest = view.digest.unwrap();
    assert_eq!((view.files, view.warnings), (14 * 3 + 2, Vec::new()));
    let links = links(&store, &digest);
    let has = |link: &str, target: &str| links.contains(&(link.to_owned(), target.to_owned()));
    assert_eq!(links.len(), 14 * 13 + 2);
    assert!(has("app/p0/modules/p13", "../../p13") && has("app/b/inner", "../a") && has("app/c", "b"), "{links:?}");
    let through = std::fs::canonicalize(store.view(&digest, "app/c/inner/x")).unwrap();
    let root = std::fs::canonicalize(store.view(&digest, "")).unwrap();
    let path = through.strip_prefix(root).unwrap().to_str().unwrap();
    assert_eq!(store.read(&digest, path), b"x");
    assert_eq!(store.verify(&digest).unwrap(), Vec::<String>::new());
}

#[test]
fn links_to_nothing_that_is_taken_are_left_out_and_changed_links_are_seen() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("v1/a.py"), "1");
    write(local.path().join("v2/a.py"), "2");
    write(local.path().join("data/a.csv"), "3");
    std::fs::create_dir(local.path().join("modules")).unwrap();
    for (target, link) in [("v1", "current"), ("data", "no-python"), ("../v2", "modules/v2"), ("modules", "more")] {
        symlink(target, local.path().join(link)).unwrap();
    }
    settle();
    let python = Ignore::Patterns { patterns: vec!["**/*.py".to_owned()], invert: true };
    let set = ignoring(local.path(), python);
    let shown = |expected: &[(&str, &str)]| {
        let view = store.file_set(&set, &Stack::new()).unwrap();
        let expected: Vec<_> = expected.iter().map(|(link, to)| ((*link).to_owned(), (*to).to_owned())).collect();
        assert_eq!(links(&store, &view.digest.unwrap()), expected);
    };
    shown(&[("app/current", "v1"), ("app/modules/v2", "../v2")]);
    std::fs::remove_file(local.path().join("current")).unwrap();
    symlink("v2", local.path().join("current")).unwrap();
    shown(&[("app/current", "v2"), ("app/modules/v2", "../v2")]);
    let all = store.file_set(&directory_set(local.path(), "/app"), &Stack::new()).unwrap();
    assert_eq!(links(&store, &all.digest.unwrap()).len(), 4);
}

#[test]
fn cancelling_ends_the_walk() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("a.py"), "a");
    let cancel = lamina_events::CancelToken::new();
    let cancelled = store.on_behalf_of(&cancel, &lamina_events::Sink::none());
    cancelled.file_set(&directory_set(local.path(), "/root"), &Stack::new()).unwrap();
    cancel.cancel();
    let error = cancelled.collect_files(&directory_set(local.path(), "/root")).unwrap_err();
    assert!(matches!(error, StoreError::Cancelled(_)), "{error}");
}

#[test]
fn names_are_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    write(local.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.py")), "x");
    let view = store.file_set(&directory_set(local.path(), "/root"), &Stack::new()).unwrap();
    assert!(store.tree(&view.digest.unwrap()).entries().iter().any(|entry| entry.path == b"root/caf\xe9.py"));
    write(local.path().join("other.py"), "x");
    let one_character = Ignore::Patterns { patterns: vec!["caf?.py".to_owned()], invert: false };
    let listed = Ignore::Only { only: vec![Name::Bytes(b"caf\xe9.py".to_vec())] };
    for (ignore, files) in [(one_character, "app/other.py"), (listed, "app/caf\u{fffd}.py")] {
        let view = store.file_set(&ignoring(local.path(), ignore), &Stack::new()).unwrap();
        assert_eq!(paths(&store, &view.digest.unwrap()), [files]);
    }
}

fn ignoring(source: &Path, ignore: Ignore) -> FileSet {
    FileSet { entries: vec![FileEntry { ignore: Some(ignore), ..directory_entry(source, "/app") }] }
}

#[test]
fn patterns_and_lists_decide_what_is_taken() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    for path in ["a.py", "a.pyc", "node_modules/x.py", "pkg/b.py", "pkg/data.json", "pkg/__pycache__/b.pyc"] {
        write(local.path().join(path), path);
    }
    // Nobody looks into a directory that is left out.
    symlink("nowhere", local.path().join("node_modules/broken")).unwrap();
    let patterns = |patterns: &[&str], invert| Ignore::Patterns {
        patterns: patterns.iter().map(|it| (*it).to_owned()).collect(),
        invert,
    };
    for (ignore, expected) in [
        (patterns(&["**/*.pyc", "node_modules"], false), vec!["app/a.py", "app/pkg/b.py", "app/pkg/data.json"]),
        (patterns(&["**/*.py"], true), vec!["app/a.py", "app/node_modules/x.py", "app/pkg/b.py"]),
        (patterns(&["*", "!pkg/*.json"], false), vec!["app/pkg/data.json"]),
        (Ignore::Only { only: vec![Name::Text("pkg/b.py".to_owned())] }, vec!["app/pkg/b.py"]),
    ] {
        let view = store.file_set(&ignoring(local.path(), ignore), &Stack::new()).unwrap();
        assert_eq!(paths(&store, &view.digest.unwrap()), expected);
        assert!(view.warnings.iter().all(|it| it.contains("broken") && expected.len() == 1 || expected.len() == 3));
    }
}

#[test]
fn later_sources_win_and_single_files_have_their_target() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("dir/app.py"), "first");
    write(local.path().join("other.py"), "second");
    let file = FileEntry {
        source: local.path().join("other.py").to_str().unwrap().to_owned(),
        target: "/root//app.py".to_owned(),
        kind: FileKind::File,
        ignore: None,
    };
    let set = FileSet { entries: vec![directory_entry(&local.path().join("dir"), "/root"), file] };
    let view = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!(read(&store, &view.views, "root/app.py").unwrap(), "second");
    assert_eq!(view.files, 1);
}

#[test]
fn what_cannot_be_taken_is_named() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("file"), "x");
    write(local.path().join("dir/file"), "x");
    let entry = |source: &str, target: &str, kind| FileSet {
        entries: vec![FileEntry { kind, ..directory_entry(&local.path().join(source), target) }],
    };
    let error = |set: &FileSet| store.file_set(set, &Stack::new()).unwrap_err();
    let missing = error(&entry("missing", "/root", FileKind::Directory));
    assert!(matches!(&missing, StoreError::NotFound(path) if path.ends_with("missing")), "{missing}");
    assert!(matches!(error(&entry("file", "/root", FileKind::Directory)), StoreError::NotADirectory(_)));
    assert!(matches!(error(&entry("dir", "/root", FileKind::File)), StoreError::NotAFile(_)));
    for target in ["relative", "/a/../b"] {
        assert!(matches!(error(&entry("dir", target, FileKind::Directory)), StoreError::InvalidFileSet(_)));
    }
    let mut both = entry("file", "/root/file", FileKind::File);
    both.entries.push(directory_entry(&local.path().join("dir"), "/root/file"));
    let conflict = error(&both).to_string();
    assert!(conflict.contains("`/root/file` would be a file and a directory at once"), "{conflict}");
    std::fs::create_dir(local.path().join("empty")).unwrap();
    let empty = store.file_set(&entry("empty", "/root", FileKind::Directory), &Stack::new()).unwrap();
    assert_eq!((empty.digest, empty.views.len(), empty.warnings.len()), (None, 0, 1));
    store.file_set_layer(&entry("empty", "/root", FileKind::Directory), &Stack::new()).unwrap();
}

#[test]
fn files_that_do_not_hold_still_are_an_error() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    let path = local.path().join("busy.bin");
    std::fs::write(&path, vec![0; 64 << 20]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::os::unix::fs::FileExt::write_at(&file, b"x", 0).unwrap();
            }
        });
        let result = store.file_set(&directory_set(local.path(), "/root"), &Stack::new());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        result
    });
    let error = result.unwrap_err();
    assert!(matches!(&error, StoreError::Changed(changed) if *changed == path), "{error}");
}

#[test]
fn lost_objects_and_records_are_made_good() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("a.py"), "a = 1");
    settle();
    let set = directory_set(local.path(), "/root");
    let first = store.file_set(&set, &Stack::new()).unwrap();
    std::fs::remove_dir_all(store.content(store.view_path(first.views.top().unwrap()))).unwrap();
    std::fs::remove_file(store.content("trees").join(first.views.top().unwrap().hex())).unwrap();
    let again = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!((again.read, &again.views), (0, &first.views));
    std::fs::remove_dir_all(store.content(store.view_path(first.views.top().unwrap()))).unwrap();
    for byte in store.names("objects") {
        for name in store.names(&format!("objects/{byte}")) {
            std::fs::remove_file(store.content("objects").join(&byte).join(name)).unwrap();
        }
    }
    let again = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!((again.read, &again.views), (1, &first.views));
    for record in std::fs::read_dir(store.root.join("contexts")).unwrap() {
        std::fs::write(record.unwrap().path(), "rubbish").unwrap();
    }
    assert_eq!(store.file_set(&set, &Stack::new()).unwrap().read, 1);
}
