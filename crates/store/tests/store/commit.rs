//! Committing uppers.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use lamina_image::Digest;
use lamina_store::tree::Node;
use lamina_store::{CommitRules, Committed, Exclude, Metadata, ObjectName, Timestamp};

use crate::support::*;

fn package_step() -> CommitRules {
    let exclude = Exclude {
        files: ["etc/passwd-", "var/cache/ldconfig/aux-cache", "var/log/dpkg.log"].map(str::to_owned).into(),
        below: ["var/lib/apt/lists", "var/log/apt"].map(str::to_owned).into(),
        endings: vec![("var/cache/apt".to_owned(), ".bin".to_owned())],
    };
    CommitRules { exclude, constant_password_days: true, package_times: true, drop_empty: Vec::new() }
}

#[test]
fn an_upper_becomes_a_view_with_objects_and_its_times() {
    const PATHS: [&str; 8] =
        ["pipe", "etc/tool.conf", "usr/bin/alias", "usr/bin/tool", "usr/bin", "usr/empty", "usr", ""];
    let store = TestStore::new();
    let fill = |upper: &std::path::Path| {
        write(upper.join("usr/bin/tool"), "#!/bin/sh\n");
        std::fs::set_permissions(upper.join("usr/bin/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
        symlink("tool", upper.join("usr/bin/alias")).unwrap();
        write(upper.join("usr/empty"), "");
        write(upper.join("etc/tool.conf"), "x = 1\n");
        fifo(upper.join("pipe"));
        whiteout(upper.join("gone"));
        for (index, path) in PATHS.iter().enumerate() {
            set_time(upper.join(path), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + index as u64));
        }
    };
    let committed = store.layer(CommitRules::default(), fill);
    assert_eq!((committed.files, committed.bytes, committed.bytes_new), (3, 16, 16));
    for (index, path) in PATHS.iter().enumerate() {
        let metadata = std::fs::symlink_metadata(store.view(&committed.digest, path)).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000 + i64::try_from(index).unwrap(), 0), "{path}");
    }
    let packages = store.layer(package_step(), fill);
    for path in PATHS {
        let metadata = std::fs::symlink_metadata(store.view(&packages.digest, path)).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (Timestamp::PACKAGE.seconds, 0), "{path}");
    }
    assert_eq!(packages.content, committed.content, "times are no part of what a layer holds");
    assert_ne!(packages.digest, committed.digest, "but of what it is");
    let links = |path| std::fs::symlink_metadata(store.view(&committed.digest, path)).unwrap().nlink();
    let of_tool = if store.links_objects() { 2 } else { 1 };
    assert_eq!((links("usr/bin/tool"), links("usr/empty"), links("etc/tool.conf")), (of_tool, 1, 1));
    let gone = store.view(&committed.digest, "gone");
    let gone = if store.redirects(&committed.digest) {
        store.content(format!("whiteouts/{}/gone", committed.digest))
    } else {
        gone
    };
    assert!(std::fs::symlink_metadata(gone).unwrap().file_type().is_char_device());
    let marked = |layer: &Committed| xattr(store.view(&layer.digest, ""), "user.overlay.lamina.whiteouts").is_some();
    assert_eq!(marked(&committed), store.redirects(&committed.digest));
    assert!(!marked(&store.layer(CommitRules::default(), |upper| write(upper.join("only/this"), "x"))));
    let Some(Node::File { meta, .. }) = store.entry(&committed.digest, "usr/bin/tool").map(|entry| entry.node) else {
        panic!("not a file");
    };
    let modified = Timestamp { seconds: 1_003, nanoseconds: 0 };
    assert_eq!(meta, Metadata { modified, ..Metadata::root_owned(0o4755) });
    assert_eq!(store.entry(&committed.digest, "gone").unwrap().node, Node::Whiteout);
}

