//! Caches in repositories of registries: entries are manifests with tags, what they name are blobs.

use std::fs::File;
use std::ops::Range;
use std::sync::OnceLock;

use lamina_events::CancelToken;
use lamina_fetch::{Client, FetchError};
use lamina_image::LayerKey;
use lamina_registry::{Reference, RegistryError, Repository};

use crate::CacheError;
use crate::entry::{Blob, MANIFEST_LIMIT, VERSION};
use crate::place::Place;
use crate::pulse::Pulse;

/// A repository, opened when something is asked of it.
#[derive(Debug)]
pub(crate) struct InRegistry {
    reference: Reference,
    is_read_only: bool,
    stop: CancelToken,
    repository: OnceLock<Repository>,
}

impl InRegistry {
    pub(crate) fn new(reference: &Reference, is_read_only: bool, stop: &CancelToken) -> Self {
        Self { reference: reference.clone(), is_read_only, stop: stop.clone(), repository: OnceLock::new() }
    }

    fn repository(&self) -> Result<&Repository, CacheError> {
        if let Some(repository) = self.repository.get() {
            return Ok(repository);
        }
        let client = Client::new(self.stop.clone());
        let repository = Repository::open(&self.reference, !self.is_read_only, &client)?;
        Ok(self.repository.get_or_init(|| repository))
    }
}

/// The tag of an entry.
fn tag(key: &LayerKey) -> String {
    format!("v{VERSION}-{key}")
}

impl Place for InRegistry {
    fn entry(&self, key: &LayerKey, pulse: &Pulse) -> Result<Option<Vec<u8>>, CacheError> {
        let _waiting = pulse.wait();
        let manifest = self.repository()?.manifest(&tag(key), MANIFEST_LIMIT)?;
        pulse.came(manifest.as_ref().map_or(0, |manifest| manifest.len() as u64));
        Ok(manifest)
    }

    fn read(&self, blob: &Blob, part: Range<u64>, into: &mut File, pulse: &Pulse) -> Result<(), CacheError> {
        let _waiting = pulse.wait();
        let read = self.repository()?.read(&blob.sha256, part, into, &|bytes| pulse.came(bytes));
        read.map_err(|error| match error {
            RegistryError::Fetch(FetchError::Status { status: 404, .. }) => {
                CacheError::Damaged(format!("`sha256:{}` is not there", blob.sha256))
            }
            error => error.into(),
        })
    }

    fn has(&self, blob: &Blob) -> Result<bool, CacheError> {
        Ok(self.repository()?.has(&blob.sha256)?)
    }

    fn put(&self, blob: &Blob, file: &File) -> Result<(), CacheError> {
        Ok(self.repository()?.put(&blob.sha256, blob.size, file)?)
    }

    fn put_entry(&self, key: &LayerKey, manifest: &[u8]) -> Result<(), CacheError> {
        Ok(self.repository()?.put_manifest(&tag(key), manifest, &Blob::of(manifest).sha256)?)
    }

    fn check_taking(&self) -> Result<(), CacheError> {
        Ok(self.repository()?.check_taking()?)
    }

    /// Nothing can be removed from most registries; the entry is replaced by whoever makes the layers.
    fn discard(&self, _key: &LayerKey, _blobs: &[Blob]) {}
}
