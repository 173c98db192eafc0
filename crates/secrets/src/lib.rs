//! Named secrets: environment variables that are kept under a name, for programs to ask for.
//!
//! Each is a file that only its user may read, in a directory that only they may enter. Neither sandboxes nor the store
//! worker can reach it: both see the store's content alone, and this lies beside that.

mod error;
mod files;
mod name;

pub use error::SecretsError;
pub use files::{ListedSecret, NamedSecrets, Values};
pub use name::SecretName;
