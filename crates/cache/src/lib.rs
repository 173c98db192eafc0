//! Caches that several machines share: layers are looked for there before they are made, and brought there afterwards.
//!
//! A cache is a repository of a registry or a directory ([`Address`]). It keeps *entries*, one for the layers of each step, under the
//! step's key; what files hold is in *packs*, of files that most likely change together. So bytes move by file: what the store has
//! is not fetched, and a layer of which one package changed costs that package. Whatever comes is checked: the record of an entry
//! and every file by its digest, the layer by its own; what is not right is passed over, and the step is executed.
//!
//! Uploading is done by a process of its own ([`upload()`]), which finishes what commands have noted ([`Caches::offer`]).

mod address;
mod caches;
mod directory;
mod drain;
mod each;
mod entry;
mod error;
mod fetch;
mod group;
mod made;
mod outbox;
mod pack;
mod place;
mod pulse;
mod repository;
mod taking;
mod upload;

pub use address::{Address, AddressError};
pub use caches::{Caches, Offer, Waiting};
pub use drain::{Uploaded, upload};
pub use error::CacheError;

/// Registers what the store worker does for caches.
#[must_use]
pub fn jobs(table: lamina_store::JobTable) -> lamina_store::JobTable {
    table.register::<pack::WriteChunks>().register::<pack::TakeChunks>()
}
