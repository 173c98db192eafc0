//! What the command line asks about images.

use std::path::PathBuf;

use lamina_store::ImageRecord;

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
        self.store.find_image(id)?.ok_or_else(|| EngineError::UnknownImage(id.to_owned()))
    }

    /// The logs of an image's steps, base first.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn image_logs(&self, id: &str) -> Result<Vec<ImageLog>, EngineError> {
        let directory = self.store.layout().logs();
        let logs = self.image(id)?.logs.into_iter();
        Ok(logs.map(|(title, path)| ImageLog { title, path: directory.join(path) }).collect())
    }
}
