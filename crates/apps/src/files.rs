//! Files of records, which may be anything's by the time somebody looks at them.

use std::io::ErrorKind;
use std::path::Path;

use fs_err::os::unix::fs::OpenOptionsExt;

use crate::AppsError;

/// The options of a new file that only its owner may read: arguments and output may hold secrets.
pub(crate) fn private_file() -> fs_err::OpenOptions {
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
}

/// The bytes of a file of a record; nothing where something else has its name, or nobody may look.
pub(crate) fn read_file(path: &Path) -> Result<Option<Vec<u8>>, AppsError> {
    if !is_file(path) {
        return Ok(None);
    }
    match fs_err::read(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// Whether this is a regular file. Opening something else may wait for ever.
pub(crate) fn is_file(path: &Path) -> bool {
    fs_err::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}
