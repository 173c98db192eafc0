//! Committing uppers.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use lamina_store::tree::Node;
use lamina_store::{CommitRules, LAYER_MTIME, ObjectMeta};

use crate::support::*;

fn package_step() -> CommitRules {
    CommitRules { package_step: true, ..CommitRules::default() }
}

#[test]
fn an_upper_becomes_a_view_with_objects_and_constant_times() {
    let store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| {
        write(upper.join("usr/bin/tool"), "#!/bin/sh\n");
        std::fs::set_permissions(upper.join("usr/bin/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
        symlink("tool", upper.join("usr/bin/alias")).unwrap();
        write(upper.join("usr/empty"), "");
        write(upper.join("etc/tool.conf"), "x = 1\n");
        fifo(upper.join("pipe"));
        whiteout(upper.join("gone"));
    });
    assert_eq!((committed.files, committed.bytes, committed.bytes_new), (3, 16, 16));
    for path in ["", "usr", "usr/bin", "usr/bin/tool", "usr/bin/alias", "usr/empty", "etc/tool.conf", "pipe"] {
        let metadata = std::fs::symlink_metadata(store.view(&committed.digest, path)).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (LAYER_MTIME, 0), "{path}");
    }
    let links = |path| std::fs::symlink_metadata(store.view(&committed.digest, path)).unwrap().nlink();
    assert_eq!((links("usr/bin/tool"), links("usr/empty"), links("etc/tool.conf")), (2, 1, 1));
    assert!(std::fs::symlink_metadata(store.view(&committed.digest, "gone")).unwrap().file_type().is_char_device());
    let Some(Node::File { meta, .. }) = store.entry(&committed.digest, "usr/bin/tool").map(|entry| entry.node) else {
        panic!("not a file");
    };
    assert_eq!(meta, ObjectMeta::root_owned(0o4755));
    assert_eq!(store.entry(&committed.digest, "gone").unwrap().node, Node::Whiteout);
}

#[test]
fn equal_uppers_give_equal_digests_and_share_everything() {
    let store = TestStore::new();
    let fill = |upper: &std::path::Path| {
        write(upper.join("a/one"), "one");
        write(upper.join("b/two"), "two");
    };
    let first = store.layer(CommitRules::default(), fill);
    std::thread::sleep(Duration::from_millis(20));
    let second = store.layer(CommitRules::default(), |upper| {
        write(upper.join("b/two"), "two");
        write(upper.join("a/one"), "one");
        set_time(upper.join("a/one"), SystemTime::UNIX_EPOCH + Duration::from_secs(5));
    });
    assert_eq!((first.digest, second.bytes_new), (second.digest, 0));
    let third = store.layer(CommitRules::default(), |upper| {
        fill(upper);
        write(upper.join("a/again"), "one");
        write(upper.join("c"), "three");
    });
    assert_eq!(third.bytes_new, 5);
    let inode = |digest, path| std::fs::metadata(store.view(digest, path)).unwrap().ino();
    assert_eq!(inode(&first.digest, "a/one"), inode(&third.digest, "a/one"));
    assert_eq!(inode(&first.digest, "a/one"), inode(&third.digest, "a/again"));
}

