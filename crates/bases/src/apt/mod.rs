//! apt, as build steps on Debian need it: what it gets from the host, how it installs, and what to do when it fails.

mod access;
mod hints;
mod install;
mod methods;
mod names;

pub use access::{Access, access};
pub use hints::{hint, lacks_compiler};
pub use install::{ASKING_AGAIN, Cache, Install, brings_only_packages};
