//! Stores as released programs left them: `tests/data/format-N` holds one of each format, and is never written again.

use std::fs::Permissions;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use lamina_events::CancelToken;
use lamina_image::{Digest, LayerKey};
use lamina_store::{CommitRules, Policy};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::*;

/// A file of a fixture; its listing has one line for each, parents first.
#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    path: String,
    #[serde(flatten)]
    kind: Kind,
    mode: u32,
    time: (i64, i64),
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<(String, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Directory(()),
    Text(String),
    /// Bytes in hexadecimal digits.
    Bytes(String),
    /// A file of so many zeros.
    Zeros(usize),
    /// Another name of an earlier file.
    HardLink(String),
    SymbolicLink(String),
    NamedPipe(()),
    Whiteout(()),
}

fn fixture(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/format-{format}"))
}

/// Lays the store of a format out at `root`.
fn restore(format: u32, root: &Path) {
    let listing = std::fs::read_to_string(fixture(format).join("files.jsonl")).unwrap();
    let files: Vec<Listed> = listing.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for file in &files {
        let path = root.join(&file.path);
        match &file.kind {
            Kind::Directory(()) => std::fs::create_dir(&path).unwrap(),
            Kind::Text(text) => std::fs::write(&path, text).unwrap(),
            Kind::Bytes(digits) => std::fs::write(&path, HEXLOWER.decode(digits.as_bytes()).unwrap()).unwrap(),
            Kind::Zeros(size) => std::fs::write(&path, vec![0; *size]).unwrap(),
            Kind::HardLink(target) => std::fs::hard_link(root.join(target), &path).unwrap(),
            Kind::SymbolicLink(target) => symlink(target, &path).unwrap(),
            Kind::NamedPipe(()) => fifo(&path),
            Kind::Whiteout(()) => whiteout(&path),
        }
        for (name, value) in &file.attributes {
            set_xattr(&path, name, &HEXLOWER.decode(value.as_bytes()).unwrap());
        }
        if !path.is_symlink() {
            std::fs::set_permissions(&path, Permissions::from_mode(file.mode)).unwrap();
        }
    }
    // What is made in a directory changes its time.
    for file in files.iter().rev() {
        let time = Timespec { tv_sec: file.time.0, tv_nsec: file.time.1 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, root.join(&file.path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    let index = rusqlite::Connection::open(root.join("index.db")).unwrap();
    index.execute_batch(&std::fs::read_to_string(fixture(format).join("index.sql")).unwrap()).unwrap();
}

fn opened(format: u32) -> (tempfile::TempDir, TestStore) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    restore(format, &root);
    let store = TestStore::open(&root);
    (directory, store)
}

/// Fills an upper.
type Fill = fn(&Path);

/// The layers of the fixtures, bottom first: what they hold, and the rows that their steps recorded.
fn layers() -> [(Fill, serde_json::Value); 4] {
    let base = json!({
        "key": Digest::of(b"base"), "title": "debian_slim(python_version=\"3.11\")", "created": 1_795_889_415,
        "log": "1795889415-3617f6a15155-1.log", "seconds": 11.284_232_41, "files": 5, "bytes": 60, "bytes_new": 60,
        "facts": {
            "architecture": "amd64", "interpreter": "/usr/bin/python3", "packages": 126,
            "environment": [["PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], ["LANG", "C.UTF-8"]],
            "packages_digest": "e8b3d3aeb9bc5d50b7d4d94cafd59a001d0bb3f17dac752639b80d63c7d976ad", "python": "3.11",
            "python_version": "3.11.2", "released": 1_795_745_432, "scripts": "/usr/local/bin",
            "site_packages": "/usr/local/lib/python3.11/dist-packages", "suite": "bookworm",
        },
        "material": {
            "architecture": "x86_64", "builder_version": 2, "kind": "debian_slim", "python": "debian", "secrets": [],
            "parent": Digest::of(b""), "series": "3.11", "suite": "bookworm",
            "config": { "environment": {}, "working_directory": null },
        },
    });
    let above = |key: &str, title: &str, kind: &str| {
        json!({
            "key": Digest::of(key.as_bytes()), "title": title, "created": 1_795_889_500, "log": null, "seconds": 0.5,
            "files": 3, "bytes": 30, "bytes_new": 30, "facts": null,
            "material": { "architecture": "x86_64", "builder_version": 2, "kind": kind, "parent": Digest::of(b"base") },
        })
    };
    [
        (base_files, base),
        (package_files, above("packages", "uv_pip_install(\"demo\")", "uv_pip_install")),
        (changed_files, above("commands", "run_commands(…)", "run_commands")),
        (linked_files, above("links", "run_commands(\"ln …\")", "run_commands")),
    ]
}

const MODULE: &str = "ANSWER = 42\n";

fn base_files(upper: &Path) {
    write(upper.join("usr/bin/tool"), "#!/bin/sh\necho tool\n");
    std::fs::set_permissions(upper.join("usr/bin/tool"), Permissions::from_mode(0o4755)).unwrap();
    write(upper.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
    write(upper.join("etc/empty"), "");
    write(upper.join("etc/old/settings"), "old");
    symlink("usr/bin", upper.join("bin")).unwrap();
}

fn package_files(upper: &Path) {
    let site = upper.join("usr/local/lib/python3.11/dist-packages");
    write(site.join("demo.py"), MODULE);
    write(site.join("demo-1.0.dist-info/WHEEL"), "Wheel-Version: 1.0\n");
}

fn changed_files(upper: &Path) {
    write(upper.join("etc/old/new"), "new");
    set_xattr(upper.join("etc/old"), "user.overlay.opaque", b"y");
    whiteout(upper.join("etc/passwd"));
    write(upper.join("srv/data"), [0xff, 0, 1, 2]);
    set_xattr(upper.join("srv/data"), "user.note", b"mine");
    set_xattr(upper.join("srv/data"), "user.overlay.overlay.note", b"an overlay's, inside");
}

fn linked_files(upper: &Path) {
    write(upper.join("srv/links/one"), "one file, two names");
    std::fs::hard_link(upper.join("srv/links/one"), upper.join("srv/links/two")).unwrap();
    fifo(upper.join("srv/links/pipe"));
}

/// The formats whose stores are kept as they are. Each fixture has an image, a kept package, a session that died, an app, a
/// download, and a cache.
const KEPT: [u32; 2] = [2, 3];

#[test]
fn stores_of_kept_formats_are_read() {
    KEPT.into_iter().for_each(is_read);
}

fn is_read(format: u32) {
    let (directory, store) = opened(format);
    let images = store.list_images().unwrap();
    assert_eq!(images.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), ["im-epQ78K6pAzifgA6y7NJeoM"]);
    let image = &images[0];
    assert_eq!(image.config.environment["LANG"], "C.UTF-8");
    assert_eq!((image.layers.len(), image.logs.len(), image.created), (4, 1, 1_795_889_426));
    for ((key, digest), (fill, row)) in image.keys.iter().zip(image.layers.bottom_up()).zip(layers()) {
        let record = store.find_layer(key).unwrap().unwrap();
        assert_eq!(record.digest, *digest);
        assert_eq!(serde_json::to_value(&record).unwrap()["title"], row["title"]);
        assert_eq!(store.verify(digest).unwrap(), Vec::<String>::new());
        // The encoding of trees and the names of objects are still the same.
        let again = store.layer(CommitRules::default(), fill);
        assert_eq!((again.content, again.bytes_new), (record.content, 0));
    }
    assert_eq!(store.read(image.layers.bottom().unwrap(), "usr/bin/tool"), b"#!/bin/sh\necho tool\n");
    let checked = store.check(None, &CancelToken::new(), &|_, _| ()).unwrap();
    assert!(!checked.is_damaged(), "{:?}", checked.damages);
    // The work and the lock of the session that died are gone.
    assert!(!store.names("work").iter().any(|name| name.starts_with("0123456789abcdef")));
    assert!(!store.root.join("locks/session-0123456789abcdef").exists());
    drop(directory);
}

#[test]
fn stores_of_kept_formats_are_collected() {
    KEPT.into_iter().for_each(is_collected);
}

fn is_collected(format: u32) {
    let (_directory, store) = opened(format);
    let unused = Policy { unused_for: Some(Duration::ZERO), ..Policy::default() };
    assert_eq!(store.collect(&unused, &CancelToken::new(), &|| ()).unwrap().images.len(), 1);
    for directory in ["trees", "outlines", "views", "copies", "whiteouts"] {
        assert_eq!(store.names(directory), Vec::<String>::new(), "{directory}");
    }
}

/// Rows gain fields, and may lose them: what this program cannot read of one is no reason to give up the others.
#[test]
fn rows_of_other_versions_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    restore(KEPT[KEPT.len() - 1], &root);
    let index = rusqlite::Connection::open(root.join("index.db")).unwrap();
    // Every row has a field that a later version added; one layer and one image lack what nobody can do without.
    for table in ["layers", "images"] {
        index.execute(&format!("UPDATE {table} SET record = json_set(record, '$.later', 1)"), []).unwrap();
    }
    let packages = LayerKey(Digest::of(b"packages"));
    let lose = "UPDATE layers SET record = json_remove(record, '$.digest') WHERE key = ?1";
    assert_eq!(index.execute(lose, [packages.to_string()]).unwrap(), 1);
    index.execute("INSERT INTO images VALUES ('im-other', 9, '{\"id\":\"im-other\"}')", []).unwrap();
    drop(index);
    let store = TestStore::open(&root);
    assert!(store.find_layer(&LayerKey(Digest::of(b"base"))).unwrap().is_some());
    assert_eq!(store.find_layer(&packages).unwrap(), None);
    assert_eq!(store.recent_layers("uv_pip_install", 5).unwrap(), []);
    assert_eq!(store.list_images().unwrap().len(), 1);
    assert_eq!(store.find_image("im-other").unwrap(), None);
    store.collect(&Policy::default(), &CancelToken::new(), &|| ()).unwrap();
}

/// Writes the fixture of the present format: once, when a format is new. Those of earlier programs stay as they are.
#[test]
#[ignore = "writes a fixture instead of testing anything"]
fn write_the_fixture() {
    let mut store = TestStore::new();
    let format: serde_json::Value =
        serde_json::from_slice(&std::fs::read(store.root.join("format.json")).unwrap()).unwrap();
    let target = fixture(u32::try_from(format["format"].as_u64().unwrap()).unwrap());
    std::fs::create_dir_all(&target).unwrap();
    let mut rows = Vec::new();
    for (fill, mut row) in layers() {
        let committed = store.layer(CommitRules::default(), fill);
        row["digest"] = json!(committed.digest);
        row["content"] = json!(committed.content);
        rows.push(row);
    }
    store.close();
    write_index(&store.root, &rows);
    write_beside_layers(&store.root, &rows[0]["digest"]);
    std::fs::write(target.join("index.sql"), dump_index(&store.root)).unwrap();
    let mut lines = String::new();
    list(&store.root, Path::new(""), &mut Vec::new(), &mut lines);
    std::fs::write(target.join("files.jsonl"), lines).unwrap();
}

fn write_index(root: &Path, rows: &[serde_json::Value]) {
    let index = rusqlite::Connection::open(root.join("index.db")).unwrap();
    let field = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap().to_owned();
    for row in rows {
        let created = row["created"].as_i64().unwrap();
        let columns = (field(row, "key"), field(row, "title"), created, row.to_string());
        index.execute("INSERT INTO layers VALUES (?1, ?2, ?3, ?4)", columns).unwrap();
    }
    let of_rows = |name: &str| rows.iter().map(|row| field(row, name)).collect::<Vec<_>>();
    let image = json!({
        "id": "im-epQ78K6pAzifgA6y7NJeoM", "layers": of_rows("digest"), "keys": of_rows("key"), "bytes": 150,
        "config": { "environment": { "LANG": "C.UTF-8" }, "working_directory": "/srv" },
        "title": "run_commands(\"ln …\")", "created": 1_795_889_426, "last_used": 1_795_889_431,
        "logs": [["debian_slim(python_version=\"3.11\")", "1795889415-3617f6a15155-1.log"]],
    });
    let columns = (field(&image, "id"), 1_795_889_431, image.to_string());
    index.execute("INSERT INTO images VALUES (?1, ?2, ?3)", columns).unwrap();
}

fn write_beside_layers(root: &Path, base: &serde_json::Value) {
    let wheel = "5".repeat(64);
    let module = Digest::of(MODULE.as_bytes());
    let manifest = json!({
        "dist_info": "demo-1.0.dist-info", "entry_points": [{ "name": "demo", "module": "demo", "function": "main" }],
        "files": [
            { "path": "demo-1.0.dist-info/WHEEL", "digest": Digest::of(b"Wheel-Version: 1.0\n"), "mode": 420, "size": 19,
              "record": "sha256=pxeNX5JdtCe58PUSYP9upmc7jdRPgvT0Gm9kb1SHlVw" },
            { "path": "demo.py", "digest": module, "mode": 420, "size": MODULE.len(),
              "record": "sha256=xRyR9wPT1LNpbJI8tf7CE-BeddkhU5O--sfy-mo5BN8" },
        ],
    });
    let session = format!("begin 1795889431\nlayer {}\ncache apt\n", base.as_str().unwrap());
    let record = r#"{"version":1,"id":"ap-0123456789abcdefghijkl","name":"demo","reference":"app.py::main","arguments":["--n","5"],"directory":"/home/me","started":1795889431,"number":1}"#;
    for (path, contents) in [
        (format!("content/wheels/{wheel}.json"), manifest.to_string()),
        (
            format!("content/wheels/{wheel}-a38509597199bb5f.json"),
            json!({ "files": { "demo.py": module } }).to_string(),
        ),
        ("content/caches/apt/archives/x.deb".to_owned(), "package".to_owned()),
        ("content/work/0123456789abcdef-0/upper/half".to_owned(), "half".to_owned()),
        ("locks/session-0123456789abcdef".to_owned(), session),
        ("logs/1795889415-3617f6a15155-1.log".to_owned(), "126 packages of bookworm, Python 3.11.2\n".to_owned()),
        (format!("downloads/{wheel}"), "download".to_owned()),
        ("apps/ap-0123456789abcdefghijkl/record.json".to_owned(), record.to_owned()),
        ("apps/ap-0123456789abcdefghijkl/state".to_owned(), format!("{:<63}\n", "ended 0 1795889440")),
        ("apps/ap-0123456789abcdefghijkl/output".to_owned(), "LAMINA-OUTPUT\u{1}\u{1}\u{3}\0\0\0ok\n".to_owned()),
    ] {
        write(root.join(path), contents);
    }
}

/// The index as statements that make it.
fn dump_index(root: &Path) -> String {
    let index = rusqlite::Connection::open(root.join("index.db")).unwrap();
    let version: u32 = index.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let mut statements = format!("PRAGMA user_version = {version};\n");
    let text = |query: &str| -> String {
        let mut statement = index.prepare(query).unwrap();
        let rows: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        rows.join("\n") + "\n"
    };
    statements += &text("SELECT sql || ';' FROM sqlite_schema WHERE type = 'table' ORDER BY name");
    statements += &text(
        "SELECT format('INSERT INTO layers VALUES (%Q, %Q, %d, %Q);', key, title, created, record) FROM layers ORDER BY key",
    );
    statements += &text("SELECT format('INSERT INTO images VALUES (%Q, %d, %Q);', id, last_used, record) FROM images");
    statements
}

/// Lists `directory` below `root`, without what each process makes for itself.
fn list(root: &Path, directory: &Path, inodes: &mut Vec<(u64, String)>, lines: &mut String) {
    let path = root.join(directory);
    let metadata = std::fs::symlink_metadata(&path).unwrap();
    let name = directory.to_str().unwrap().to_owned();
    let earlier = inodes.iter().find(|(inode, _)| *inode == metadata.ino()).map(|(_, name)| name.clone());
    let kind = match metadata.file_type() {
        file_type if file_type.is_dir() => Kind::Directory(()),
        file_type if file_type.is_symlink() => {
            Kind::SymbolicLink(std::fs::read_link(&path).unwrap().to_str().unwrap().to_owned())
        }
        file_type if file_type.is_fifo() => Kind::NamedPipe(()),
        file_type if file_type.is_char_device() => Kind::Whiteout(()),
        _ => earlier.map_or_else(|| contents(&path), Kind::HardLink),
    };
    inodes.push((metadata.ino(), name.clone()));
    let attributes = if metadata.is_dir() || metadata.is_file() { attributes(&path) } else { Vec::new() };
    let time = (metadata.mtime(), metadata.mtime_nsec());
    let listed = Listed { path: name, kind, mode: metadata.mode() & 0o7777, time, attributes };
    lines.push_str(&(serde_json::to_string(&listed).unwrap() + "\n"));
    if metadata.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            if !name.to_str().unwrap().starts_with("index.db") && name != "reserve" {
                list(root, &directory.join(name), inodes, lines);
            }
        }
    }
}

fn contents(path: &Path) -> Kind {
    let bytes = std::fs::read(path).unwrap();
    if !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0) {
        return Kind::Zeros(bytes.len());
    }
    String::from_utf8(bytes).map_or_else(|error| Kind::Bytes(HEXLOWER.encode(error.as_bytes())), Kind::Text)
}

fn attributes(path: &Path) -> Vec<(String, String)> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::listxattr(path, &mut names).unwrap();
    let names = String::from_utf8(names[..length].to_vec()).unwrap();
    let mut found: Vec<_> = names
        .split_terminator('\0')
        .filter(|name| name.starts_with("user."))
        .map(|name| (name.to_owned(), HEXLOWER.encode(&xattr(path, name).unwrap())))
        .collect();
    found.sort();
    found
}
