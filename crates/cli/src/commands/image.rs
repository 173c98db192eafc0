//! `modal image`: what the store holds.

use std::fmt::Write;

use lamina_engine::{Engine, ImageLayer, ImageRecord, Options, RuntimeConfig, Usage};
use lamina_ground::seconds_since_1970;
use serde::Serialize;

use super::ask::say;
use super::image_table::{one_line, table};
use super::{image_build, image_export, image_names, image_pull, image_push, print, print_json, prune};
use crate::arguments::{Image, ImageLogs};
use crate::failure::Failure;
use crate::output::text;

/// Answers the question.
pub(crate) fn image(image: &Image) -> Result<u8, Failure> {
    if let Image::Build(build) = image {
        return image_build::build(build);
    }
    if let Image::Export(export) = image {
        return image_export::export(export);
    }
    if let Image::Pull(pull) = image {
        return image_pull::pull(pull);
    }
    if let Image::Import(import) = image {
        return image_pull::import(import);
    }
    if let Image::Push(push) = image {
        return image_push::push(push);
    }
    let engine = Engine::open(&Options { works_on_full_disk: true, ..Options::default() })?;
    match image {
        // They have engines of their own.
        Image::Build(_) | Image::Export(_) | Image::Pull(_) | Image::Import(_) | Image::Push(_) => {}
        Image::List { json: true } => {
            let images = engine.images()?;
            print_json(&images.iter().map(Listed::from).collect::<Vec<_>>())?;
        }
        Image::List { json: false } => {
            let images = engine.images()?;
            if images.is_empty() {
                say("There are no images yet: `modal run` builds them.\n");
            }
            print(table(&images, seconds_since_1970()).as_bytes())?;
        }
        Image::Inspect { reference, json, environment } => {
            let (image, _) = engine.find_image(reference, &environment.name)?;
            let layers = engine.image_layers(&image)?;
            if *json {
                print_json(&Inspected::new(&image, &layers))?;
            } else {
                print(inspection(&image, &layers, seconds_since_1970()).as_bytes())?;
            }
        }
        Image::History { reference, json, environment } => {
            let (image, _) = engine.find_image(reference, &environment.name)?;
            let layers = engine.image_layers(&image)?;
            if *json {
                print_json(&layers.iter().map(ListedLayer::from).collect::<Vec<_>>())?;
            } else {
                print(history(&layers, seconds_since_1970()).as_bytes())?;
            }
        }
        Image::Du { json } => {
            let usage = engine.usage()?;
            if *json {
                print_json(&ListedUsage::from(&usage))?;
            } else {
                print(disk_usage(&usage).as_bytes())?;
            }
        }
        Image::Names(names) => return image_names::names(&engine, names),
        Image::Prune(wanted) => return prune::prune(&engine, wanted),
        Image::Logs(ImageLogs { reference, layers, all, environment }) => {
            let (image, _) = engine.find_image(reference, &environment.name)?;
            let logs = engine.image_logs(&image);
            let wanted = if *all { logs.len() } else { logs.len().min(usize::try_from(*layers).unwrap_or(usize::MAX)) };
            for log in &logs[logs.len() - wanted..] {
                if wanted > 1 {
                    print(format!("==> {} <==\n", text::clean(&log.title)).as_bytes())?;
                }
                print(&log.read()?)?;
            }
        }
    }
    Ok(0)
}

/// An image as `--json` shows it.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    title: &'a str,
    layers: usize,
    bytes: u64,
    created: u64,
    last_used: u64,
}

impl<'a> From<&'a ImageRecord> for Listed<'a> {
    fn from(image: &'a ImageRecord) -> Self {
        let ImageRecord { id, title, layers, bytes, created, last_used, .. } = image;
        Self { id, title, layers: layers.len(), bytes: *bytes, created: *created, last_used: *last_used }
    }
}

/// A layer as `--json` shows it; what is not known any more is null.
#[derive(Serialize)]
struct ListedLayer<'a> {
    digest: String,
    title: Option<&'a str>,
    created: Option<u64>,
    seconds: Option<f64>,
    files: Option<u64>,
    bytes: Option<u64>,
    bytes_new: Option<u64>,
    log: Option<&'a str>,
}

