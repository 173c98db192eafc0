//! The id map of a store: recorded once, because the owners of its files depend on it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lamina_sandbox::IdMap;

use crate::EngineError;

/// The id map of a store that is opened: as recorded in `path`, with what the user has got since, or the present user's,
/// recorded now.
pub(crate) fn open(path: &Path) -> Result<IdMap, EngineError> {
    let mut map = load_or_record(path)?;
    if map.has_the_user_as_root() {
        return Err(EngineError::UserAsRoot { path: path.to_owned() });
    }
    if map.extend() {
        // Whoever does the same at the same time writes the same.
        let own = write_own(path, &map)?;
        fs_err::rename(own, path)?;
    }
    Ok(map)
}

/// The id map recorded in `path`, or the present user's, recorded now.
pub(crate) fn load_or_record(path: &Path) -> Result<IdMap, EngineError> {
    match fs_err::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| EngineError::IdMap { path: path.to_owned(), reason: error.to_string() }),
        Err(error) if error.kind() == ErrorKind::NotFound => record(path),
        Err(error) => Err(error.into()),
    }
}

/// Records the present user's map. Processes that do so together agree on the one that is recorded first.
fn record(path: &Path) -> Result<IdMap, EngineError> {
    let map = IdMap::for_current_user()?;
    let own = write_own(path, &map)?;
    let linked = fs_err::hard_link(&own, path);
    fs_err::remove_file(&own)?;
    match linked {
        Ok(()) => Ok(map),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => load_or_record(path),
        Err(error) => Err(error.into()),
    }
}

/// Writes a map under a name that only this process uses.
fn write_own(path: &Path, map: &IdMap) -> Result<PathBuf, EngineError> {
    let bytes = serde_json::to_vec_pretty(map).map_err(std::io::Error::from)?;
    let own = path.with_extension(format!("json.{}", std::process::id()));
    fs_err::write(&own, bytes)?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_map_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("idmap.json");
        let first = load_or_record(&path).unwrap();
        assert_eq!(
            serde_json::to_string(&load_or_record(&path).unwrap()).unwrap(),
            serde_json::to_string(&first).unwrap()
        );
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 1);
        fs_err::write(&path, "{").unwrap();
        assert!(load_or_record(&path).unwrap_err().to_string().contains("damaged"));
    }
}
