//! The façade over building and running: opens the store, starts the helper processes, serves the Python package, and
//! answers what the command line asks.
//!
//! An [`Engine`] lives inside the `modal` process; there is no daemon. [`serve`] speaks the protocol of
//! `docs/protocol.md` with one Python process: it builds the images of its app, runs its functions' inputs, and stops
//! everything when the connection ends. The command line uses the same engine for images, logs and shells.

mod app;
mod bytecode;
mod collections;
mod containers;
mod deployed;
mod engine;
mod error;
mod failure;
mod gpus;
mod host;
mod idmap;
mod images;
mod local_files;
mod outgoing;
mod protocol;
mod secrets;
mod session;
mod shell;
mod store_directory;
mod variants;
mod volumes;

pub use containers::{Command, ContainerRecord, Containers, ContainersError, FoundContainer, is_container_id};
pub use deployed::{
    KEEPING_UNIT, KeepingEnd, KeepingNews, Recorded, deployments, introduce, keep_deployed, next_run, runs_by_itself,
    serve_deployed, start_deployed, take_over,
};
pub use engine::{Engine, Options, Removal, helpers_entry};
pub use error::EngineError;
pub use images::{ImageLayer, ImageLog};
pub use lamina_cache::Uploaded;
pub use lamina_functions::Terminal;
pub use lamina_image::{Digest, GpuRequest, RuntimeConfig, redact};
pub use lamina_registry::{Compression, Format, How, Pushed, Reference, ReferenceError, RegistryError, Times};
pub use lamina_sandbox::doctor::{Finding, Status};
pub use lamina_sandbox::{Exit, ExitStatus, Resource, Sandbox, TerminalSize, fork_ahead};
pub use lamina_store::{
    Checked, Collected, Damage, DamagedDescription, ImageName, ImageRecord, ImageUsage, NamedImage, Origin, Outcome,
    Policy, StoreError, Usage,
};
pub use lamina_volumes::{Entry, EntryKind, Upload, Volume, VolumeError, VolumeName, Volumes};
pub use outgoing::{Parcel, Target};
pub use protocol::PROTOCOL;
pub use session::{Described, serve, serve_attached};
pub use shell::{Shell, ShellOptions, ShellTarget};
pub use store_directory::{
    collections, detached_apps, known_apps, named_secrets, probe_store, run_records, store_directory,
};
