//! What can go wrong with caches.

use std::borrow::Cow;

use lamina_events::Cancelled;
use lamina_fetch::FetchError;
use lamina_ground::Hint;
use lamina_registry::RegistryError;
use lamina_store::{JobError, StoreError};

/// An error of a cache. None of them ends a build.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It does not answer in time.
    #[error("{0}")]
    Away(String),
    /// It does not let somebody write.
    #[error("{0}")]
    Denied(String),
    /// What it has is not what it should be.
    #[error("{0}")]
    Damaged(String),
    /// A registry refuses, or cannot be reached.
    #[error(transparent)]
    Registry(RegistryError),
    /// The store cannot take or give something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Hint for CacheError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}

impl CacheError {
    /// Whether trying again later may help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        !matches!(self, Self::Denied(_) | Self::Damaged(_) | Self::Registry(RegistryError::Denied { .. }))
    }
}

impl From<JobError> for CacheError {
    fn from(error: JobError) -> Self {
        Self::Store(error.into())
    }
}

impl From<RegistryError> for CacheError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Fetch(FetchError::Cancelled(cancelled)) => Self::Cancelled(cancelled),
            RegistryError::Store(error) => Self::Store(error),
            error => Self::Registry(error),
        }
    }
}
