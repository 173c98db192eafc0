//! Configurations and manifests of images that leave the store, as the OCI image specification has them.

use std::time::{Duration, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use lamina_image::{Healthcheck, RuntimeConfig};
use lamina_store::{ArchiveRecord, Origin, Timestamp};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::Outgoing;
use super::tar::Times;
use crate::RegistryError;
use crate::manifest::own_platform;
use crate::unpack::Compression;

pub(super) use crate::sending::MANIFEST_TYPE;
const CONFIGURATION_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// Bytes with a name of their own.
pub(super) struct Document {
    pub(super) sha256: String,
    pub(super) bytes: Vec<u8>,
}

impl Document {
    pub(super) fn new(value: &Value) -> Self {
        let bytes = value.to_string().into_bytes();
        Self { sha256: HEXLOWER.encode(&Sha256::digest(&bytes)), bytes }
    }

    pub(super) fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", self.sha256), "size": self.bytes.len()})
    }
}

/// An image's configuration, with the archives that its layers have become.
pub(super) fn configuration(image: &Outgoing<'_>, archives: &[ArchiveRecord]) -> Document {
    let platform = own_platform();
    let history = image
        .layers
        .iter()
        .map(|layer| json!({"created": time(image, layer.created), "created_by": layer.title, "comment": "lamina"}));
    let created = image.layers.iter().map(|layer| layer.created).max().unwrap_or_default();
    let mut document = json!({
        "created": time(image, created),
        "architecture": platform.architecture,
        "os": platform.os,
        "config": settings(image.config),
        "rootfs": {
            "type": "layers",
            "diff_ids": archives.iter().map(|archive| format!("sha256:{}", archive.diff_id)).collect::<Vec<_>>(),
        },
        "history": history.collect::<Vec<_>>(),
    });
    if let Some(author) = &image.config.author {
        document["author"] = json!(author);
    }
    Document::new(&document)
}

/// An image's manifest.
pub(super) fn manifest(
    image: &Outgoing<'_>,
    configuration: &Document,
    archives: &[ArchiveRecord],
) -> Result<Document, RegistryError> {
    let layers = archives.iter().map(|archive| {
        let media_type = match Compression::of_name(&archive.compression)? {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        let digest = format!("sha256:{}", archive.sha256);
        Ok(json!({"mediaType": media_type, "digest": digest, "size": archive.size}))
    });
    Ok(Document::new(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": configuration.descriptor(CONFIGURATION_TYPE),
        "layers": layers.collect::<Result<Vec<_>, RegistryError>>()?,
        "annotations": annotations(image),
    })))
}

/// What is said about where the image is from.
fn annotations(image: &Outgoing<'_>) -> Map<String, Value> {
    let mut annotations = Map::new();
    let mut say = |name: &str, value: &str| drop(annotations.insert(name.to_owned(), value.into()));
    say("lamina.image", &image.id);
    say("lamina.version", env!("CARGO_PKG_VERSION"));
    let base =
        image.layers.iter().map_while(|layer| layer.original.as_ref()).filter_map(|layer| layer.image.as_ref()).last();
    if let Some((name, digest)) = base {
        say("org.opencontainers.image.base.name", name);
        say("org.opencontainers.image.base.digest", &format!("sha256:{digest}"));
    }
    let Origin { program, revision } = image.origin;
    for (name, value) in [("lamina.program", program), ("org.opencontainers.image.revision", revision)] {
        if let Some(value) = value {
            say(name, value);
        }
    }
    annotations
}

/// A time: that of packages, where files have it.
fn time(image: &Outgoing<'_>, seconds: u64) -> String {
    let package = u64::try_from(Timestamp::PACKAGE.seconds).unwrap_or_default();
    let seconds = if image.how.times == Times::Kept { seconds } else { package };
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// How things are run in an image; what it does not say is left out.
fn settings(config: &RuntimeConfig) -> Map<String, Value> {
    let keys = |names: &std::collections::BTreeSet<String>| {
        let entries = names.iter().map(|name| (name.clone(), json!({})));
        Value::Object(entries.collect())
    };
    let variables = config.environment.iter().map(|(name, value)| format!("{name}={value}"));
    [
        ("User", json!(config.user)),
        ("ExposedPorts", keys(&config.exposed_ports)),
        ("Env", json!(variables.collect::<Vec<_>>())),
        ("Entrypoint", json!(config.entrypoint)),
        ("Cmd", json!(config.command)),
        ("Volumes", keys(&config.volumes)),
        ("WorkingDir", json!(config.working_directory)),
        ("Labels", json!(config.labels)),
        ("StopSignal", json!(config.stop_signal)),
        ("Shell", json!(config.shell)),
        ("Healthcheck", config.healthcheck.as_ref().map_or(Value::Null, healthcheck)),
    ]
    .into_iter()
    .filter(|(_, value)| match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        _ => true,
    })
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn healthcheck(check: &Healthcheck) -> Value {
    let numbers = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Retries", check.retries.map(u64::from)),
    ];
    let numbers = numbers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    Value::Object([("Test".to_owned(), json!(check.test))].into_iter().chain(numbers).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Configuration;

    #[test]
    fn what_is_written_is_what_is_read() {
        let platform = own_platform();
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let config = RuntimeConfig {
            environment: [("A".to_owned(), "b=c".to_owned())].into(),
            working_directory: Some("/srv".to_owned()),
            user: Some("app:7".to_owned()),
            shell: Some(texts(&["/bin/bash", "-c"])),
            entrypoint: texts(&["/start"]),
            command: texts(&["serve"]),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            exposed_ports: ["80/tcp".to_owned()].into(),
            volumes: ["/data".to_owned()].into(),
            stop_signal: Some("SIGINT".to_owned()),
            healthcheck: Some(Healthcheck {
                test: texts(&["CMD", "true"]),
                interval: Some(5),
                retries: Some(2),
                ..Healthcheck::default()
            }),
            author: Some("Me <me@host.invalid>".to_owned()),
        };
        let written = json!({
            "architecture": platform.architecture, "os": platform.os, "author": config.author, "config": settings(&config),
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let read = Configuration::parse(written.to_string().as_bytes()).unwrap();
        assert_eq!(read.runtime(), config);
        assert!(settings(&RuntimeConfig::default()).is_empty());
    }
}
