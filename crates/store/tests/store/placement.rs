//! Local files over an image: what is there stays, links are followed, and nothing takes another's place.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use lamina_ground::Stack;
use lamina_image::{Digest, FileEntry, FileKind, FileSet};
use lamina_store::tree::Node;
use lamina_store::{CommitRules, Placed};

use crate::support::*;

fn file_set(source: &Path, target: &str) -> FileSet {
    FileSet { entries: vec![FileEntry { kind: FileKind::File, ..directory_entry(source, target) }] }
}

/// An image with a merged `/usr`, a directory of its own, and links.
fn image(store: &TestStore) -> Stack<Digest> {
    let base = store.layer(CommitRules::default(), |upper| {
        write(upper.join("usr/bin/sh"), "sh");
        write(upper.join("etc/settings/x"), "x");
        write(upper.join("v1/old"), "old");
        write(upper.join("secret/p/here"), "here");
        for (target, link) in [
            ("usr/bin", "bin"),
            ("v1", "current"),
            ("../etc/settings", "usr/settings"),
            ("two", "one"),
            ("one", "two"),
            ("/etc/settings/x", "to-file"),
            ("usr/bin/sh", "shell"),
        ] {
            symlink(target, upper.join(link)).unwrap();
        }
        for (path, mode) in [("secret", 0o711), ("secret/p", 0o700)] {
            chown(upper.join(path), Some(1000), Some(1000)).unwrap();
            std::fs::set_permissions(upper.join(path), PermissionsExt::from_mode(mode)).unwrap();
        }
        set_xattr(upper.join("secret/p"), "user.note", b"kept");
    });
    let above = store.layer(CommitRules::default(), |upper| {
        std::fs::create_dir(upper.join("usr")).unwrap();
        std::fs::set_permissions(upper.join("usr"), PermissionsExt::from_mode(0o775)).unwrap();
        whiteout(upper.join("v1"));
    });
    Stack::from_bottom_up([base.digest, above.digest])
}

/// Files and directories of a tree, files with a slash before their paths.
fn shape(store: &TestStore, digest: &Digest) -> Vec<String> {
    let tree = store.tree(digest);
    let entry = |entry: &lamina_store::tree::Entry| {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        if matches!(entry.node, Node::Directory { .. }) { path } else { format!("/{path}") }
    };
    tree.entries().iter().skip(1).map(entry).collect()
}

#[test]
fn directories_of_the_image_stay_as_they_are() {
    let store = TestStore::new();
    let image = image(&store);
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("p/a.txt"), "a");
    write(local.path().join("new/b.txt"), "b");
    let set = directory_set(local.path(), "/secret");
    let shown = store.file_set(&set, &image).unwrap();
    let layer = store.file_set_layer(&set, &image).unwrap();
    assert_eq!(shown.digest, Some(layer.digest));
    assert_eq!(store.verify(&layer.digest).unwrap(), Vec::<String>::new());
    let status = |path: &str| {
        let metadata = std::fs::metadata(store.view(&layer.digest, path)).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    assert_eq!(status("secret"), (0o711, 1000, 1000));
    assert_eq!(status("secret/p"), (0o700, 1000, 1000));
    assert_eq!(status("secret/new"), (0o755, 0, 0));
    assert_eq!(xattr(store.view(&layer.digest, "secret/p"), "user.note").unwrap(), b"kept");
    let usr = store.file_set_layer(&directory_set(local.path(), "/usr"), &image).unwrap();
    assert_eq!(std::fs::metadata(store.view(&usr.digest, "usr")).unwrap().mode() & 0o7777, 0o775);
}

#[test]
fn links_on_the_way_are_followed() {
    let store = TestStore::new();
    let image = image(&store);
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("bin/tool"), "tool");
    write(local.path().join("usr/settings/a"), "a");
    let everywhere = store.file_set(&directory_set(local.path(), "/"), &image).unwrap();
    assert_eq!(
        shape(&store, &everywhere.digest.unwrap()),
        ["etc", "etc/settings", "/etc/settings/a", "usr", "usr/bin", "/usr/bin/tool"]
    );
    let tool = local.path().join("bin/tool");
    for (target, expected) in [
        ("/bin/tool", vec!["usr", "usr/bin", "/usr/bin/tool"]),
        ("/usr/settings/deep/tool", vec!["etc", "etc/settings", "etc/settings/deep", "/etc/settings/deep/tool"]),
        // What a link leads to may be missing, as it is after the upper layer's whiteout.
        ("/current/tool", vec!["v1", "/v1/tool"]),
        // A file that is given by name goes where the link leads.
        ("/shell", vec!["usr", "usr/bin", "/usr/bin/sh"]),
    ] {
        let view = store.file_set(&file_set(&tool, target), &image).unwrap();
        assert_eq!(shape(&store, &view.digest.unwrap()), expected, "{target}");
    }
}

#[test]
fn a_file_of_a_directory_replaces_a_link_to_a_file() {
    let store = TestStore::new();
    let image = image(&store);
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("shell"), "mine");
    let view = store.file_set(&directory_set(local.path(), "/"), &image).unwrap();
    assert_eq!(shape(&store, &view.digest.unwrap()), ["/shell"]);
}

