//! What the store worker does for a bootstrap: laying out the root, unpacking packages, tidying up.

pub(crate) mod deb;
pub(crate) mod filter;
pub(crate) mod lay_out;
pub(crate) mod strip;
pub(crate) mod tidy;
pub(crate) mod tree;
pub(crate) mod unpack;

use lamina_store::{JobError, JobErrorKind};

/// Kind of errors about packages that are not what they should be.
pub(crate) const MALFORMED: JobErrorKind = JobErrorKind::new("malformed");

/// An error about a package or archive that is not what it should be.
pub(crate) fn malformed(name: &str, reason: impl std::fmt::Display) -> JobError {
    JobError::new(MALFORMED, format!("`{name}` is malformed: {reason}"))
}
