//! How conda packages get into a layer: the channels' indexes are read and solved here, each package is unpacked once into
//! the store's objects, and installing is placing those in the bare upper of a step, with the records that conda keeps.
//!
//! There is one environment, at [`PREFIX`], so packages are unpacked with that prefix in the place of the one that they
//! were built for.

mod activation;
mod archive;
mod channels;
mod error;
mod fetch;
mod install;
mod installed;
mod known;
mod link;
mod lock_file;
mod locked;
mod manifest;
mod place;
mod prefix;
mod preparing;
mod programs;
mod repodata;
mod request;
mod settings;
mod solve;
mod spec_file;
mod unpack;

pub use activation::{AFTER, BEFORE, activated};
pub use error::CondaError;
pub use install::{Installation, Installing, Report, install, jobs};
pub use installed::{Environment, Installed, installed};
pub use link::{Finishing, Script};
pub use preparing::{Prepared, Preparing};
pub use programs::PROGRAM;
pub use request::{Request, VirtualSystem};
pub use settings::Settings;
pub use solve::{Resolution, resolve};
pub use spec_file::SpecFile;

/// Where the environment is.
pub const PREFIX: &str = "/opt/conda";