#[test]
fn nothing_takes_the_place_of_a_directory_and_no_directory_that_of_a_file() {
    let store = TestStore::new();
    let image = image(&store);
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("file"), "x");
    write(local.path().join("as-file/settings"), "x");
    write(local.path().join("as-link/current"), "x");
    write(local.path().join("as-directory/x/y"), "x");
    let single = |target: &str| file_set(&local.path().join("file"), target);
    let several = |name: &str, target: &str| directory_set(&local.path().join(name), target);
    for (set, words) in [
        (single("/etc/settings"), "the image has a directory there; write `/etc/settings/` to put the file into it"),
        (single("/bin"), "as `/bin`: the image has a directory there"),
        (single("/one/x"), "the link `/one` of the image leads in a circle"),
        (single("/one"), "the link `/one` of the image leads in a circle"),
        (single("/to-file/x"), "`/etc/settings/x` is a file in the image, not a directory"),
        (single("/usr/bin/sh/x"), "`/usr/bin/sh` is a file in the image, not a directory"),
        (several("as-file", "/etc"), "as `/etc/settings`: the image has a directory there; rename the file"),
        (several("as-directory", "/etc/settings"), "`/etc/settings/x` is a file in the image, not a directory"),
    ] {
        for error in [store.file_set(&set, &image).unwrap_err(), store.file_set_layer(&set, &image).unwrap_err()] {
            assert!(error.to_string().contains(words), "{error} says not: {words}");
        }
    }
    // Where the link leads nowhere, there is no directory that a file could hide.
    store.file_set(&several("as-link", "/"), &image).unwrap();
}

#[test]
fn of_paths_that_lead_to_the_same_place_the_last_source_wins() {
    let store = TestStore::new();
    let image = image(&store);
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("first"), "first");
    write(local.path().join("second"), "second");
    for order in [["/usr/bin/tool", "/bin/tool"], ["/bin/tool", "/usr/bin/tool"]] {
        let names = ["first", "second"].map(|name| local.path().join(name));
        let entries = names.iter().zip(order).flat_map(|(name, target)| file_set(name, target).entries).collect();
        let view = store.file_set(&FileSet { entries }, &image).unwrap();
        assert_eq!(store.read(&view.digest.unwrap(), "usr/bin/tool"), b"second");
    }
}

#[test]
fn a_set_is_remembered_over_every_image() {
    let store = TestStore::new();
    let image = image(&store);
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("p/a.txt"), "a");
    settle();
    let set = directory_set(local.path(), "/secret");
    let first = store.file_set(&set, &image).unwrap();
    let other = store.file_set(&set, &Stack::new()).unwrap();
    assert_ne!(first.digest, other.digest);
    // What is remembered needs no trees of the image.
    for layer in image.bottom_up() {
        std::fs::remove_file(store.content("trees").join(layer.hex())).unwrap();
    }
    assert_eq!(store.file_set(&set, &image).unwrap(), lamina_store::FileSetView { read: 0, ..first });
    assert_eq!(store.file_set(&set, &Stack::new()).unwrap(), lamina_store::FileSetView { read: 0, ..other });
    write(local.path().join("p/b.txt"), "b");
    let error = store.file_set(&set, &image).unwrap_err().to_string();
    assert!(error.contains("a layer's tree is missing"), "{error}");
}

#[test]
fn what_mounts_would_hide_is_refused() {
    let store = TestStore::new();
    let local = tempfile::tempdir().unwrap();
    write(local.path().join("file"), "x");
    for target in ["/proc/x", "/sys/x", "/dev/shm/x"] {
        let set = file_set(&local.path().join("file"), target);
        let error = store.file_set(&set, &Stack::new()).unwrap_err().to_string();
        assert!(error.contains(target) && error.contains("choose another path"), "{error}");
    }
    store.file_set(&file_set(&local.path().join("file"), "/devices/x"), &Stack::new()).unwrap();
}

#[test]
fn links_and_mount_points_lie_over_what_is_there() {
    let store = TestStore::new();
    let image = image(&store);
    let link = |target: &str| Placed::OwnLink(target.to_owned());
    let placed = [
        ("/bin/tool", link("sh")),
        ("/shell", link("usr/bin/tool")),
        ("/one", link("/etc/settings/x")),
        ("/usr/settings/mounted", Placed::Empty),
        ("/etc/settings/x", Placed::Empty),
        ("/opt/new/mounted", Placed::Empty),
    ]
    .map(|(path, placed)| (path.to_owned(), placed));
    let layer = store.placed_layer(&placed, &image).unwrap().digest;
    assert_eq!(store.verify(&layer).unwrap(), Vec::<String>::new());
    let expected = [
        "etc",
        "etc/settings",
        "/etc/settings/mounted",
        "/one",
        "opt",
        "opt/new",
        "/opt/new/mounted",
        "/shell",
        "usr",
        "usr/bin",
        "/usr/bin/tool",
    ];
    assert_eq!(shape(&store, &layer), expected);
    assert!(
        matches!(store.entry(&layer, "one").unwrap().node, Node::Symlink { target, .. } if target == b"/etc/settings/x")
    );
    let refused = |path: &str| store.placed_layer(&[(path.to_owned(), link("x"))], &image).unwrap_err().to_string();
    assert!(refused("/etc/settings").contains("it is a directory in the image"));
    assert!(refused("/shell/below").contains("is a file in the image"));
}
