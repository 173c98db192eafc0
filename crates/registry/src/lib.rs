//! Images of registries: what a name means, the logins of the host, manifests, and layers that become layers of the store.
//!
//! The protocol is that of the OCI distribution specification, which Docker's registries speak as well. Everything that has
//! a digest is checked against it: manifest, configuration, compressed layers while they arrive, and the archives in them
//! while they are unpacked, which the store worker does ([`jobs`]).

mod arrival;
mod certificates;
mod chunked;
mod client;
mod error;
mod here;
mod login;
mod manifest;
mod out;
mod pax;
mod pieces;
mod pull;
mod reference;
mod repository;
mod sending;
mod settings;
mod tree;
mod unpack;

pub use arrival::Arrival;
pub use chunked::Pieces;
pub use client::{Image, Part, Registry};
pub use error::RegistryError;
pub use here::{LocalImage, OpenImage};
pub use login::{Login, Provider};
pub use manifest::{Descriptor, Platform};
pub use out::{Format, How, NOT_PORTABLE, OutLayer, Outgoing, Pushed, Times, original_form};
pub use pull::{unpack, unpack_archive, unpack_pieces};
pub use reference::{DEFAULT_REGISTRY, Reference, ReferenceError};
pub use repository::Repository;
pub use unpack::{Compression, MALFORMED};

/// Registers what the store worker does for images of registries.
#[must_use]
pub fn jobs(table: lamina_store::JobTable) -> lamina_store::JobTable {
    out::jobs(table.register::<unpack::UnpackLayer>().register::<pieces::FindFiles>())
}