#[test]
fn equal_uppers_have_equal_content_and_share_all_bytes() {
    let store = TestStore::new();
    let fill = |upper: &std::path::Path| {
        write(upper.join("a/one"), "one");
        write(upper.join("b/two"), "two");
    };
    let first = store.layer(CommitRules::default(), fill);
    let second = store.layer(CommitRules::default(), |upper| {
        write(upper.join("b/two"), "two");
        write(upper.join("a/one"), "one");
        set_time(upper.join("a/one"), SystemTime::UNIX_EPOCH + Duration::from_secs(5));
    });
    assert_eq!((first.content, second.bytes_new), (second.content, 0));
    let time = |digest| std::fs::metadata(store.view(digest, "a/one")).unwrap().mtime();
    assert_eq!(time(&second.digest), 5, "each has the times of its own");
    assert!(time(&first.digest) > 5);
    let (one, other) = (store.layer(package_step(), fill), store.layer(package_step(), fill));
    assert_eq!((one.digest, other.bytes_new), (other.digest, 0), "equal packages are one layer");
    let third = store.layer(CommitRules::default(), |upper| {
        fill(upper);
        write(upper.join("a/again"), "one");
        write(upper.join("c"), "three");
    });
    assert_eq!(third.bytes_new, 5);
}

#[test]
fn a_path_is_a_file_of_its_own_unless_somebody_linked_it() {
    let store = TestStore::new();
    let fill = |upper: &std::path::Path| {
        for path in ["first", "second", "etc/third", "private"] {
            write(upper.join(path), "equal bytes");
        }
        std::fs::set_permissions(upper.join("private"), PermissionsExt::from_mode(0o600)).unwrap();
        set_xattr(upper.join("second"), "user.origin", b"here");
        std::fs::hard_link(upper.join("first"), upper.join("linked")).unwrap();
    };
    let one = store.layer(CommitRules::default(), fill);
    let other = store.layer(CommitRules::default(), |upper| {
        fill(upper);
        write(upper.join("more"), "more");
    });
    assert_eq!(other.bytes_new, 4);
    let mut inodes = std::collections::HashSet::new();
    for layer in [&one, &other] {
        for path in ["first", "second", "etc/third", "private"] {
            assert!(inodes.insert(inode(store.view(&layer.digest, path))), "`{path}` is another file, too");
            assert_eq!(store.read(&layer.digest, path), b"equal bytes");
        }
        let metadata = |path| std::fs::metadata(store.view(&layer.digest, path)).unwrap();
        assert_eq!(metadata("linked").ino(), metadata("first").ino());
        assert_eq!((metadata("linked").nlink(), metadata("etc/third").nlink()), (2, 1));
        assert_eq!(metadata("private").mode() & 0o7777, 0o600);
        assert_eq!(xattr(store.view(&layer.digest, "first"), "user.origin"), None);
        assert_eq!(xattr(store.view(&layer.digest, "second"), "user.origin").unwrap(), b"here");
        assert_eq!(store.entry(&layer.digest, "linked").unwrap().node, Node::HardLink { target: b"first".to_vec() });
    }
}

#[test]
fn what_a_view_gave_up_has_nothing_of_it_left() {
    let store = TestStore::new();
    let capable = store.layer(CommitRules::default(), |upper| {
        write(upper.join("tool"), "bytes of the tool");
        std::fs::set_permissions(upper.join("tool"), PermissionsExt::from_mode(0o4755)).unwrap();
        set_xattr(upper.join("tool"), "user.overlay.overlay.opaque", b"y");
        set_xattr(upper.join("tool"), "user.origin", b"here");
    });
    std::fs::remove_dir_all(store.content(store.view_path(&capable.digest))).unwrap();
    let plain = store.layer(CommitRules::default(), |upper| write(upper.join("a"), "bytes of the tool"));
    assert_eq!(plain.bytes_new, 0);
    assert_eq!(xattr(store.view(&plain.digest, "a"), "user.origin"), None);
    assert_eq!(std::fs::metadata(store.view(&plain.digest, "a")).unwrap().mode() & 0o7000, 0);
}

#[test]
fn many_equal_files_are_no_matter() {
    let store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| {
        for index in 0..2000 {
            let path = upper.join(format!("{}/{index}", index / 100));
            if index % 100 == 0 {
                std::fs::create_dir(path.parent().unwrap()).unwrap();
            }
            std::fs::write(path, "equal").unwrap();
        }
    });
    assert_eq!((committed.files, committed.bytes, committed.bytes_new), (2000, 10_000, 5));
}

