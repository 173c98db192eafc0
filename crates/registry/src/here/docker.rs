//! What `docker save` makes, and podman, skopeo and other programs with it.

use std::io::Read;

use data_encoding::HEXLOWER;
use lamina_events::CancelToken;
use lamina_fetch::Download;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::files::Files;
use super::{Found, LocalImage, archive, hash};
use crate::client::{CONFIGURATION_LIMIT, Image, MANIFEST_LIMIT, Part, check_count};
use crate::manifest::{Configuration, Descriptor};
use crate::unpack::Compression;
use crate::{Reference, RegistryError};

/// What lists the images.
pub(super) const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// The image of an archive that is meant.
pub(super) fn find(wanted: &LocalImage, files: &Files, cancel: &CancelToken) -> Result<Found, RegistryError> {
    let read = |name: &str, limit: u64| {
        let read = files.read(name, limit).map_err(|error| wanted.unreadable(error))?;
        read.ok_or_else(|| wanted.unreadable(format!("`{name}` is missing")))
    };
    let listed: Vec<Listed> = serde_json::from_slice(&read(MANIFEST, MANIFEST_LIMIT)?)
        .map_err(|error| wanted.malformed(format!("its `{MANIFEST}`: {error}")))?;
    let Listed { config, layers, .. } = choose(wanted, listed)?;
    let bytes = read(&config, CONFIGURATION_LIMIT)?;
    let configuration = Configuration::parse(&bytes).map_err(|error| wanted.named(error))?;
    let (names, diff_ids) = (layers.unwrap_or_default(), configuration.diff_ids());
    if names.len() != diff_ids.len() {
        let (layers, config) = (names.len(), diff_ids.len());
        return Err(wanted.malformed(format!("its `{MANIFEST}` has {layers} layers, its configuration {config}")));
    }
    check_count(&wanted.shown(), names.len())?;
    let layers = names.iter().zip(diff_ids).map(|(name, diff_id)| part(wanted, files, cancel, name, diff_id));
    let layers = layers.collect::<Result<_, _>>()?;
    let config = HEXLOWER.encode(&Sha256::digest(&bytes));
    // The format knows no manifests with digests.
    Ok(Found {
        image: Image { digest: None, layers, triggers: configuration.triggers(), config: configuration.runtime() },
        names,
        config,
    })
}

fn choose(wanted: &LocalImage, mut listed: Vec<Listed>) -> Result<Listed, RegistryError> {
    let full = |text: &str| text.parse::<Reference>().ok();
    let index = match wanted.which.as_deref() {
        Some(which) => match which.strip_prefix('@') {
            Some(number) => number.parse().ok().filter(|number| *number < listed.len()),
            None => listed.iter().position(|image| {
                let mut tags = image.repo_tags.iter().flatten();
                tags.any(|tag| full(tag).is_some_and(|tag| Some(tag) == full(which)))
            }),
        },
        None if listed.is_empty() => return Err(wanted.unreadable("it has no image")),
        None => (listed.len() == 1).then_some(0),
    };
    let Some(index) = index else {
        let named = |(number, image): (usize, &Listed)| {
            image.repo_tags.iter().flatten().next().cloned().unwrap_or_else(|| format!("@{number}"))
        };
        return Err(wanted.no_choice(listed.iter().enumerate().map(named).collect()));
    };
    Ok(listed.swap_remove(index))
}

/// A layer; its digest in the archive is that of what it holds, unless it is compressed, which few programs do.
fn part(
    wanted: &LocalImage,
    files: &Files,
    cancel: &CancelToken,
    name: &str,
    diff_id: &str,
) -> Result<Part, RegistryError> {
    let diff_id = Descriptor::of_digest(diff_id).sha256()?.to_owned();
    let unreadable = |error: std::io::Error| wanted.unreadable(format!("its layer `{name}`: {error}"));
    let opened = files.get(name).map_err(unreadable)?;
    let (length, mut reader) = opened.ok_or_else(|| wanted.unreadable(format!("its layer `{name}` is missing")))?;
    let mut beginning = Vec::new();
    reader.by_ref().take(8).read_to_end(&mut beginning).map_err(unreadable)?;
    let compression = archive::compression(&beginning).map_err(unreadable)?;
    let sha256 = if compression == Compression::None {
        diff_id.clone()
    } else {
        let mut hasher = Sha256::new_with_prefix(&beginning);
        hash(&mut reader, &mut hasher, cancel).map_err(unreadable)?;
        HEXLOWER.encode(&hasher.finalize())
    };
    Ok(Part {
        download: Download { url: String::new(), sha256, size: Some(length) },
        compression,
        table: None,
        diff_id,
    })
}