impl<'a> From<&'a ImageLayer> for ListedLayer<'a> {
    fn from(layer: &'a ImageLayer) -> Self {
        let record = layer.record.as_ref();
        Self {
            digest: layer.digest.hex(),
            title: record.map(|record| &*record.title),
            created: record.map(|record| record.created),
            seconds: record.map(|record| record.seconds),
            files: record.map(|record| record.files),
            bytes: record.map(|record| record.bytes),
            bytes_new: record.map(|record| record.bytes_new),
            log: record.and_then(|record| record.log.as_deref()),
        }
    }
}

/// An image as `inspect --json` shows it.
#[derive(Serialize)]
struct Inspected<'a> {
    id: &'a str,
    title: &'a str,
    created: u64,
    last_used: u64,
    bytes: u64,
    #[serde(flatten)]
    config: &'a RuntimeConfig,
    layers: Vec<ListedLayer<'a>>,
}

impl<'a> Inspected<'a> {
    fn new(image: &'a ImageRecord, layers: &'a [ImageLayer]) -> Self {
        let ImageRecord { id, title, created, last_used, bytes, config, .. } = image;
        Self {
            id,
            title,
            created: *created,
            last_used: *last_used,
            bytes: *bytes,
            config,
            layers: layers.iter().map(ListedLayer::from).collect(),
        }
    }
}

/// What takes up the disk as `du --json` shows it.
#[derive(Serialize)]
struct ListedUsage<'a> {
    images: Vec<ListedImageUsage<'a>>,
    layers: u64,
    local_files: u64,
    packages: u64,
    caches: u64,
    logs: u64,
    other: u64,
    total: u64,
}

#[derive(Serialize)]
struct ListedImageUsage<'a> {
    id: &'a str,
    /// The length of its files, as in the list.
    bytes: u64,
    /// The blocks that they take.
    on_disk: u64,
    /// Those of them that are in no other image.
    unique: u64,
}

impl<'a> From<&'a Usage> for ListedUsage<'a> {
    fn from(usage: &'a Usage) -> Self {
        let images = usage.images.iter();
        let images = images.map(|one| ListedImageUsage {
            id: &one.image.id,
            bytes: one.image.bytes,
            on_disk: one.bytes,
            unique: one.unique,
        });
        Self {
            images: images.collect(),
            layers: usage.layers,
            local_files: usage.local_files,
            packages: usage.packages,
            caches: usage.caches,
            logs: usage.logs,
            other: usage.other,
            total: usage.total(),
        }
    }
}

/// An image in full.
fn inspection(image: &ImageRecord, layers: &[ImageLayer], now: u64) -> String {
    let ago = |time: u64| text::age(now.saturating_sub(time));
    let count = match layers.len() {
        1 => "1 layer".to_owned(),
        count => format!("{count} layers"),
    };
    let mut text = format!(
        "{}\n  last step    {}\n  built        {}\n  last used    {}\n  size         {} in {count}\n  directory    {}\n",
        image.id,
        one_line(&image.title),
        ago(image.created),
        ago(image.last_used),
        text::bytes(image.bytes),
        image.config.working_directory.as_deref().unwrap_or("/root for functions, / for build steps"),
    );
    for (label, value) in settings(&image.config) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {label:11}  {}", text::clean(&value));
    }
    for (position, (name, value)) in image.config.environment.iter().enumerate() {
        let label = if position == 0 { "environment" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {label:11}  {name}={}", text::clean(value));
    }
    text.push('\n');
    text + &history(layers, now)
}

/// What is set beside directory and environment.
fn settings(config: &RuntimeConfig) -> Vec<(&'static str, String)> {
    let words = |words: &[String]| words.join(" ");
    let labels = config.labels.iter().map(|(name, value)| ("label", format!("{name}={value}")));
    [
        ("user", config.user.clone().unwrap_or_default()),
        ("shell", config.shell.as_deref().map(words).unwrap_or_default()),
        ("entrypoint", words(&config.entrypoint)),
        ("command", words(&config.command)),
        ("ports", words(&config.exposed_ports.iter().cloned().collect::<Vec<_>>())),
        ("volumes", words(&config.volumes.iter().cloned().collect::<Vec<_>>())),
        ("stop signal", config.stop_signal.clone().unwrap_or_default()),
        ("author", config.author.clone().unwrap_or_default()),
    ]
    .into_iter()
    .chain(labels)
    .filter(|(_, value)| !value.is_empty())
    .collect()
}