#[test]
fn holes_stay_holes() {
    let store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| {
        let file = std::fs::File::create(upper.join("disk")).unwrap();
        file.set_len(20 << 30).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", 10 << 30).unwrap();
    });
    assert!(committed.bytes < 1 << 20 && committed.bytes_new < 1 << 20, "holes do not count");
    let metadata = std::fs::metadata(store.bytes(&committed.digest, "disk")).unwrap();
    assert_eq!(metadata.len(), 20 << 30);
    assert!(metadata.blocks() * 512 < 1 << 20);
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
    // What an overlay shows to another one has one more `overlay.` in its name.
    let [opaque, planted] = if store.redirects(&committed.digest) {
        ["user.overlay.overlay.opaque", "user.overlay.overlay.overlay.opaque"]
    } else {
        ["user.overlay.opaque", "user.overlay.overlay.opaque"]
    };
    assert_eq!(xattr(view("opaque"), opaque).unwrap(), b"y");
    assert_eq!(xattr(view("opaque/file"), "user.overlay.origin"), None);
    assert_eq!(xattr(view("planted"), "user.overlay.impure"), None);
    assert_eq!(xattr(view("planted"), opaque), None);
    assert_eq!(xattr(view("planted"), planted).unwrap(), b"y");
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
    let fill = |upper: &std::path::Path| {
        write(upper.join("m/a.py"), "x = 1\n");
        set_time(upper.join("m/a.py"), time);
        write(upper.join("m/__pycache__/a.cpython-311.pyc"), bytecode(1_700_000_000, 6));
        write(upper.join("m/__pycache__/a.cpython-312.pyc"), bytecode(1_600_000_000, 6));
    };
    let constant = u32::try_from(Timestamp::PACKAGE.seconds).unwrap();
    // Where sources get the time of packages, the bytecode that was valid for them does, too.
    for (rules, valid) in [(package_step(), constant), (CommitRules::default(), 1_700_000_000)] {
        let committed = store.layer(rules, fill);
        assert_eq!(store.read(&committed.digest, "m/__pycache__/a.cpython-311.pyc"), bytecode(valid, 6));
        assert_eq!(store.read(&committed.digest, "m/__pycache__/a.cpython-312.pyc"), bytecode(1_600_000_000, 6));
    }
}

#[test]
fn the_second_of_a_source_with_bytecode_is_over_when_its_layer_is_there() {
    let store = TestStore::new();
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut written = 0;
    store.layer(CommitRules::default(), |upper| {
        write(upper.join("m/a.py"), "x = 1\n");
        write(upper.join("m/__pycache__/a.cpython-311.pyc"), "bytecode");
        written = seconds(std::fs::metadata(upper.join("m/a.py")).unwrap().modified().unwrap());
    });
    assert!(seconds(SystemTime::now()) > written);
}

#[test]
fn damage_is_found() {
    let store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| {
        write(upper.join("bin/tool"), "tool");
        write(upper.join("etc/conf"), "conf");
    });
    std::fs::write(store.bytes(&committed.digest, "bin/tool"), "t00l").unwrap();
    write(store.view(&committed.digest, "stray"), "x");
    std::fs::remove_file(store.view(&committed.digest, "etc/conf")).unwrap();
    let problems = store.verify(&committed.digest).unwrap().join("\n");
    let tool = if store.redirects(&committed.digest) { "has no sound object" } else { "has other bytes" };
    for expected in [&format!("`/bin/tool` {tool}"), "`/stray`", "`/etc/conf` is missing"] {
        assert!(problems.contains(expected), "{expected} not in {problems}");
    }
}

#[test]
fn a_truncated_object_is_replaced() {
    let store = TestStore::new();
    let committed = store.layer(CommitRules::default(), |upper| write(upper.join("file"), "contents"));
    let object = store.content(ObjectName::new(&Digest::of(b"contents")).path());
    std::fs::File::options().write(true).open(&object).unwrap().set_len(3).unwrap();
    assert!(!store.verify(&committed.digest).unwrap().is_empty());
    let again = store.layer(CommitRules::default(), |upper| {
        write(upper.join("file"), "contents");
        write(upper.join("other"), "x");
    });
    assert_eq!(std::fs::read(&object).unwrap(), b"contents");
    assert_eq!(store.read(&again.digest, "file"), b"contents");
}

#[test]
fn digests_that_begin_alike_are_refused() {
    let store = TestStore::new();
    store.layer(CommitRules::default(), |upper| write(upper.join("file"), "contents"));
    let object = store.content(ObjectName::new(&Digest::of(b"contents")).path());
    let seal = [&Digest::of(b"another").as_bytes()[..], &[0; 12]].concat();
    set_xattr(&object, "user.overlay.lamina", &seal);
    let work = store.new_work().unwrap();
    write(store.upper(&work).join("file"), "contents");
    let error = store.commit(&work, CommitRules::default()).unwrap_err().to_string();
    assert!(error.contains("begin alike"), "{error}");
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
