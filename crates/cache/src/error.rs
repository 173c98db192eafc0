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
        let is_refused = |error: &RegistryError| {
            matches!(
                error,
                RegistryError::Denied { .. } | RegistryError::NotTaken { .. } | RegistryError::Blocked { .. }
            )
        };
        match self {
            Self::Denied(_) | Self::Damaged(_) => false,
            Self::Registry(error) => !is_refused(error),
            _ => true,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_not_tried_again() {
        let (image, reason) = ("r.example/cache".to_owned(), "status 409".to_owned());
        assert!(!CacheError::from(RegistryError::NotTaken { image: image.clone(), reason }).is_passing());
        assert!(!CacheError::from(RegistryError::Blocked { image }).is_passing());
        assert!(!CacheError::Denied("read-only".to_owned()).is_passing());
        assert!(CacheError::Away("silent".to_owned()).is_passing());
        let status = FetchError::Status { url: "https://r.example".to_owned(), status: 503 };
        assert!(CacheError::from(RegistryError::from(status)).is_passing());
    }
}