#[test]
fn equal_bytes_with_other_modes_or_attributes_are_other_inodes() {
    let store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| {
        for (name, mode) in [("plain", 0o755), ("same", 0o755), ("private", 0o700), ("marked", 0o755)] {
            write(upper.join(name), "bytes");
            std::fs::set_permissions(upper.join(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        set_xattr(upper.join("marked"), "user.origin", b"here");
    });
    let inode = |path| std::fs::metadata(store.view(&committed.digest, path)).unwrap().ino();
    assert_eq!(inode("plain"), inode("same"));
    assert!(inode("plain") != inode("private") && inode("plain") != inode("marked"));
    assert_eq!(xattr(store.view(&committed.digest, "plain"), "user.origin"), None);
    assert_eq!(xattr(store.view(&committed.digest, "marked"), "user.origin").unwrap(), b"here");
}

#[test]
fn hard_links_stay_links() {
    let store = TestStore::new();
    let fill = |upper: &std::path::Path| {
        write(upper.join("b"), "linked");
        std::fs::hard_link(upper.join("b"), upper.join("a")).unwrap();
        std::fs::hard_link(upper.join("b"), upper.join("c")).unwrap();
        write(upper.join("d"), "linked");
    };
    let committed = store.layer(CommitRules::default(), fill);
    assert_eq!((committed.files, committed.bytes_new), (2, 6));
    assert_eq!(store.entry(&committed.digest, "c").unwrap().node, Node::HardLink { target: b"a".to_vec() });
    let other = store.layer(CommitRules::default(), |upper| {
        fill(upper);
        write(upper.join("e"), "more");
    });
    let inode = |path| std::fs::metadata(store.view(&other.digest, path)).unwrap().ino();
    assert_eq!((inode("a"), inode("b"), inode("c")), (inode("d"), inode("d"), inode("d")));
    assert_eq!(inode("a"), std::fs::metadata(store.view(&committed.digest, "a")).unwrap().ino());
}

#[test]
fn overlay_marks_are_stripped_and_planted_ones_stay_inert() {
    let store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| {
        write(upper.join("opaque/file"), "x");
        set_xattr(upper.join("opaque"), "user.overlay.opaque", b"y");
        set_xattr(upper.join("opaque/file"), "user.overlay.origin", b"handle");
        std::fs::create_dir(upper.join("planted")).unwrap();
        set_xattr(upper.join("planted"), "user.overlay.impure", b"y");
        // What a process inside sets as `user.overlay.opaque`, the kernel stores like this.
        set_xattr(upper.join("planted"), "user.overlay.overlay.opaque", b"y");
        write(upper.join("xwhiteout"), "");
        set_xattr(upper.join("xwhiteout"), "user.overlay.whiteout", b"");
    });
    let view = |path| store.view(&committed.digest, path);
    assert_eq!(xattr(view("opaque"), "user.overlay.opaque").unwrap(), b"y");
    assert_eq!(xattr(view("opaque/file"), "user.overlay.origin"), None);
    assert_eq!(xattr(view("planted"), "user.overlay.impure"), None);
    assert_eq!(xattr(view("planted"), "user.overlay.opaque"), None);
    assert_eq!(xattr(view("planted"), "user.overlay.overlay.opaque").unwrap(), b"y");
    assert_eq!(xattr(view("xwhiteout"), "user.overlay.whiteout"), None);
    let Some(Node::Directory { meta, opaque: false }) = store.entry(&committed.digest, "planted").map(|it| it.node)
    else {
        panic!("not a transparent directory");
    };
    assert_eq!(meta.xattrs.into_iter().collect::<Vec<_>>(), [(b"user.overlay.opaque".to_vec(), b"y".to_vec())]);
}

#[test]
fn devices_are_in_the_tree_only_and_sockets_nowhere() {
    let store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| {
        device(upper.join("null"), 1, 3);
        drop(std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap());
    });
    let Some(Node::Device { block: false, major: 1, minor: 3, .. }) =
        store.entry(&committed.digest, "null").map(|entry| entry.node)
    else {
        panic!("not in the tree");
    };
    assert!(!store.view(&committed.digest, "null").exists());
    assert!(store.entry(&committed.digest, "socket").is_none());
    assert!(!store.view(&committed.digest, "socket").exists());
}

#[test]
fn names_are_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let store = TestStore::new();
    let name = std::ffi::OsStr::from_bytes(b"latin-\xe9");
    let committed = store.layer(CommitRules::default(), |upper| write(upper.join(name), "x"));
    assert!(store.tree(&committed.digest).entries().iter().any(|entry| entry.path == name.as_bytes()));
}

#[test]
fn package_scratch_leaves_no_trace() {
    let store = TestStore::new();
    let fill = |upper: &std::path::Path| {
        write(upper.join("usr/bin/tool"), "tool");
        for directory in ["var/log/apt", "var/lib/apt/lists/partial", "var/cache/ldconfig"] {
            std::fs::create_dir_all(upper.join(directory)).unwrap();
        }
        write(upper.join("etc/shadow"), "root:*:10957:0:99999:7:::\n");
    };
    let clean = store.layer(package_step(), fill);
    let dirty = store.layer(package_step(), |upper| {
        fill(upper);
        write(upper.join("var/log/dpkg.log"), "installed at some time");
        write(upper.join("var/log/apt/term.log"), "installed at some time");
        write(upper.join("var/lib/apt/lists/example_InRelease"), "x");
        write(upper.join("var/cache/ldconfig/aux-cache"), "x");
        write(upper.join("etc/shadow"), "root:*:20000:0:99999:7:::\n");
        write(upper.join("etc/passwd-"), "x");
        whiteout(upper.join("var/lib/apt/lists/other_InRelease"));
        // Parents that the lines above touched already exist in the clean run, except this one.
        write(upper.join("var/lib/dpkg/status-old"), "x");
        std::fs::remove_file(upper.join("var/lib/dpkg/status-old")).unwrap();
        std::fs::remove_dir(upper.join("var/lib/dpkg")).unwrap();
    });
    assert_eq!(clean.digest, dirty.digest);
    let kept = store.layer(CommitRules::default(), |upper| {
        write(upper.join("var/log/dpkg.log"), "mine");
    });
    assert!(store.entry(&kept.digest, "var/log/dpkg.log").is_some());
}