/// The steps of an image, base first.
fn history(layers: &[ImageLayer], now: u64) -> String {
    let mut text = format!("{:12}  {:12}  {:>7}  {:>7}  {:>10}  step\n", "layer", "built", "time", "files", "size");
    for layer in layers {
        let digest = layer.digest.short();
        // Writing to a string does not fail.
        let _ = match &layer.record {
            Some(record) => writeln!(
                text,
                "{digest:12}  {:12}  {:>7}  {:>7}  {:>10}  {}",
                text::age(now.saturating_sub(record.created)),
                text::seconds(record.seconds),
                record.files,
                text::bytes(record.bytes),
                one_line(&record.title)
            ),
            None => writeln!(text, "{digest:12}  {:12}  {:>7}  {:>7}  {:>10}  (rebuilt since)", "", "", "", ""),
        };
    }
    text
}

/// What takes up the disk.
fn disk_usage(usage: &Usage) -> String {
    let mut text = String::new();
    let width = usage.images.iter().map(|one| one.image.id.len()).max().unwrap_or(0);
    if !usage.images.is_empty() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:width$}  {:>10}  {:>10}  {:>10}  last step", "image", "size", "on disk", "its own");
    }
    for one in &usage.images {
        let [size, on_disk, unique] = [one.image.bytes, one.bytes, one.unique].map(text::bytes);
        let title = one_line(&one.image.title);
        let _ = writeln!(text, "{:width$}  {size:>10}  {on_disk:>10}  {unique:>10}  {title}", one.image.id);
    }
    if !usage.images.is_empty() {
        text.push('\n');
    }
    for (what, bytes) in [
        ("files of images", usage.layers),
        ("local files", usage.local_files),
        ("packages that no image has", usage.packages),
        ("downloads and caches", usage.caches),
        ("logs", usage.logs),
        ("directories and index", usage.other),
        ("total", usage.total()),
    ] {
        let _ = writeln!(text, "{what:26}  {:>10}", text::bytes(bytes));
    }
    text
}

#[cfg(test)]
mod tests {
    use lamina_engine::{Digest, ImageUsage};

    use super::*;

    fn layer(title: Option<&str>) -> ImageLayer {
        let record = title.map(|title| {
            let record = serde_json::json!({
                "key": Digest::of(b"key").hex(), "digest": Digest::of(b"layer").hex(), "content": Digest::of(b"").hex(), "title": title,
                "created": 1_000, "seconds": 75.2, "files": 6_535, "bytes": 145_000_000_u64, "bytes_new": 1, "material": null,
                "log": "1.log", "facts": null,
            });
            serde_json::from_value(record).unwrap()
        });
        ImageLayer { digest: Digest::of(b"layer"), record }
    }

    fn image(id: &str) -> ImageRecord {
        let record = serde_json::json!({
            "id": id, "layers": [Digest::of(b"layer").hex()], "keys": [Digest::of(b"key").hex()],
            "config": {
                "environment": {"A": "1", "PATH": "/usr/bin"}, "working_directory": null, "user": "app",
                "command": ["serve", "it"], "exposed_ports": ["53/udp", "80/tcp"], "labels": {"a": "b", "c": "d"},
            },
            "title": "run_commands(\n  \"make\",\n)", "created": 1_000, "last_used": 4_000, "bytes": 145_000_000_u64,
            "logs": [],
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn an_image_is_shown_in_full() {
        let layers = [layer(Some("debian_slim(python_version=\"3.11\")")), layer(None)];
        insta::assert_snapshot!(inspection(&image("im-0a1b2c"), &layers, 90_000));
    }

    #[test]
    fn disk_usage_is_a_table() {
        let image = |id, bytes, unique| ImageUsage { image: image(id), bytes, unique };
        let usage = Usage {
            images: vec![image("im-0a1b2c", 160_000_000, 652), image("im-3d4e5f", 3 << 30, 1 << 30)],
            layers: 4 << 30,
            packages: 1 << 20,
            ..Usage::default()
        };
        insta::assert_snapshot!(disk_usage(&usage));
    }
}
