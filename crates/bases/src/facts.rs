//! What is known about a finished base.

use serde::{Deserialize, Serialize};

use crate::Suite;

/// What the steps on top of a base, and the user, need to know about it. Recorded beside its layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFacts {
    /// The release of Debian.
    pub suite: Suite,
    /// The Python series, for example `3.11`.
    pub python: String,
    /// The full Python version, for example `3.11.2`.
    pub python_version: String,
    /// The interpreter's path.
    pub interpreter: String,
    /// Where `pip install` puts packages.
    pub site_packages: String,
    /// Where `pip install` puts scripts.
    pub scripts: String,
    /// The environment of everything that runs on the base.
    pub environment: Vec<(String, String)>,
    /// Debian's architecture, for example `amd64`.
    pub architecture: String,
    /// SHA-256 over the names, versions and digests of the packages: equal lists give equal bases.
    pub packages_digest: String,
    /// How many packages there are.
    pub packages: u64,
    /// When the newest of the release files used was made, in seconds since 1970.
    pub released: u64,
}
