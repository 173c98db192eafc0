//! Archives of files, which become images of one layer without settings.

use data_encoding::HEXLOWER;
use lamina_events::CancelToken;
use lamina_fetch::Download;
use lamina_image::RuntimeConfig;
use sha2::{Digest as _, Sha256};

use super::files::{Files, WHOLE};
use super::{Found, LocalImage, hash};
use crate::RegistryError;
use crate::client::{Image, Part};
use crate::unpack::Compression;

/// The image of all files of an archive.
pub(super) fn find(wanted: &LocalImage, files: &Files, cancel: &CancelToken) -> Result<Found, RegistryError> {
    let whole = files.get(WHOLE).ok().flatten().filter(|_| matches!(files, Files::Archive(_)));
    let (length, mut reader) = whole.ok_or_else(|| {
        wanted
            .unreadable("the directory is no OCI layout: it has no `index.json`; files come as an archive, by `tar -c`")
    })?;
    if files.is_empty() {
        return Err(wanted.unreadable("it is no archive, or has no files"));
    }
    let mut hasher = Sha256::new();
    hash(&mut reader, &mut hasher, cancel).map_err(|error| wanted.unreadable(error))?;
    let sha256 = HEXLOWER.encode(&hasher.finalize());
    let download = Download { url: String::new(), sha256: sha256.clone(), size: Some(length) };
    let layers = vec![Part { download, compression: Compression::None, table: None, diff_id: sha256 }];
    let image = Image { digest: None, layers, triggers: Vec::new(), config: RuntimeConfig::default() };
    Ok(Found { image, names: vec![WHOLE.to_owned()], config: String::new() })
}
