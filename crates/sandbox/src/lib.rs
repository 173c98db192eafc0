//! Where processes run: sandboxes of Linux namespaces, mounts, limits and filters, used for build steps and for
//! functions alike.
//!
//! [`Helpers::start`] enters the store's user namespace once and leaves two processes in it: the *launcher*, which makes
//! a sandbox with one `clone3`, and the *store worker*, which does the file work on layer content. The engine asks
//! through [`Launcher::spawn`] and holds a [`Sandbox`]. Inside, pid 1 is this crate's own init; it is never replaced by
//! code of the image. Container root is never root of the host.

mod capabilities;
mod cgroups;
mod client;
mod disk;
pub mod doctor;
mod enter;
mod entry;
mod error;
mod failure;
mod features;
mod filter;
mod further;
mod helper_process;
mod helpers;
mod idmap;
mod init;
mod launcher;
mod mounts;
mod namespaces;
mod payload;
mod protocol;
mod resources;
mod rlimits;
mod signal;
mod spec;
mod terminal;
mod tiny_root;
mod user;
mod wait;
mod warm;

pub use cgroups::{Enforcement, LimitsReport};
pub use client::{Exit, ExitStatus, Launcher, Sandbox, Stdio};
pub use disk::DiskShortage;
pub use enter::helpers_main;
pub use entry::{Entered, Entry};
pub use error::SandboxError;
pub use features::memory_has_attributes;
pub use helper_process::fork_ahead;
pub use helpers::Helpers;
pub use idmap::{IdMap, IdRange, more_ids_hint, subordinate_ids_hint};
pub use resources::Resource;
pub use signal::Signal;
pub use spec::{InjectedFile, Limits, Mount, MountedFile, Network, SandboxSpec, TerminalSize, TerminalSpec, Upper};
