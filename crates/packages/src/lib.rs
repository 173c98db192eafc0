//! Packages that the store keeps unpacked, whatever their kind: each has descriptions of what it consists of, and
//! installing it is placing its files, which are objects of the store, into the bare upper of a step. Everything here
//! runs in the store worker.

mod contents;
mod descriptions;
mod layers;

pub use contents::{Content, Contents, File, Linked, NOT_LINKABLE, Package};
pub use descriptions::{Descriptions, file_name};
pub use layers::{Directory, Entry, Layers, read_text};

/// Kind of a `JobError`: a package, or an object that its description names, is not in the store any more.
pub const MISSING: lamina_store::JobErrorKind = lamina_store::JobErrorKind::new("package-missing");
