//! The ways of placing files into views; `worker/place.rs` says what they are.

use serde::{Deserialize, Serialize};

/// Which way files get into views.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Placing {
    /// Metadata that names an object.
    Redirects,
    /// Copies, in small views of a store whose others have redirects: they need no overlay of their own.
    Copies,
    /// Copies that share their blocks with objects.
    Clones,
    /// A link for the first path that has an object's bytes, copies for all others.
    Links,
}

impl Placing {
    /// The directory of views, below the content directory.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Redirects | Self::Copies => "views",
            Self::Clones | Self::Links => "copies",
        }
    }
}
