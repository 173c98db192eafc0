//! The id map of a store: recorded once, because the owners of its files depend on it.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lamina_sandbox::{IdMap, IdRange, SandboxError};
use lamina_store::Layout;

use crate::EngineError;

/// The id map of a store that is opened: as recorded, with what the user has got since, or the present user's, recorded now.
pub(crate) fn open(layout: &Layout) -> Result<IdMap, EngineError> {
    let path = layout.id_map_file();
    let mut map = match known(layout)? {
        Some(map) => map,
        None => record(layout)?,
    };
    if map.extend() {
        // Whoever does the same at the same time writes the same.
        let own = write_own(&path, &map)?;
        fs_err::rename(own, path)?;
        sync_names(layout)?;
    }
    Ok(map)
}

/// The id map that a store has, if it can be used; nothing where the present user's is as good.
pub(crate) fn known(layout: &Layout) -> Result<Option<IdMap>, EngineError> {
    let Some(map) = recorded(layout)? else { return Ok(None) };
    if map.has_the_user_as_root() {
        return Err(EngineError::UserAsRoot { path: layout.id_map_file() });
    }
    check_owner(layout, &map)?;
    Ok(Some(map))
}

/// The recorded id map; nothing where the present user's is as good.
pub(crate) fn recorded(layout: &Layout) -> Result<Option<IdMap>, EngineError> {
    let path = layout.id_map_file();
    let reason = match fs_err::read(&path) {
        Ok(bytes) => match serde_json::from_slice::<IdMap>(&bytes) {
            Ok(map) if map.is_sound() => return Ok(Some(map)),
            Ok(_) => "is damaged (its ranges do not follow each other)".to_owned(),
            Err(error) => format!("is damaged ({error})"),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => "is missing".to_owned(),
        Err(error) => return Err(error.into()),
    };
    let owner = fs_err::metadata(layout.content())?.uid();
    let map = IdMap::for_current_user()?;
    if is_made_with(layout, owner, &map)? { Ok(None) } else { Err(EngineError::IdMap { path, reason, owner }) }
}

/// Whether the files of a store, whose content belongs to `owner`, can only have been made with this map.
fn is_made_with(layout: &Layout, owner: u32, map: &IdMap) -> Result<bool, EngineError> {
    if owner == map.root_uid() {
        // The first range is that of the owner. The order of more than one other depends on when the user got them.
        return Ok(map.uids.len() <= 2 && map.gids.len() <= 2);
    }
    // A new store is still the caller's.
    Ok(owner == rustix::process::geteuid().as_raw() && fs_err::read_dir(layout.content())?.next().is_none())
}

/// Records the present user's map. Processes that do so together agree on the one that is recorded first.
fn record(layout: &Layout) -> Result<IdMap, EngineError> {
    let path = layout.id_map_file();
    let map = IdMap::for_current_user()?;
    let own = write_own(&path, &map)?;
    let map = match fs_err::hard_link(&own, &path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match recorded(layout) {
            Ok(Some(first)) => Ok(first),
            // A damaged one. Whoever else replaces it writes the same.
            Ok(None) => {
                fs_err::rename(own, path)?;
                sync_names(layout)?;
                return Ok(map);
            }
            Err(error) => Err(error),
        },
        linked => linked.map(|()| map).map_err(EngineError::from),
    };
    fs_err::remove_file(&own)?;
    sync_names(layout)?;
    map
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

/// Writes a map, through to the disk, under a name that only this process uses.
fn write_own(path: &Path, map: &IdMap) -> Result<PathBuf, EngineError> {
    let bytes = serde_json::to_vec_pretty(map).map_err(std::io::Error::from)?;
    let own = path.with_extension(format!("json.{}", std::process::id()));
    let mut file = fs_err::File::create(&own)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    Ok(own)
}

/// Writes through to the disk what the files of the store are called.
fn sync_names(layout: &Layout) -> Result<(), EngineError> {
    Ok(fs_err::File::open(layout.root())?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use lamina_ground::Hint;

    use super::*;

    fn store(directory: &Path) -> Layout {
        Layout::prepare(&directory.join("store")).unwrap()
    }

    /// Gives the content of a store to somebody else, which only root can.
    fn give_away(layout: &Layout, owner: u32) -> bool {
        std::os::unix::fs::chown(layout.content(), Some(owner), Some(owner)).is_ok()
    }

    #[test]
    fn the_first_map_stays() {
        let directory = tempfile::tempdir().unwrap();
        let layout = store(directory.path());
        let entries = fs_err::read_dir(layout.root()).unwrap().count();
        let first = record(&layout).unwrap();
        assert_eq!(record(&layout).unwrap(), first);
        assert_eq!(recorded(&layout).unwrap(), Some(first));
        assert_eq!(fs_err::read_dir(layout.root()).unwrap().count(), entries + 1);
    }

    #[test]
    fn a_damaged_map_is_made_again_where_it_can_only_be_the_present_one() {
        let directory = tempfile::tempdir().unwrap();
        let layout = store(directory.path());
        let map = open(&layout).unwrap();
        let gaps = r#"{"uids":[{"inside":7,"outside":1,"count":4294967295}],"gids":[]}"#;
        for damaged in ["", "{", gaps] {
            fs_err::write(layout.id_map_file(), damaged).unwrap();
            assert_eq!(recorded(&layout).unwrap(), None, "a new store");
            assert_eq!(open(&layout).unwrap(), map);
            assert_eq!(recorded(&layout).unwrap().as_ref(), Some(&map));
        }
        fs_err::write(layout.id_map_file(), "{").unwrap();
        fs_err::write(layout.content().join("some"), "").unwrap();
        if !give_away(&layout, map.root_uid()) {
            return;
        }
        assert_eq!(open(&layout).unwrap(), map, "its files are root's by this map");
        give_away(&layout, 4_000_000_000);
        fs_err::write(layout.id_map_file(), "{").unwrap();
        let message = open(&layout).unwrap_err().to_string();
        assert!(message.contains("is damaged (EOF while") && message.contains("the user id `4000000000`"), "{message}");
        fs_err::remove_file(layout.id_map_file()).unwrap();
        let message = open(&layout).unwrap_err().to_string();
        assert!(message.contains("is missing, and the files"), "{message}");
        assert!(!layout.id_map_file().exists(), "a map of others is not recorded");
    }

    #[test]
    fn a_map_of_other_ids_is_told_from_the_store_s_own() {
        let directory = tempfile::tempdir().unwrap();
        let layout = store(directory.path());
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
