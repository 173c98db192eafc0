//! What caches are kept in.

use std::fmt::Debug;
use std::fs::File;
use std::ops::Range;

use lamina_events::CancelToken;
use lamina_image::LayerKey;

use crate::address::{Address, Location};
use crate::directory::Directory;
use crate::entry::Blob;
use crate::repository::InRegistry;
use crate::{CacheError, pulse::Pulse};

/// Where entries and what they name are kept.
pub(crate) trait Place: Debug + Send + Sync {
    /// The manifest of the entry with this key, if there is one.
    fn entry(&self, key: &LayerKey, pulse: &Pulse) -> Result<Option<Vec<u8>>, CacheError>;

    /// Appends a part of something to a file. It is checked by nobody.
    fn read(&self, blob: &Blob, part: Range<u64>, into: &mut File, pulse: &Pulse) -> Result<(), CacheError>;

    /// Whether it is there.
    fn has(&self, blob: &Blob) -> Result<bool, CacheError>;

    /// Keeps what is in a file.
    fn put(&self, blob: &Blob, file: &File) -> Result<(), CacheError>;

    /// Makes an entry known, in the place of an earlier one; all that it names is there.
    fn put_entry(&self, key: &LayerKey, manifest: &[u8]) -> Result<(), CacheError>;

    /// Whether it takes anything from this user, as far as that can be told before something is brought.
    fn check_taking(&self) -> Result<(), CacheError>;

    /// Removes what turned out to be damaged, where that can be done, so that it is brought again.
    fn discard(&self, key: &LayerKey, blobs: &[Blob]);
}

/// What a cache at this address is kept in. Nothing is looked at yet; requests end when `stop` is cancelled.
pub(crate) fn open(address: &Address, stop: &CancelToken) -> Box<dyn Place> {
    match &address.location {
        Location::Directory(path) => Box::new(Directory::new(path, address.is_read_only)),
        Location::Repository(reference) => Box::new(InRegistry::new(reference, address.is_read_only, stop)),
    }
}
