//! A repository as a place for anything that has a digest.

use std::fs::File;
use std::ops::Range;

use lamina_fetch::{Client, FetchError, Progress};

use crate::sending::Sending;
use crate::{Reference, Registry, RegistryError};

/// A repository of a registry. The host's login counts; mirrors do not, because what was just put there is not in them.
pub struct Repository {
    registry: Registry,
}

impl Repository {
    /// The repository of a name, whose tag does not matter. Nothing is asked yet.
    ///
    /// # Errors
    /// When the host has settings or logins that cannot be used.
    pub fn open(reference: &Reference, writes: bool, client: &Client) -> Result<Self, RegistryError> {
        let registry = Registry::named(reference, client)?;
        Ok(Self { registry: if writes { registry.that_takes(std::iter::empty()) } else { registry } })
    }

    /// The manifest with this tag, if there is one. It is checked by nobody.
    ///
    /// # Errors
    /// When the registry does not give it.
    pub fn manifest(&self, tag: &str, limit: u64) -> Result<Option<Vec<u8>>, RegistryError> {
        let url = self.registry.url("manifests", tag);
        let found = self.with_login(|client| {
            let client = client.and_header("accept", crate::manifest::ACCEPTED.to_owned());
            match client.get(&url, limit) {
                Err(error) if error.is_not_found() => Ok(None),
                got => got.map(Some),
            }
        });
        found.map_err(|error| self.registry.refused(error))
    }

    /// Appends a part of something to a file; `progress` hears of bytes that came. It is checked by nobody.
    ///
    /// # Errors
    /// When the registry does not give it, or the file cannot be written.
    pub fn read(
        &self,
        sha256: &str,
        part: Range<u64>,
        into: &mut File,
        progress: Progress<'_>,
    ) -> Result<(), RegistryError> {
        let url = self.registry.url("blobs", &format!("sha256:{sha256}"));
        self.with_login(|client| client.get_part(&url, part.clone(), into, progress)).map_err(|error| match error {
            error @ FetchError::Status { status: 404, .. } => error.into(),
            error => self.registry.refused(error),
        })
    }

    /// Whether it has something.
    ///
    /// # Errors
    /// When the registry does not say.
    pub fn has(&self, sha256: &str) -> Result<bool, RegistryError> {
        self.sending().has(sha256)
    }

    /// Makes sure that it takes something.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_taking(&self) -> Result<(), RegistryError> {
        self.sending().check_taking()
    }

    /// Keeps what is in a file.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn put(&self, sha256: &str, size: u64, file: &File) -> Result<(), RegistryError> {
        self.sending().send(sha256, size, file, None)
    }

    /// Gives a tag to a manifest; all that it names is there.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn put_manifest(&self, tag: &str, manifest: &[u8], sha256: &str) -> Result<(), RegistryError> {
        self.sending().publish(tag, manifest, sha256)
    }

    fn sending(&self) -> Sending<'_> {
        Sending { registry: &self.registry }
    }

    /// Asks for something, with a login where that is wanted.
    fn with_login<T>(&self, mut ask: impl FnMut(&Client) -> Result<T, FetchError>) -> Result<T, FetchError> {
        match ask(&self.registry.client()) {
            Err(refused @ FetchError::Status { status: 401, .. }) => match self.registry.log_in() {
                Ok(()) => ask(&self.registry.client()),
                Err(RegistryError::Fetch(error)) => Err(error),
                Err(_) => Err(refused),
            },
            answer => answer,
        }
    }
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Repository").field("name", &self.registry.repository()).finish_non_exhaustive()
    }
}
