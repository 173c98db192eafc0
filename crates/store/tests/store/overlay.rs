//! Commits of uppers that the kernel's overlay has filled.

use std::ffi::CString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lamina_ground::{Stack, StorePath};
use lamina_image::Digest;
use lamina_store::tree::Node;
use lamina_store::{CommitRules, Committed};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::*;

/// A mounted overlay, and those that it lies over.
struct Overlay(Vec<tempfile::TempDir>);

impl Overlay {
    /// Mounts views with directories for writing on top unless that is `None`.
    fn mount(store: &TestStore, views: &Stack<Digest>, writable: Option<(StorePath, StorePath)>) -> Self {
        let mut lower: Vec<_> = views.top_down().map(|it| (it, store.view(it, "").display().to_string())).collect();
        let lowest = lower.pop().unwrap();
        let mut lowers = Vec::new();
        let mut mounted = Self(Vec::new());
        let mut data = String::new();
        if views.top_down().any(|digest| store.redirects(digest)) {
            data = format!("::{}", store.content("objects").display());
        }
        for (digest, view) in lower {
            if !store.redirects(digest) {
                lowers.push(view);
                continue;
            }
            lowers.push(mounted.add(&format!("userxattr,lowerdir={view}{data}")));
            if xattr(&view, "user.overlay.lamina.whiteouts").is_some() {
                lowers.push(view.replace("/views/", "/whiteouts/"));
            }
        }
        lowers.push(lowest.1);
        let mut options = format!("userxattr,xino=on,lowerdir={}{data}", lowers.join(":"));
        if let Some((upper, work)) = writable {
            let (upper, work) = (store.content(upper), store.content(work));
            options = format!("{options},upperdir={},workdir={}", upper.display(), work.display());
        }
        mounted.add(&options);
        mounted
    }

