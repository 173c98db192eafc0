//! Debian's archive: release files, their signatures, and package indexes.

use crate::BaseError;

/// Debian's name of this machine's architecture.
pub(crate) fn architecture() -> Result<&'static str, BaseError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => Err(BaseError::Architecture(other.into())),
    }
}
