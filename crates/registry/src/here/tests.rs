use std::io::Cursor;

use lamina_ground::Hint;
use serde_json::{Value, json};

use super::*;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// An image in the making: files by name.
#[derive(Default)]
struct Shape {
    files: Vec<(String, Vec<u8>)>,
}

impl Shape {
    fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.push((name.to_owned(), bytes));
    }

    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor =
            json!({"mediaType": media_type, "digest": format!("sha256:{}", sha256(&bytes)), "size": bytes.len()});
        self.put(&format!("blobs/sha256/{}", sha256(&bytes)), bytes);
        descriptor
    }

    /// An image with one layer; what describes its manifest.
    fn image(&mut self, layer: &[u8]) -> Value {
        let config = self.blob("application/vnd.oci.image.config.v1+json", configuration(layer));
        let layer = self.blob("application/vnd.oci.image.layer.v1.tar", layer.to_vec());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        self.blob(MANIFEST_TYPE, manifest.to_string().into_bytes())
    }

    fn index(&mut self, manifests: &[Value]) {
        self.put("index.json", json!({"schemaVersion": 2, "manifests": manifests}).to_string().into_bytes());
    }

    fn docker(&mut self, images: &[(&str, &[u8])]) {
        let mut listed = Vec::new();
        for (name, layer) in images {
            let config = configuration(layer);
            let (config_name, layer_name) =
                (format!("{}.json", sha256(&config)), format!("{}/layer.tar", sha256(layer)));
            listed.push(json!({"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}));
            self.put(&config_name, config);
            self.put(&layer_name, layer.to_vec());
        }
        self.put("manifest.json", Value::from(listed).to_string().into_bytes());
    }

    fn archive(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, Cursor::new(bytes)).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn directory(&self) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in &self.files {
            let path = directory.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, bytes).unwrap();
        }
        directory
    }
}

