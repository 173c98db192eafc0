//! Images on their way out of the store.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicUsize;

use lamina_cache::Uploaded;
use lamina_events::Sink;
use lamina_fetch::Client;
use lamina_ground::{DEFAULT_PATH, EnvVars};
use lamina_image::container::{COMMAND, HOME, INTERPRETERS, python_path};
use lamina_registry::{Format, How, OutLayer, Outgoing, Pushed, Reference, Registry, original_form};
use lamina_store::{ArchiveRecord, ImageName, ImageRecord, NamedImage, Origin, Store};

use crate::{Engine, EngineError};

/// An image that is to leave, and how.
#[derive(Debug)]
pub struct Parcel {
    /// The image.
    pub image: ImageRecord,
    /// How its layers are packed.
    pub how: How,
    /// What it was made by.
    pub origin: Origin,
}

/// Where an image is written.
#[derive(Debug)]
pub enum Target<'a> {
    /// A file, in this form.
    File(OwnedFd, Format),
    /// An empty directory, as an OCI layout.
    Directory(&'a Path),
    /// An empty directory, as a Dockerfile with what it adds.
    Dockerfile(&'a Path),
}

impl Engine {
    /// The image with this id, or a beginning of it, or with this name; with the name and what gave it.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn find_image(
        &self,
        reference: &str,
        environment: &str,
    ) -> Result<(ImageRecord, Option<NamedImage>), EngineError> {
        if reference.starts_with("im-") {
            return Ok((self.image(reference)?, None));
        }
        let (name, tag) = reference.split_once(':').unwrap_or((reference, "latest"));
        let name = ImageName { environment: environment.to_owned(), name: name.to_owned(), tag: tag.to_owned() };
        let Some(named) = self.store.named_image(&name)? else {
            return Err(EngineError::NoSuchName(name));
        };
        Ok((self.image(&named.image)?, Some(named)))
    }

    /// Changes how things are run in an image that has a program's functions and what runs them: the environment of containers,
    /// their user, and an entrypoint that serves one call.
    ///
    /// # Errors
    /// When it cannot be told what is in the image.
    pub fn serve_functions(&self, image: &mut ImageRecord) -> Result<(), EngineError> {
        let facts = image.facts.read().ok_or_else(|| EngineError::ImageGone(image.id.clone()))?;
        let python = facts.python.map_or_else(|| INTERPRETERS[1].to_owned(), |python| python.interpreter);
        let config = &mut image.config;
        let search = python_path(config.environment.get("PYTHONPATH").map(String::as_str));
        config.environment.insert("PYTHONPATH".to_owned(), search);
        config.environment.insert(EnvVars::MODAL_IS_REMOTE.to_owned(), "1".to_owned());
        config.environment.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
        config.environment.entry("HOME".to_owned()).or_insert_with(|| HOME.to_owned());
        config.working_directory.get_or_insert_with(|| HOME.to_owned());
        config.user = None;
        // These are about the service that the base would be by itself.
        config.healthcheck = None;
        config.stop_signal = None;
        config.command.clear();
        config.entrypoint.extend([python, COMMAND.to_owned()]);
        Ok(())
    }

    /// Writes an image with its configuration. `tag` is what it is called in there; `progress` hears how many layers of
    /// all are done. Answers how many have other digests than the archives that they came in, which are not here any more.
    ///
    /// # Errors
    /// When the image's layers are gone, hold what cannot be in archives, or the target cannot be written.
    pub fn export(
        &self,
        parcel: &Parcel,
        target: Target<'_>,
        tag: Option<&str>,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<usize, EngineError> {
        let store = self.store.on_behalf_of(&self.cancel, &Sink::none());
        let outgoing = self.outgoing(&store, parcel, progress)?;
        match target {
            Target::File(file, format) => outgoing.write(format, file, tag)?,
            Target::Directory(directory) => outgoing.write_directory(directory, tag)?,
            Target::Dockerfile(directory) => outgoing.write_dockerfile(directory)?,
        }
        Ok(outgoing.made_anew.into_inner())
    }

    /// Sends an image with its configuration to a registry, with the host's login. `progress` hears how many layers of all are
    /// done.
    ///
    /// # Errors
    /// When the image's layers are gone or hold what cannot be in archives, or the registry does not take it.
    pub fn push(
        &self,
        parcel: &Parcel,
        to: &Reference,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Pushed, EngineError> {
        let store = self.store.on_behalf_of(&self.cancel, &Sink::none());
        let outgoing = self.outgoing(&store, parcel, progress)?;
        let originals = outgoing.layers.iter().filter_map(|layer| layer.original.as_ref());
        let sources = originals.flat_map(|original| original.repositories.iter().map(String::as_str));
        let registry = Registry::for_push(to, &Client::new(self.cancel.clone()), sources)?;
        Ok(outgoing.push(&registry)?)
    }

    /// Brings layers to shared caches that builds have noted for it, after whoever is at it; `waiting` is called if it has to wait.
    ///
    /// # Errors
    /// When cancelled, or the store cannot be read. What goes wrong with a cache is a part of the answer.
    pub fn upload(&self, waiting: impl FnOnce()) -> Result<Uploaded, EngineError> {
        let store = self.store.on_behalf_of(&self.cancel, &Sink::none());
        Ok(lamina_cache::upload(&store, &self.cancel, waiting)?)
    }

    /// An image, whose layers stay as long as this process lives.
    fn outgoing<'a>(
        &'a self,
        store: &'a Store,
        parcel: &'a Parcel,
        progress: &'a (dyn Fn(usize) + Sync),
    ) -> Result<Outgoing<'a>, EngineError> {
        let Parcel { image, how, origin } = parcel;
        let digests = image.layers.bottom_up();
        if !store.hold(digests)? {
            return Err(EngineError::ImageGone(image.id.clone()));
        }
        let layers = self.image_layers(image)?.into_iter().enumerate().map(|(index, layer)| {
            let record = layer.record.as_ref();
            let title =
                image.titles.get(index).filter(|title| !title.is_empty()).or(record.map(|record| &record.title));
            let mut original = store.archive(&layer.digest, &original_form(&digests[..index]))?;
            // A layer that was made here may have come as well; the image did not begin with that one.
            if record.is_none_or(|record| record.material["kind"] != "from_registry") {
                original = original.map(|original| ArchiveRecord { image: None, ..original });
            }
            Ok(OutLayer {
                digest: layer.digest,
                title: title.cloned().unwrap_or_default(),
                created: record.map_or(image.created, |record| record.created),
                original,
            })
        });
        let layers = layers.collect::<Result<_, EngineError>>()?;
        let (id, config, cancel) = (image.id.clone(), &image.config, &self.cancel);
        Ok(Outgoing { store, id, layers, config, origin, how: *how, cancel, progress, made_anew: AtomicUsize::new(0) })
    }
}
