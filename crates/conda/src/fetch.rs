//! Reading files of channels, over the network or from this machine.

use std::io::Read;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use fs_err::File;
use lamina_fetch::FetchError;
use lamina_workshop::Workshop;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::CondaError;

/// The path that a `file` address names.
pub(crate) fn local_path(url: &Url) -> Option<PathBuf> {
    if url.scheme() == "file" { url.to_file_path().ok() } else { None }
}

/// Reads a file of at most `limit` bytes; `None` if it is not there.
pub(crate) fn read(url: &Url, limit: u64, workshop: &Workshop<'_>) -> Result<Option<Vec<u8>>, CondaError> {
    let Some(path) = local_path(url) else {
        return match workshop.fetch.get(url.as_str(), limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(FetchError::Cancelled(cancelled)) => Err(cancelled.into()),
            Err(error) => Err(error.into()),
        };
    };
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(CondaError::Local)?,
    };
    let mut bytes = Vec::new();
    workshop.cancel.watch(file).take(limit + 1).read_to_end(&mut bytes).map_err(CondaError::Local)?;
    if bytes.len() as u64 > limit {
        let reason = format!("`{}` is larger than {limit} bytes", path.display());
        return Err(CondaError::Local(std::io::Error::other(reason)));
    }
    Ok(Some(bytes))
}

/// Opens a package of this machine, if it is the one that the index announced.
pub(crate) fn open_local(path: &Path, sha256: &str, workshop: &Workshop<'_>) -> Result<File, CondaError> {
    let mut file = File::open(path).map_err(CondaError::Local)?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut workshop.cancel.watch(&mut file), &mut hasher).map_err(|error| {
        match workshop.cancel.check() {
            Err(cancelled) => cancelled.into(),
            Ok(()) => CondaError::Local(error),
        }
    })?;
    let found = HEXLOWER.encode(&hasher.finalize());
    if found == sha256 {
        return Ok(file);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let reason = format!("its SHA-256 is `{found}`, but the channel's index announces `{sha256}`");
    Err(CondaError::Package { package: name, reason })
}
