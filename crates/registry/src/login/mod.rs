//! Logins: those of the host, which `docker login` and `podman login` keep, and those of secrets.

mod amazon;
mod files;
mod google;
mod helper;
mod secret;

use data_encoding::BASE64;
pub use secret::Provider;

/// How somebody shows a registry who they are.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// By a name and a password, or a token in its place.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// By a token that the registry's token service takes instead of a password, and no one else.
    IdentityToken(String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => {
                formatter.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            Self::IdentityToken(_) => formatter.debug_struct("IdentityToken").finish_non_exhaustive(),
        }
    }
}

impl Login {
    fn password(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password { user: user.into(), password: password.into() }
    }

    /// What a request says; `None` if only a token service can be told.
    pub(crate) fn header(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                Some(format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes())))
            }
            Self::IdentityToken(_) => None,
        }
    }
}
