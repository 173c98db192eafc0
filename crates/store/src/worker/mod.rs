//! The worker's side: file work on layer content, inside the store's user namespace.
//!
//! The worker serves one engine over one socket until that closes, each request in a thread of its own, of
//! which there is a largest number. In production
//! it is a process of its own, changed root, with the content directory at `/store`; tests run it in a thread.

mod caches;
mod collect;
mod commit;
mod content;
mod context;
mod disk;
mod ingest;
mod job;
mod objects;
mod outline;
mod packages;
mod place;
mod probe;
mod removal;
mod repair;
mod serve;
mod shown;
mod upper;
mod verify;
mod view;
mod whiteouts;
mod works;
mod xattrs;

pub use context::WorkerContext;
pub use job::{Description, Job, JobTable, KeptPackage};
pub use serve::worker_main;
pub use shown::LayerPath;
pub use upper::{PlacedFile, UpperDirectory};
