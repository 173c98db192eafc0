//! What the command line asks about images.

use std::path::PathBuf;

use lamina_ground::seconds_since_1970;
use lamina_image::{Digest, LayerKey};
use lamina_store::{Checked, Collected, ImageName, ImageRecord, LayerRecord, NamedImage, Origin, Policy, Usage};

use crate::{Engine, EngineError};

/// The log of one step of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLog {
    /// The step as the user wrote it.
    pub title: String,
    /// The file that holds the full log.
    pub path: PathBuf,
}

impl ImageLog {
    /// What the step printed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, EngineError> {
        Ok(fs_err::read(&self.path)?)
    }
}

/// Characters after `im-` that an abbreviated id has at least: no slip of the hand shall name an image.
const LEAST_OF_ID: usize = 4;

/// A layer of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageLayer {
    /// Digest of its diff tree.
    pub digest: Digest,
    /// How it was made; unknown when its step was rebuilt since with another result.
    pub record: Option<LayerRecord>,
}

impl Engine {
    /// All images, last used first.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn images(&self) -> Result<Vec<ImageRecord>, EngineError> {
        Ok(self.store.list_images()?)
    }

    /// The image whose id is `id` or starts with it.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn image(&self, id: &str) -> Result<ImageRecord, EngineError> {
        if id.strip_prefix("im-").is_none_or(|rest| rest.len() < LEAST_OF_ID) {
            return Err(EngineError::NoImageId(id.to_owned()));
        }
        self.store.find_image(id)?.ok_or_else(|| EngineError::UnknownImage(id.to_owned()))
    }

    /// Gives an image a name, which another one may have had.
    ///
    /// # Errors
    /// When there is no such image, or the index cannot be written.
    pub fn publish(&self, id: &str, name: ImageName, origin: Origin) -> Result<(), EngineError> {
        let image = self.image(id)?.id;
        Ok(self.store.name_image(&NamedImage { name, image, created: seconds_since_1970(), origin })?)
    }

    /// All names of images, in their order.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn image_names(&self) -> Result<Vec<NamedImage>, EngineError> {
        Ok(self.store.image_names()?)
    }

    /// Takes names away from their images; says whether there was any.
    ///
    /// # Errors
    /// When the index cannot be read or written.
    pub fn unpublish(&self, name: &ImageName) -> Result<bool, EngineError> {
        let is_known = self.store.named_image(name)?.is_some();
        self.store.unname_image(name)?;
        Ok(is_known)
    }

    /// The logs of an image's steps, base first.
    #[must_use]
    pub fn image_logs(&self, image: &ImageRecord) -> Vec<ImageLog> {
        let directory = self.store.layout().logs();
        let log = |(title, path): &(String, String)| ImageLog { title: title.clone(), path: directory.join(path) };
        image.logs.iter().map(log).collect()
    }

    /// The layers of an image, base first.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn image_layers(&self, image: &ImageRecord) -> Result<Vec<ImageLayer>, EngineError> {
        let layer = |(digest, key): (&Digest, &LayerKey)| -> Result<ImageLayer, EngineError> {
            let record = self.store.layer_record(key)?.filter(|record| record.digests().bottom_up().contains(digest));
            Ok(ImageLayer { digest: *digest, record })
        };
        image.layers.bottom_up().iter().zip(&image.keys).map(layer).collect()
    }

    /// What takes up the disk.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn usage(&self) -> Result<Usage, EngineError> {
        Ok(self.store.usage()?)
    }

    /// Removes images and everything that nothing needs any more, except what running processes use. `waiting` is called
    /// when it has to wait for one of them.
    ///
    /// # Errors
    /// When an image does not exist, or something cannot be removed.
    pub fn prune(&self, policy: &Policy, waiting: &dyn Fn()) -> Result<Collected, EngineError> {
        let ids = policy.ids.iter().map(|id| Ok(self.image(id)?.id)).collect::<Result<_, EngineError>>()?;
        let policy = Policy { ids, ..policy.clone() };
        Ok(self.store.collect(&policy, &self.cancel, waiting)?)
    }

    /// Reads every byte of an image's layers, or of everything that the store has. `progress` hears how many parts of all
    /// are done.
    ///
    /// # Errors
    /// When there is no such image, the store cannot be read, or on cancellation.
    pub fn check(&self, id: Option<&str>, progress: &dyn Fn(usize, usize)) -> Result<Checked, EngineError> {
        let image = id.map(|id| self.image(id)).transpose()?;
        Ok(self.store.check(image.as_ref().map(|image| image.layers.bottom_up()), &self.cancel, progress)?)
    }

    /// Mends what a check found. `waiting` is called when it has to wait for other processes.
    ///
    /// # Errors
    /// When something cannot be read or written, or on cancellation.
    pub fn repair(&self, checked: &mut Checked, waiting: &dyn Fn()) -> Result<(), EngineError> {
        Ok(self.store.repair(checked, &self.cancel, waiting)?)
    }
}