fn configuration(layer: &[u8]) -> Vec<u8> {
    let own = crate::manifest::own_platform();
    let diff_ids = [format!("sha256:{}", sha256(layer))];
    let config = json!({"architecture": own.architecture, "os": own.os, "config": {"Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    config.to_string().into_bytes()
}

fn layer(text: &str) -> Vec<u8> {
    let mut shape = Shape::default();
    shape.put("etc/text", text.as_bytes().to_vec());
    shape.archive()
}

fn parse(text: &str) -> LocalImage {
    LocalImage::parse(text).unwrap().unwrap()
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    descriptor
}

/// Opens an image and fetches its layers.
fn open(text: &str) -> Result<Image, RegistryError> {
    let downloads = tempfile::tempdir().unwrap();
    let image = parse(text);
    let opened = image.open(downloads.path(), 0, &CancelToken::new())?;
    let parts: Vec<_> = opened.image().layers.iter().collect();
    let mut taken = Vec::new();
    opened.fetch(&parts, downloads.path(), &|_| (), |index, _| {
        taken.push(index);
        Ok::<_, RegistryError>(())
    })?;
    assert_eq!(taken.len(), parts.len());
    for part in parts {
        assert_eq!(sha256(&fs_err::read(downloads.path().join(part.sha256())).unwrap()), part.sha256());
    }
    Ok(opened.image().clone())
}

fn written(bytes: &[u8]) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.tar");
    fs_err::write(&path, bytes).unwrap();
    (directory, path.display().to_string())
}

fn refused(text: &str) -> String {
    let error = open(text).unwrap_err();
    let hint = error.hint().map(|hint| format!(" | {hint}")).unwrap_or_default();
    format!("{error}{hint}")
}

#[test]
fn every_form_of_an_image_has_the_same_layers() {
    let mut layout = Shape::default();
    let manifest = layout.image(&layer("one"));
    layout.index(&[manifest]);
    let mut docker = Shape::default();
    docker.docker(&[("app:v1", &layer("one"))]);
    let directory = layout.directory();
    let (_a, archive) = written(&layout.archive());
    let (_b, packed) = written(&zstd::bulk::compress(&layout.archive(), 1).unwrap());
    let (_c, saved) = written(&docker.archive());
    let expected = open(&format!("oci:{}", directory.path().display())).unwrap();
    assert_eq!(expected.layers[0].diff_id, sha256(&layer("one")));
    assert_eq!(expected.config.environment["A"], "b");
    assert!(expected.digest.is_some());
    for text in [
        format!("oci-archive:{archive}"),
        format!("oci-archive:{packed}"),
        format!("any-archive:{packed}"),
        format!("any-archive:{}", directory.path().display()),
    ] {
        assert_eq!(open(&text).unwrap(), expected, "{text}");
    }
    for text in
        [format!("docker-archive:{saved}:app:v1"), format!("docker-archive:{saved}"), format!("any-archive:{saved}")]
    {
        let image = open(&text).unwrap();
        assert_eq!((image.config, &image.layers[0].diff_id), (expected.config.clone(), &expected.layers[0].diff_id));
    }
    // Files alone.
    let (_d, files) = written(&layer("two"));
    assert_eq!(open(&format!("any-archive:{files}")).unwrap().layers[0].diff_id, sha256(&layer("two")));
}

#[test]
fn an_image_that_changes_is_another_one_wherever_it_lies() {
    let fingerprint = |text: &str, is_packed: bool| {
        let mut layout = Shape::default();
        let manifest = layout.image(&layer(text));
        layout.index(&[manifest]);
        let bytes = layout.archive();
        let bytes = if is_packed { zstd::bulk::compress(&bytes, 1).unwrap() } else { bytes };
        let (_directory, path) = written(&bytes);
        parse(&format!("oci-archive:{path}")).fingerprint(&CancelToken::new()).unwrap()
    };
    for is_packed in [false, true] {
        assert_eq!(fingerprint("one", is_packed), fingerprint("one", is_packed));
        assert_ne!(fingerprint("one", is_packed), fingerprint("two", is_packed));
    }
}

#[test]
fn looking_at_an_archive_ends_when_it_is_cancelled() {
    let (_directory, path) = written(&layer("x"));
    let cancel = CancelToken::new();
    cancel.cancel();
    let cancelled = parse(&format!("any-archive:{path}")).fingerprint(&cancel);
    assert!(matches!(cancelled, Err(RegistryError::Fetch(FetchError::Cancelled(_)))), "{cancelled:?}");
}

#[test]
fn what_is_unpacked_leaves_the_disk_its_reserve() {
    let packed = zstd::encode_all(&layer("x")[..], 1).unwrap();
    let (directory, path) = written(&packed);
    let image = parse(&format!("any-archive:{path}"));
    assert!(image.open(directory.path(), 0, &CancelToken::new()).is_ok());
    let error = image.open(directory.path(), u64::MAX, &CancelToken::new()).map(drop).unwrap_err();
    assert!(
        error.to_string().contains("MODAL_STORE_RESERVE keeps free") && error.to_string().contains(&path),
        "{error}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("MODAL_STORE")), "{:?}", error.hint());
}

#[test]
fn one_of_several_images_is_named() {
    let mut layout = Shape::default();
    let (one, two) = (layout.image(&layer("one")), layout.image(&layer("two")));
    layout.index(&[named(one, "v1"), named(two, "example.com/app:v2")]);
    let (_a, archive) = written(&layout.archive());
    let of = |which: &str| open(&format!("oci-archive:{archive}{which}")).unwrap().layers[0].diff_id.clone();
    assert_eq!(of(":v1"), sha256(&layer("one")));
    assert_eq!(of(":example.com/app:v2"), sha256(&layer("two")));
    assert_eq!(of(":@1"), sha256(&layer("two")));
    let said = refused(&format!("oci-archive:{archive}"));
    assert!(said.contains("has several images") && said.contains("`v1`, `example.com/app:v2`"), "{said}");
    let said = refused(&format!("oci-archive:{archive}:v3"));
    assert!(said.contains(":v3` is none of its images"), "{said}");
    let mut docker = Shape::default();
    docker.docker(&[("app:v1", &layer("one")), ("example.com/other:v2", &layer("two"))]);
    let (_b, saved) = written(&docker.archive());
    let of = |which: &str| open(&format!("docker-archive:{saved}{which}")).unwrap().layers[0].diff_id.clone();
    assert_eq!(of(":docker.io/library/app:v1"), sha256(&layer("one")));
    assert_eq!(of(":@1"), sha256(&layer("two")));
    let said = refused(&format!("docker-archive:{saved}"));
    assert!(said.contains("`app:v1`, `example.com/other:v2`"), "{said}");
}

#[test]
fn the_platform_of_this_machine_is_chosen() {
    let own = crate::manifest::own_platform();
    let mut layout = Shape::default();
    let (mut other, mut ours) = (layout.image(&layer("other")), layout.image(&layer("ours")));
    other["platform"] = json!({"os": "linux", "architecture": "none-such"});
    ours["platform"] = json!({"os": own.os, "architecture": own.architecture});
    let index = json!({"schemaVersion": 2, "manifests": [other, ours]}).to_string().into_bytes();
    let nested = layout.blob("application/vnd.oci.image.index.v1+json", index);
    layout.index(&[nested]);
    let directory = layout.directory();
    let image = open(&format!("oci:{}", directory.path().display())).unwrap();
    assert_eq!(image.layers[0].diff_id, sha256(&layer("ours")));
}

#[test]
fn archives_that_lie_are_refused() {
    let whole = |spoil: &dyn Fn(&mut Shape)| {
        let mut layout = Shape::default();
        let manifest = layout.image(&layer("one"));
        layout.index(&[manifest]);
        spoil(&mut layout);
        let (directory, path) = written(&layout.archive());
        let said = refused(&format!("oci-archive:{path}"));
        drop(directory);
        said
    };
    let position = |shape: &Shape, part: &[u8]| shape.files.iter().position(|(_, bytes)| bytes == part).unwrap();
    let changed = whole(&|layout| {
        let index = position(layout, &layer("one"));
        layout.files[index].1 = layer("two");
    });
    assert!(changed.contains("has the SHA-256") && changed.contains(&sha256(&layer("one"))), "{changed}");
    let config = whole(&|layout| layout.files[0].1 = configuration(&layer("two")));
    assert!(config.contains("is something else"), "{config}");
    let missing = whole(&|layout| {
        let index = position(layout, &layer("one"));
        layout.files.remove(index);
    });
    assert!(missing.contains("is missing"), "{missing}");
    let no_index = whole(&|layout| layout.files.retain(|(name, _)| name != "index.json"));
    assert!(no_index.contains("is no OCI layout"), "{no_index}");
    let wrong_type = whole(&|layout| {
        let mut manifest = layout.image(&layer("one"));
        manifest["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
        layout.files.retain(|(name, _)| name != "index.json");
        layout.index(&[manifest]);
    });
    assert!(wrong_type.contains("helm"), "{wrong_type}");
    let no_json = whole(&|layout| layout.files.last_mut().unwrap().1 = b"<html>".to_vec());
    assert!(no_json.contains("index.json"), "{no_json}");
}

#[test]
fn archives_that_were_cut_are_refused() {
    let mut docker = Shape::default();
    docker.put("manifest.json", Vec::new());
    docker.files.clear();
    docker.docker(&[("app:v1", &layer("one"))]);
    let bytes = docker.archive();
    for length in [0, 100, 700, bytes.len() / 2, bytes.len() - 1500] {
        let (_directory, path) = written(&bytes[..length]);
        let said = refused(&format!("docker-archive:{path}"));
        assert!(said.contains("cannot be read"), "{length}: {said}");
    }
    let (_directory, path) = written(&zstd::bulk::compress(&bytes, 1).unwrap()[..60]);
    assert!(refused(&format!("any-archive:{path}")).contains("cannot be read"));
}

#[test]
fn what_stands_in_a_file_that_is_no_archive_is_not_told() {
    let secret = b"root:secret:20228:0:99999:7:::\n".repeat(40);
    let (_directory, path) = written(&secret);
    let said = refused(&format!("any-archive:{path}"));
    assert!(said.ends_with("cannot be read: it is no archive"), "{said}");
    let mut docker = Shape::default();
    docker.docker(&[("app:v1", &layer("one"))]);
    let mut damaged = docker.archive();
    damaged.truncate(1024);
    damaged.extend(secret);
    let (_directory, path) = written(&damaged);
    let said = refused(&format!("docker-archive:{path}"));
    assert!(said.contains("the archive is damaged") && !said.contains("secret"), "{said}");
}

#[test]
fn links_lead_nowhere_else() {
    let with_link = |kind: tar::EntryType, target: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in [("x/layer.tar", layer("one")), ("config.json", configuration(&layer("one")))] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, Cursor::new(bytes)).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, "y/layer.tar", target).unwrap();
        let manifest = json!([{"Config": "config.json", "RepoTags": null, "Layers": ["y/layer.tar"]}]).to_string();
        let mut header = tar::Header::new_gnu();
        header.set_size(manifest.len() as u64);
        builder.append_data(&mut header, "manifest.json", Cursor::new(manifest)).unwrap();
        written(&builder.into_inner().unwrap())
    };
    // As Docker has written layers that come twice.
    let (_a, path) = with_link(tar::EntryType::Symlink, "../x/layer.tar");
    assert_eq!(open(&format!("docker-archive:{path}")).unwrap().layers.len(), 1);
    for (kind, target) in [
        (tar::EntryType::Symlink, "../../etc/passwd"),
        (tar::EntryType::Symlink, "/etc/passwd"),
        (tar::EntryType::Symlink, "layer.tar"),
        (tar::EntryType::Link, "../x/layer.tar"),
    ] {
        let (_b, path) = with_link(kind, target);
        let said = refused(&format!("docker-archive:{path}"));
        assert!(said.contains("`y/layer.tar`"), "{target}: {said}");
    }
}

#[test]
fn what_is_no_image_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RWXU).unwrap();
    fs_err::write(at("x.tar.xz"), b"\xfd7zXZ\0\0\0rest").unwrap();
    for (text, expected) in [
        (format!("oci:{}", at("none")), "No such file"),
        (format!("any-archive:{}", at("pipe")), "neither a file nor a directory"),
        (format!("any-archive:{}", directory.path().display()), "no `index.json`"),
        (format!("docker-archive:{}", at("x.tar.xz")), "xz -d"),
    ] {
        let said = refused(&text);
        assert!(said.contains(expected) && said.contains(text.trim_start_matches("any-archive:")), "{said}");
    }
}

#[test]
fn names_have_transports() {
    assert_eq!(LocalImage::parse("python:3.11"), None);
    assert_eq!(LocalImage::parse("localhost:5000/oci:v1"), None);
    for text in
        ["oci:/a/b", "oci-archive:/a.tar:v1", "docker-archive:/a:x/y:1", "docker-daemon:a/b:1", "containers-storage:a"]
    {
        assert_eq!(parse(text).to_string(), text);
    }
    assert_eq!(parse("any-archive:/a:b").place, "/a:b");
    let below = LocalImage::parse_below("oci:layout:v1", Some(Path::new("/context"))).unwrap().unwrap();
    assert_eq!(below.to_string(), "oci:/context/layout:v1");
    for text in [
        "oci:",
        "oci:relative",
        "oci:/a:",
        "docker-archive:/a:UPPER",
        "docker-daemon:--x",
        "docker-daemon:a?b",
        "containers-storage:a b",
    ] {
        let error = LocalImage::parse(text).unwrap().unwrap_err();
        assert!(error.to_string().starts_with(&format!("`{text}` names no image")), "{error}");
    }
}
