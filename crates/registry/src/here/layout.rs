//! The layout of the OCI image specification.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::files::Files;
use super::{Found, LocalImage};
use crate::client::{CONFIGURATION_LIMIT, Image, MANIFEST_LIMIT, check, parts};
use crate::manifest::{Configuration, Descriptor, Document, Manifest, choose, is_manifest_type, own_platform};
use crate::{Reference, RegistryError};

/// What lists the images.
pub(super) const INDEX: &str = "index.json";
/// What an image of an index is called: by the specification, and by containerd and Docker, in full.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];
/// Indexes that lead to indexes.
const DEEPEST: usize = 4;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Listed {
    fn names(&self) -> impl Iterator<Item = &str> {
        NAMES.iter().filter_map(|name| self.annotations.get(*name).map(String::as_str))
    }

    fn is(&self, which: &str) -> bool {
        let full = |text: &str| text.parse::<Reference>().ok();
        let wanted = full(which).filter(|_| which.contains(['/', ':']));
        self.names()
            .any(|name| name == which || wanted.as_ref().is_some_and(|wanted| full(name).as_ref() == Some(wanted)))
            || self.descriptor.digest == which
    }
}

/// The image of a layout that is meant.
pub(super) fn find(wanted: &LocalImage, files: &Files) -> Result<Found, RegistryError> {
    let blobs = Blobs { wanted, files };
    let read = files.read(INDEX, MANIFEST_LIMIT).map_err(|error| wanted.unreadable(error))?;
    let read = read.ok_or_else(|| wanted.unreadable(format!("it has no `{INDEX}`, so it is no OCI layout")))?;
    let index: Index =
        serde_json::from_slice(&read).map_err(|error| wanted.malformed(format!("its `{INDEX}`: {error}")))?;
    let listed = blobs.choose(&index.manifests)?;
    let (digest, manifest) = blobs.manifest(listed, 0)?;
    let config = blobs.get(&manifest.config, CONFIGURATION_LIMIT)?;
    let configuration = Configuration::parse(&config).map_err(|error| wanted.named(error))?;
    let layers = parts(&wanted.shown(), &manifest, configuration.diff_ids(), |_| String::new());
    let layers = layers.map_err(|error| wanted.named(error))?;
    let names = manifest.layers.iter().map(blob).collect::<Result<_, _>>()?;
    let config = manifest.config.digest;
    Ok(Found {
        image: Image {
            digest: Some(digest),
            layers,
            triggers: configuration.triggers(),
            config: configuration.runtime(),
        },
        names,
        config,
    })
}

/// Where the specification has a blob.
fn blob(descriptor: &Descriptor) -> Result<String, RegistryError> {
    Ok(format!("blobs/sha256/{}", descriptor.sha256()?))
}

struct Blobs<'a> {
    wanted: &'a LocalImage,
    files: &'a Files,
}

impl Blobs<'_> {
    /// The image that is meant: by its name or number, or the only one, be it for several platforms.
    fn choose<'l>(&self, listed: &'l [Listed]) -> Result<&'l Descriptor, RegistryError> {
        let choices = || {
            let named = |(number, listed): (usize, &Listed)| {
                listed.names().next().map_or_else(|| format!("@{number}"), str::to_owned)
            };
            self.wanted.no_choice(listed.iter().enumerate().map(named).collect())
        };
        match (self.wanted.which.as_deref(), listed) {
            (Some(which), listed) => {
                let number = which.strip_prefix('@').and_then(|number| number.parse().ok());
                let found = number.and_then(|number: usize| listed.get(number));
                let mut named = listed.iter().filter(|listed| listed.is(which)).map(|listed| &listed.descriptor);
                let first = found.map(|listed| &listed.descriptor).or_else(|| named.next());
                first.ok_or_else(choices)
            }
            (None, []) => Err(self.wanted.unreadable("it has no image")),
            (None, [one]) => Ok(&one.descriptor),
            (None, listed) => {
                let is_one = listed.iter().all(|each| each.descriptor.platform.is_some())
                    && listed.iter().all(|each| each.names().next() == listed[0].names().next());
                let descriptors: Vec<_> = listed.iter().map(|each| each.descriptor.clone()).collect();
                let chosen =
                    if is_one { choose(&descriptors, &own_platform())?.digest.clone() } else { return Err(choices()) };
                let found = listed.iter().find(|each| each.descriptor.digest == chosen);
                found.map(|each| &each.descriptor).ok_or_else(choices)
            }
        }
    }

    fn manifest(&self, descriptor: &Descriptor, depth: usize) -> Result<(String, Manifest), RegistryError> {
        if !is_manifest_type(&descriptor.media_type) {
            return Err(self.wanted.malformed(format!(
                "`{}` is of the type `{}`, and no image",
                descriptor.digest, descriptor.media_type
            )));
        }
        let bytes = self.get(descriptor, MANIFEST_LIMIT)?;
        match Document::parse(&bytes).map_err(|error| self.wanted.named(error))? {
            Document::Manifest(manifest) => Ok((descriptor.sha256()?.to_owned(), manifest)),
            Document::Index(manifests) if depth < DEEPEST => {
                self.manifest(choose(&manifests, &own_platform())?, depth + 1)
            }
            Document::Index(_) => Err(self.wanted.malformed("its index leads to indexes without end")),
        }
    }

    fn get(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let name = blob(descriptor)?;
        let bytes = self.files.read(&name, limit).map_err(|error| self.wanted.unreadable(error))?;
        let bytes = bytes.ok_or_else(|| self.wanted.unreadable(format!("`{name}` is missing")))?;
        check(descriptor.sha256()?, &bytes).map_err(|error| match error {
            RegistryError::Digest { found, .. } => {
                self.wanted.malformed(format!("`{name}` is something else: its SHA-256 is `{found}`"))
            }
            other => other,
        })?;
        Ok(bytes)
    }
}
