//! What images start from: a minimal Debian with Python, bootstrapped natively.
//!
//! [`debian_slim_plan`] chooses the release of Debian for a Python version, and [`bootstrap()`] makes it: the signed
//! release files are verified, the package indexes resolved, the packages downloaded, unpacked in parallel by the store
//! worker ([`jobs`]), and configured by their own maintainer scripts in one sandbox. The result does not depend on the
//! host or the mirror, only on the packages, so equal packages give an equal layer. [`mirror`] says where packages come
//! from.

pub mod apt;
mod archive;
mod bootstrap;
mod closure;
mod configure;
mod control;
mod date;
pub mod dpkg;
mod error;
mod install;
pub mod mirror;
mod openpgp;
mod packages;
mod plan;
mod shell;
mod standalone;
mod toolchain;
mod version;

pub use bootstrap::{bootstrap, jobs};
pub use error::{BaseError, SignatureProblem};
pub use plan::{DebianPlan, PythonSource, Suite, debian_slim_plan};
pub use shell::quote;
pub use standalone::added_python;
pub use toolchain::{Own as OwnCompilers, Toolchain};
