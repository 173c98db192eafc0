//! Manifests and configurations of images: those of the OCI image specification, and those of Docker's second schema, which
//! have the same fields under other media types.

use std::collections::BTreeMap;

use lamina_fetch::is_sha256;
use lamina_image::{Healthcheck, RuntimeConfig};
use serde::Deserialize;

use crate::RegistryError;

/// What a request says that it takes.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// The name of a thing by its contents.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest, `sha256:…`.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// What the image of an index is for.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// What programs noted of it, by names of theirs.
    #[serde(default)]
    pub(crate) annotations: serde_json::Value,
}

impl Descriptor {
    /// One of which no more is known.
    pub(crate) fn of_digest(digest: &str) -> Self {
        Self {
            media_type: String::new(),
            digest: digest.to_owned(),
            size: 0,
            platform: None,
            annotations: serde_json::Value::Null,
        }
    }

    /// The digits of its SHA-256.
    pub(crate) fn sha256(&self) -> Result<&str, RegistryError> {
        let digits = self.digest.strip_prefix("sha256:").filter(|digits| is_sha256(digits));
        digits.ok_or_else(|| RegistryError::Malformed(format!("the digest `{}` is none of SHA-256", self.digest)))
    }
}

/// Whether something of this type is an image, or several. Some programs say nothing.
pub(crate) fn is_manifest_type(media_type: &str) -> bool {
    media_type.is_empty() || ACCEPTED.split(", ").any(|accepted| accepted == media_type)
}

/// What an image is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// The processor, in Go's words.
    pub architecture: String,
    /// The operating system.
    pub os: String,
    /// The kind of processor.
    #[serde(default)]
    pub variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(formatter, "/{variant}"))
    }
}

/// What this machine runs.
pub(crate) fn own_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Platform { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: None }
}

/// An image, or several for different platforms.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// An image: its configuration and its layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    schema_version: u32,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads either kind. One that has the parts of both is refused: two programs could take it for different images.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, RegistryError> {
        let malformed = |reason: String| RegistryError::Malformed(reason);
        let either: Either =
            serde_json::from_slice(bytes).map_err(|error| malformed(format!("its manifest: {error}")))?;
        if either.schema_version != 2 {
            return Err(malformed(format!(
                "its manifest has the schema version `{}`; build and push it again with a present program",
                either.schema_version
            )));
        }
        match either {
            Either { manifests: Some(manifests), config: None, layers: None, .. } => Ok(Self::Index(manifests)),
            Either { manifests: None, config: Some(config), layers: Some(layers), .. } => {
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            _ => Err(malformed("its manifest is neither one of an image nor an index of them".to_owned())),
        }
    }
}

/// The image of an index that this machine runs.
pub(crate) fn choose<'a>(manifests: &'a [Descriptor], own: &Platform) -> Result<&'a Descriptor, RegistryError> {
    let runs = |descriptor: &&Descriptor| {
        let platform = descriptor.platform.as_ref();
        platform.is_some_and(|platform| platform.os == own.os && platform.architecture == own.architecture)
    };
    manifests.iter().find(runs).ok_or_else(|| {
        let platforms = manifests.iter().filter_map(|descriptor| descriptor.platform.as_ref());
        let mut offered: Vec<_> =
            platforms.filter(|platform| platform.os != "unknown").map(ToString::to_string).collect();
        offered.dedup();
        RegistryError::Platform { own: own.to_string(), offered }
    })
}

/// What an image says about running things in it, and what its layers hold.
#[derive(Debug, Deserialize)]
pub(crate) struct Configuration {
    architecture: String,
    os: String,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    config: Option<Settings>,
    rootfs: RootFilesystem,
}

#[derive(Debug, Deserialize)]
struct RootFilesystem {
    diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Settings {
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
    shell: Option<Vec<String>>,
    on_build: Option<Vec<String>>,
    healthcheck: Option<Check>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(default)]
    test: Vec<String>,
    interval: Option<u64>,
    timeout: Option<u64>,
    start_period: Option<u64>,
    start_interval: Option<u64>,
    retries: Option<u32>,
}

impl Configuration {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, RegistryError> {
        let parsed: Self = serde_json::from_slice(bytes)
            .map_err(|error| RegistryError::Malformed(format!("its configuration: {error}")))?;
        let own = own_platform();
        if parsed.os != own.os || parsed.architecture != own.architecture {
            let offered = vec![format!("{}/{}", parsed.os, parsed.architecture)];
            return Err(RegistryError::Platform { own: own.to_string(), offered });
        }
        Ok(parsed)
    }

    /// Digests of the layers' uncompressed archives, the lowest first.
    pub(crate) fn diff_ids(&self) -> &[String] {
        &self.rootfs.diff_ids
    }

    /// The instructions of `ONBUILD`.
    pub(crate) fn triggers(&self) -> Vec<String> {
        self.config.as_ref().and_then(|settings| settings.on_build.clone()).unwrap_or_default()
    }

    /// How things are run in the image.
    pub(crate) fn runtime(self) -> RuntimeConfig {
        let settings = self.config.unwrap_or_default();
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let variables = settings.env.unwrap_or_default();
        let variables = variables.iter().filter_map(|variable| variable.split_once('='));
        RuntimeConfig {
            environment: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            working_directory: filled(settings.working_dir).filter(|path| path.starts_with('/')),
            user: filled(settings.user),
            shell: settings.shell.filter(|shell| !shell.is_empty()),
            entrypoint: settings.entrypoint.unwrap_or_default(),
            command: settings.cmd.unwrap_or_default(),
            labels: settings.labels.unwrap_or_default(),
            exposed_ports: settings.exposed_ports.unwrap_or_default().into_keys().collect(),
            volumes: settings.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: filled(settings.stop_signal),
            healthcheck: settings.healthcheck.filter(|check| !check.test.is_empty()).map(|check| Healthcheck {
                test: check.test,
                interval: check.interval,
                timeout: check.timeout,
                start_period: check.start_period,
                start_interval: check.start_interval,
                retries: check.retries,
            }),
            author: filled(self.author),
        }
    }
}
