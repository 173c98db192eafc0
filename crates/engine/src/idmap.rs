//! The id map of a store: recorded once, because the owners of its files depend on it.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lamina_sandbox::{IdMap, IdRange, SandboxError};
use lamina_store::Layout;

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

/// Refuses a map that the store's content was not made with: its files would be somebody else's.
pub(crate) fn check_owner(layout: &Layout, map: &IdMap) -> Result<(), EngineError> {
    let found = fs_err::metadata(layout.content())?.uid();
    // In a new store it is still the caller's.
    if found == map.root_uid() || found == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(EngineError::OtherOwner { path: layout.id_map_file(), recorded: map.root_uid(), found })
}

/// Why a recorded map cannot be used, if that is because the user has other ids now.
pub(crate) fn explain(error: EngineError, path: &Path, map: &IdMap) -> EngineError {
    match IdMap::for_current_user() {
        Ok(present) if matches!(error, EngineError::Sandbox(SandboxError::IdMap { .. })) && present != *map => {
            let (recorded, present) = (ranges(&map.uids), ranges(&present.uids));
            EngineError::OtherIds { path: path.to_owned(), recorded, present }
        }
        _ => error,
    }
}

/// The host's ids of a map.
fn ranges(ids: &[IdRange]) -> String {
    let range = |range: &IdRange| match range.count {
        1 => format!("`{}`", range.outside),
        count => format!("`{}-{}`", range.outside, u64::from(range.outside) + u64::from(count) - 1),
    };
    ids.iter().map(range).collect::<Vec<_>>().join(" and ")
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
    use lamina_ground::Hint;

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

    #[test]
    fn a_map_of_other_ids_is_told_from_the_store_s_own() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&directory.path().join("store")).unwrap();
        let own = IdMap::single();
        check_owner(&layout, &own).unwrap();
        let refusal = |map: &IdMap| {
            let error = SandboxError::IdMap { reason: "r".into(), hint: "Run x".into() };
            explain(error.into(), Path::new("/s/idmap.json"), map)
        };
        let other = IdMap { uids: vec![IdRange { inside: 0, outside: 4_000_000_000, count: 65_536 }], ..own };
        let message = refusal(&other).to_string();
        assert!(message.contains("made with the user ids `4000000000-4000065535`, as `/s/idmap.json`"), "{message}");
        let present = IdMap::for_current_user().unwrap();
        assert_eq!(refusal(&present).hint().as_deref(), Some("Run x"));
    }
}
