//! Where layers live: objects, diff trees, views, package caches and the index, under one directory.
//!
//! The crate has two sides, of which neither knows the other. The `engine` side runs in the `modal` process with the
//! caller's rights: it keeps the index, takes locks, walks the caller's local files and sends requests. The `worker` side
//! runs inside the store's user namespace and does all file work on layer content, because only there the files' owners
//! mean what they say. Both stand on the formats: [`tree`] (what a layer changes), object names, the directory layout and
//! the protocol between them. The on-disk format is documented in `docs/store-format.md`.

mod engine;
mod error;
mod layout;
mod names;
mod object;
mod placing;
mod protocol;
mod reserve;
pub mod tree;
mod worker;

pub use engine::{
    Adopted, ArchiveRecord, Checked, Collected, Context, Copy, CopyMode, Damage, FileSetView, ImageName, ImageRecord,
    ImageUsage, LayerPart, LayerRecord, LocalFiles, Lock, Named, NamedImage, Onto, Origin, Outcome, Placed, Policy,
    Store, Usage, Work,
};
pub use error::{DamagedFile, JobError, JobErrorKind, StoreError};
pub use layout::{FORMAT_VERSION, Layout};
pub use object::{Metadata, ObjectName, Timestamp};
pub use protocol::{CacheFilter, CommitRules, Committed, DamagedDescription, Exclude, Harvest};
pub use reserve::SpentReserve;
pub use worker::{
    Description, Job, JobTable, KeptPackage, LayerPath, PlacedFile, UpperDirectory, WorkerContext, worker_main,
};
