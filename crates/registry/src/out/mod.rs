//! Images on their way out of the store.

mod blobs;
mod compress;
mod cut;
mod dockerfile;
mod document;
mod export;
mod frames;
mod layer_tar;
mod push;
mod tar;

use std::sync::atomic::AtomicUsize;

use lamina_events::CancelToken;
use lamina_image::RuntimeConfig;
use lamina_store::{Origin, Store};

pub use blobs::{How, OutLayer, original_form};
pub(crate) use compress::decompressed;
pub use export::Format;
pub use layer_tar::NOT_PORTABLE;
pub use push::Pushed;
pub use tar::Times;

/// An image on its way out.
pub struct Outgoing<'a> {
    /// The store that it is in.
    pub store: &'a Store,
    /// Its id.
    pub id: String,
    /// Its layers, the lowest first.
    pub layers: Vec<OutLayer>,
    /// How things are run in it.
    pub config: &'a RuntimeConfig,
    /// What it was made by.
    pub origin: &'a Origin,
    /// How its layers are packed.
    pub how: How,
    /// Stops it.
    pub cancel: &'a CancelToken,
    /// Told how many layers are done.
    pub progress: &'a (dyn Fn(usize) + Sync),
    /// Layers so far that have other digests than the archives that they came in, because these are not here any more.
    pub made_anew: AtomicUsize,
}

impl Outgoing<'_> {
    fn archives(&self) -> blobs::Archives<'_> {
        blobs::Archives { store: self.store, how: self.how, cancel: self.cancel, made_anew: &self.made_anew }
    }

    fn advanced(&self, layers: usize) {
        (self.progress)(layers);
    }
}

/// Registers what the store worker does for images that leave the store.
pub(crate) fn jobs(table: lamina_store::JobTable) -> lamina_store::JobTable {
    table.register::<layer_tar::WriteLayer>().register::<layer_tar::WriteRoot>()
}
