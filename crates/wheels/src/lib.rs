//! How Python distributions get into a layer: the host's `uv` resolves to ready-made wheels without running any of the
//! image's or a package's code, each wheel is unpacked once into the store's objects, and installing is hard-linking
//! those objects into the bare upper of a step, with scripts, metadata and bytecode as `pip` and `uv` would leave them.

mod archive;
mod bytecode;
mod compilers;
mod describe;
mod direct_url;
mod error;
mod inside;
mod install;
mod installed;
mod interpreter;
mod link;
mod lock;
mod locked;
mod manifest;
mod markers;
mod needs;
mod netrc;
mod place;
mod record;
mod request;
mod requirement;
mod resolve;
mod scripts;
mod settings;
mod tags;
#[cfg(test)]
mod tests;
mod unpack;
mod uv;
mod uv_settings;

pub use describe::{Description, Unfinished, describe};
pub use error::WheelError;
pub use inside::Inside;
pub use install::{Installation, Report, install, jobs};
pub use installed::{Survey, survey};
pub use interpreter::python_of_base;
pub use lock::{Resolution, Source, Wheel};
pub use locked::{LockedProject, locked};
pub use markers::version_is_in;
pub use netrc::netrc_for;
pub use request::{Installed, Installer, Request, RequirementsFile, Target, normalize_name};
pub use requirement::name as requirement_name;
pub use resolve::resolve;
pub use settings::PipSettings;
pub use uv_settings::UvSettings;