    fn add(&mut self, options: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let options = CString::new(options).unwrap();
        mount("overlay", directory.path(), "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
        self.0.push(directory);
        self.path("").display().to_string()
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.last().unwrap().path().join(path)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        for directory in self.0.iter().rev() {
            unmount(directory.path(), UnmountFlags::empty()).unwrap();
        }
    }
}

/// Runs a step over layers, the upper ones first, and commits it.
fn step(store: &TestStore, parents: &[&Committed], run: impl FnOnce(&Overlay)) -> Committed {
    let work = store.new_work().unwrap();
    let views = Stack::from_top_down(parents.iter().map(|layer| layer.digest));
    let overlay = Overlay::mount(store, &views, Some((work.upper(), work.work_directory())));
    run(&overlay);
    drop(overlay);
    let committed = store.commit(&work, CommitRules::default()).unwrap();
    assert_eq!(store.verify(&committed.digest).unwrap(), Vec::<String>::new());
    committed
}

#[test]
fn a_step_over_a_layer_becomes_a_layer() {
    let store = TestStore::new();
    let base = store.layer(CommitRules::default(), |upper| {
        for path in ["kept", "changed", "dir/removed", "dir/kept", "replaced/old", "moved/file"] {
            write(upper.join(path), path);
        }
        std::fs::set_permissions(upper.join("kept"), PermissionsExt::from_mode(0o755)).unwrap();
    });
    let run = |overlay: &Overlay| {
        write(overlay.path("changed"), "changed by the step");
        std::fs::remove_file(overlay.path("dir/removed")).unwrap();
        std::fs::remove_dir_all(overlay.path("replaced")).unwrap();
        write(overlay.path("replaced/new"), "new");
        std::fs::set_permissions(overlay.path("kept"), PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::hard_link(overlay.path("dir/kept"), overlay.path("linked")).unwrap();
        // A mark planted from inside must not hide anything.
        set_xattr(overlay.path("moved"), "user.overlay.opaque", b"y");
    };
    let first = step(&store, &[&base], run);
    assert_eq!(first.content, step(&store, &[&base], run).content, "the same step gave another content");

    let overlay = Overlay::mount(&store, &Stack::from_top_down([first.digest, base.digest]), None);
    let read = |path: &str| std::fs::read_to_string(overlay.path(path)).ok();
    for (path, expected) in [
        ("kept", Some("kept")),
        ("changed", Some("changed by the step")),
        ("dir/removed", None),
        ("dir/kept", Some("dir/kept")),
        ("replaced/old", None),
        ("replaced/new", Some("new")),
        ("moved/file", Some("moved/file")),
        ("linked", Some("dir/kept")),
    ] {
        assert_eq!(read(path).as_deref(), expected, "{path}");
    }
    assert_eq!(std::fs::metadata(overlay.path("kept")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(xattr(overlay.path("moved"), "user.overlay.opaque").unwrap(), b"y");
    let inode = |path: &str| std::fs::metadata(overlay.path(path)).unwrap().ino();
    assert_eq!(inode("linked"), inode("dir/kept"));

    let node = |path: &str| store.entry(&first.digest, path).map(|entry| entry.node);
    assert_eq!(node("dir/removed"), Some(Node::Whiteout));
    assert!(matches!(node("replaced"), Some(Node::Directory { opaque: true, .. })));
    assert!(matches!(node("moved"), Some(Node::Directory { opaque: false, .. })));
    assert_eq!(node("moved/file"), None);
}

#[test]
fn directories_with_deletions_can_be_removed_and_made_again() {
    let store = TestStore::new();
    let base = store.layer(CommitRules::default(), |upper| {
        for path in ["dir/a", "dir/b", "dir/sub/c", "dir/sub/d", "other/e"] {
            write(upper.join(path), path);
        }
    });
    let second = step(&store, &[&base], |overlay| {
        std::fs::remove_file(overlay.path("dir/a")).unwrap();
        std::fs::remove_file(overlay.path("dir/sub/c")).unwrap();
        std::fs::remove_dir_all(overlay.path("other")).unwrap();
        write(overlay.path("dir/sub/new"), "new");
    });
    let names = |overlay: &Overlay, path: &str| {
        let entries = std::fs::read_dir(overlay.path(path)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let third = step(&store, &[&second, &base], |overlay| {
        assert_eq!(names(overlay, ""), ["dir"]);
        assert_eq!(names(overlay, "dir/sub"), ["d", "new"]);
        std::fs::remove_dir_all(overlay.path("dir/sub")).unwrap();
        std::fs::remove_file(overlay.path("dir/b")).unwrap();
        std::fs::remove_dir(overlay.path("dir")).unwrap();
        write(overlay.path("dir/again"), "again");
    });
    let overlay = Overlay::mount(&store, &Stack::from_top_down([third.digest, second.digest, base.digest]), None);
    assert_eq!(names(&overlay, "dir"), ["again"]);
}

#[test]
fn a_step_that_changes_nothing_is_the_empty_layer() {
    let store = TestStore::new();
    let base = store.layer(CommitRules::default(), |upper| write(upper.join("file"), "x"));
    let nothing = step(&store, &[&base], |overlay| {
        drop(std::fs::read(overlay.path("file")).unwrap());
    });
    assert_eq!(store.tree(&nothing.digest).entries().len(), 1);
}

#[test]
fn a_file_set_in_two_views_shows_as_one() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    for index in 0..600 {
        write(local.path().join(format!("{index}.py")), index.to_string());
    }
    let set = directory_set(local.path(), "/root/src");
    store.file_set(&set, &Stack::new()).unwrap();
    write(local.path().join("7.py"), "changed");
    let view = store.file_set(&set, &Stack::new()).unwrap();
    assert_eq!(view.views.len(), 2);
    let overlay = Overlay::mount(&store, &view.views, None);
    assert_eq!(std::fs::read_dir(overlay.path("root/src")).unwrap().count(), 600);
    assert_eq!(std::fs::read_to_string(overlay.path("root/src/7.py")).unwrap(), "changed");
    assert_eq!(std::fs::read_to_string(overlay.path("root/src/8.py")).unwrap(), "8");
}
