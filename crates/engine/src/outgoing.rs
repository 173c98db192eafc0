//! Images on their way out of the store.

use std::os::fd::OwnedFd;
use std::path::Path;

use lamina_events::Sink;
use lamina_fetch::Client;
use lamina_registry::{Format, How, OutLayer, Outgoing, Pushed, Reference, Registry, original_form};
use lamina_store::{ImageName, ImageRecord, NamedImage, Store};

use crate::{Engine, EngineError};

/// Where an image is written.
#[derive(Debug)]
pub enum Target<'a> {
    /// A file, in this form.
    File(OwnedFd, Format),
    /// An empty directory, as an OCI layout.
    Directory(&'a Path),
}

impl Engine {
    /// The image with this id, or a beginning of it, or with this name; with the name.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn find_image(
        &self,
        reference: &str,
        environment: &str,
    ) -> Result<(ImageRecord, Option<ImageName>), EngineError> {
        if reference.starts_with("im-") {
            return Ok((self.image(reference)?, None));
        }
        let (name, tag) = reference.split_once(':').unwrap_or((reference, "latest"));
        let name = ImageName { environment: environment.to_owned(), name: name.to_owned(), tag: tag.to_owned() };
        let Some(NamedImage { image, .. }) = self.store.named_image(&name)? else {
            return Err(EngineError::NoSuchName(name));
        };
        Ok((self.image(&image)?, Some(name)))
    }

    /// Writes an image with its configuration. `tag` is what it is called in there; `progress` hears how many layers of
    /// all are done.
    ///
    /// # Errors
    /// When the image's layers are gone, hold what cannot be in archives, or the target cannot be written.
    pub fn export(
        &self,
        image: &ImageRecord,
        how: How,
        target: Target<'_>,
        tag: Option<&str>,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<(), EngineError> {
        let store = self.store.on_behalf_of(&self.cancel, &Sink::none());
        let outgoing = self.outgoing(&store, image, how, progress)?;
        match target {
            Target::File(file, format) => outgoing.write(format, file, tag)?,
            Target::Directory(directory) => outgoing.write_directory(directory, tag)?,
        }
        Ok(())
    }

    /// Sends an image with its configuration to a registry, with the host's login. `progress` hears how many layers of all are
    /// done.
    ///
    /// # Errors
    /// When the image's layers are gone or hold what cannot be in archives, or the registry does not take it.
    pub fn push(
        &self,
        image: &ImageRecord,
        how: How,
        to: &Reference,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Pushed, EngineError> {
        let store = self.store.on_behalf_of(&self.cancel, &Sink::none());
        let outgoing = self.outgoing(&store, image, how, progress)?;
        let originals = outgoing.layers.iter().filter_map(|layer| layer.original.as_ref());
        let sources = originals.flat_map(|original| original.repositories.iter().map(String::as_str));
        let registry = Registry::for_push(to, &Client::new(self.cancel.clone()), sources)?;
        Ok(outgoing.push(&registry)?)
    }

    /// An image, whose layers stay as long as this process lives.
    fn outgoing<'a>(
        &'a self,
        store: &'a Store,
        image: &'a ImageRecord,
        how: How,
        progress: &'a (dyn Fn(usize) + Sync),
    ) -> Result<Outgoing<'a>, EngineError> {
        let digests = image.layers.bottom_up();
        if !store.hold(digests)? {
            return Err(EngineError::ImageGone(image.id.clone()));
        }
        let layers = self.image_layers(image)?.into_iter().enumerate().map(|(index, layer)| {
            let record = layer.record.as_ref();
            let title =
                image.titles.get(index).filter(|title| !title.is_empty()).or(record.map(|record| &record.title));
            Ok(OutLayer {
                digest: layer.digest,
                title: title.cloned().unwrap_or_default(),
                created: record.map_or(image.created, |record| record.created),
                original: store.archive(&layer.digest, &original_form(&digests[..index]))?,
            })
        });
        let layers = layers.collect::<Result<_, EngineError>>()?;
        let (id, config, cancel) = (image.id.clone(), &image.config, &self.cancel);
        Ok(Outgoing { store, id, layers, config, how, cancel, progress })
    }
}