#[test]
fn mount_points_are_dropped_while_empty() {
    let store = TestStore::new();
    let drop_empty = ["/mnt/new/deep", "/mnt/new", "/used", "/etc/resolv.conf", "/missing"].map(str::to_owned).to_vec();
    let committed = store.layer(CommitRules { drop_empty, ..CommitRules::default() }, |upper| {
        std::fs::create_dir_all(upper.join("mnt/new/deep")).unwrap();
        write(upper.join("used/file"), "x");
        write(upper.join("etc/resolv.conf"), "");
    });
    let paths: Vec<String> = store
        .tree(&committed.digest)
        .entries()
        .iter()
        .map(|entry| String::from_utf8(entry.path.clone()).unwrap())
        .collect();
    assert_eq!(paths, ["", "etc", "mnt", "used", "used/file"]);
}

#[test]
fn bytecode_stays_valid_for_its_source() {
    let store = TestStore::new();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let bytecode = |seconds: u32, size: u32| {
        let mut bytes = vec![0xa7, 0x0d, b'\r', b'\n', 0, 0, 0, 0];
        bytes.extend(seconds.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend(b"code");
        bytes
    };
    let committed = store.layer(CommitRules::default(), |upper| {
        write(upper.join("m/a.py"), "x = 1\n");
        set_time(upper.join("m/a.py"), time);
        write(upper.join("m/__pycache__/a.cpython-311.pyc"), bytecode(1_700_000_000, 6));
        write(upper.join("m/__pycache__/a.cpython-312.pyc"), bytecode(1_600_000_000, 6));
    });
    let read = |path| std::fs::read(store.view(&committed.digest, path)).unwrap();
    let constant = u32::try_from(LAYER_MTIME).unwrap();
    assert_eq!(read("m/__pycache__/a.cpython-311.pyc"), bytecode(constant, 6));
    assert_eq!(read("m/__pycache__/a.cpython-312.pyc"), bytecode(1_600_000_000, 6));
}

#[test]
fn damage_is_found() {
    let store = TestStore::new();
    let fill = |upper: &std::path::Path| {
        write(upper.join("bin/tool"), "tool");
        write(upper.join("etc/conf"), "conf");
    };
    let committed = store.layer(CommitRules::default(), fill);
    let path = store.view(&committed.digest, "bin/tool");
    std::fs::write(&path, "t00l").unwrap();
    write(store.view(&committed.digest, "stray"), "x");
    std::fs::remove_file(store.view(&committed.digest, "etc/conf")).unwrap();
    let problems = store.verify(&committed.digest).unwrap().join("\n");
    for expected in
        ["`/bin/tool` has other bytes", "`/bin/tool` has no sound object", "`/stray`", "`/etc/conf` is missing"]
    {
        assert!(problems.contains(expected), "{expected} not in {problems}");
    }
    // The object's time is no longer the layer time: nobody trusts it, and the next commit puts a sound one in its place.
    let again = store.layer(CommitRules::default(), |upper| {
        fill(upper);
        write(upper.join("new"), "new");
    });
    assert_eq!(std::fs::read(store.view(&again.digest, "bin/tool")).unwrap(), b"tool");
}

#[test]
fn a_truncated_object_is_replaced() {
    let store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| write(upper.join("file"), "contents"));
    let path = store.view(&committed.digest, "file");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(3).unwrap();
    set_time(&path, SystemTime::UNIX_EPOCH + Duration::from_secs(LAYER_MTIME.cast_unsigned()));
    store.layer(CommitRules::default(), |upper| {
        write(upper.join("file"), "contents");
        write(upper.join("other"), "x");
    });
}

#[test]
fn deep_directories_can_be_discarded() {
    let store = TestStore::new();
    let work = store.new_work().unwrap();
    let name = "d".repeat(200);
    let mut directory = std::fs::File::open(store.upper(&work)).unwrap();
    for _ in 0..100 {
        rustix::fs::mkdirat(&directory, &name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
        let opened = rustix::fs::openat(&directory, &name, flags, rustix::fs::Mode::empty());
        directory = opened.unwrap().into();
    }
    let error = store.commit(&work, CommitRules::default()).unwrap_err().to_string();
    assert!(error.contains("ddd"), "{error}");
    store.discard(work).unwrap();
    assert!(store.names("work").iter().all(|name| name.ends_with("-temporary")));
}
