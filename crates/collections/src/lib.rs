//! Collections: dictionaries and queues that outlive the programs which share them.
//!
//! They lie in one database of `SQLite` beside the store's content, which only its user may read, so they are right under
//! concurrent processes and after any of them was killed. Keys and values are bytes, and nobody looks into them. Whoever
//! waits for something to come into a queue, or for room in it, is woken by the kernel when any process writes to the
//! database (`changes`).

mod catalogue;
mod changes;
mod database;
mod dictionary;
mod error;
mod queue;

pub use catalogue::{Collection, CollectionName, Kind, Reference};
pub use database::Collections;
pub use dictionary::{Entry, MOST_BYTES_OF_VALUE, MOST_ENTRIES_AT_ONCE};
pub use error::CollectionsError;
pub use queue::{MOST_BYTES_OF_ITEM, MOST_ITEMS, Until};

#[cfg(test)]
mod tests;
