//! Layers of deployed apps, which are needed whether their processes run or not.

use std::collections::HashMap;

use lamina_image::Digest;
use serde::Deserialize;

use super::files_in;
use crate::{DamagedFile, Layout, StoreError};

/// What counts here of a version of a deployed app.
#[derive(Deserialize)]
struct Version {
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    containers: HashMap<String, Container>,
}

#[derive(Deserialize)]
struct Container {
    layers: Vec<Digest>,
}

/// The layers that all versions of all deployed apps need.
pub(super) fn layers(layout: &Layout) -> Result<Vec<Digest>, StoreError> {
    let mut layers = Vec::new();
    for environment in files_in(&layout.deployments())? {
        for app in files_in(&environment)? {
            for file in files_in(&app.join("versions"))? {
                if file.extension().is_none_or(|extension| extension != "json") {
                    continue;
                }
                let bytes = match fs_err::read(&file) {
                    // Another process has just removed it.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    other => other?,
                };
                // Nothing is removed that a file may name which cannot be read.
                let version: Version = serde_json::from_slice(&bytes)
                    .map_err(|error| StoreError::Damaged { path: file, file: DamagedFile::Deployment(error) })?;
                layers.extend(version.content.containers.into_values().flat_map(|container| container.layers));
            }
        }
    }
    Ok(layers)
}
