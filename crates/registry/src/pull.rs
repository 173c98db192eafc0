//! Layers of an image on their way into the store.

use std::os::fd::AsFd;
use std::path::Path;

use lamina_fetch::{FetchError, Progress};
use lamina_ground::Stack;
use lamina_image::Digest;
use lamina_store::{Store, Work};

use crate::client::Part;
use crate::unpack::UnpackLayer;
use crate::{Registry, RegistryError};

impl Registry {
    /// Fetches layers into `directory`, several at a time; those that are there are not fetched again.
    ///
    /// # Errors
    /// When one cannot be fetched, or is not what its digest says.
    pub fn fetch(
        &self,
        parts: &[&Part],
        directory: &Path,
        connections: usize,
        progress: Progress<'_>,
    ) -> Result<(), RegistryError> {
        let downloads: Vec<_> = parts.iter().map(|part| part.download.clone()).collect();
        let fetch = || {
            let arrived = |_, _| Ok::<_, FetchError>(());
            self.client().download_all(&downloads, directory, connections, progress, arrived)
        };
        let fetched = match fetch() {
            // Tokens are for some minutes, and layers may take longer.
            Err(FetchError::Status { status: 401, .. }) => {
                self.log_in()?;
                fetch()
            }
            fetched => fetched,
        };
        fetched.map_err(|error| self.refused(error))
    }
}

/// Unpacks a fetched layer over those below, and answers the work with it.
///
/// # Errors
/// When it is no layer, or not the one that the image's configuration names.
pub fn unpack(part: &Part, directory: &Path, below: &Stack<Digest>, store: &Store) -> Result<Work, RegistryError> {
    let path = directory.join(&part.download.sha256);
    let file = fs_err::File::open(&path).map_err(FetchError::Io)?;
    let work = store.new_work()?;
    let job = UnpackLayer {
        work: work.id().to_owned(),
        below: store.view_paths(below),
        compression: part.compression,
        diff_id: part.diff_id.clone(),
        name: format!("sha256:{}", part.download.sha256),
    };
    store.job(&job, &[file.as_fd()])?;
    Ok(work)
}
