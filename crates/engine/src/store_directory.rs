//! Where the store is.

use std::borrow::Cow;
use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use lamina_apps::DetachedApps;
use lamina_collections::Collections;
use lamina_devices::Inventory;
use lamina_ground::{EnvVars, Hint, causes};
use lamina_sandbox::IdMap;
use lamina_sandbox::doctor::{Finding, Status, judge, look, try_sandbox};
use lamina_secrets::NamedSecrets;
use lamina_store::Layout;

use crate::{EngineError, gpus, idmap};

/// The store directory of this user: `MODAL_STORE`, or `modal` in the user's data directory.
///
/// # Errors
/// When neither `MODAL_STORE` nor `HOME` is set, or `MODAL_STORE` is not absolute.
pub fn store_directory() -> Result<PathBuf, EngineError> {
    choose(env::var_os(EnvVars::MODAL_STORE), env::var_os(EnvVars::XDG_DATA_HOME), env::var_os(EnvVars::HOME))
}

/// The detached apps of this user's store. No helper process is needed for them.
///
/// # Errors
/// When the store cannot be used.
pub fn detached_apps() -> Result<DetachedApps, EngineError> {
    Ok(DetachedApps::new(Layout::prepare(&store_directory()?)?))
}

/// As [`detached_apps`], for whoever starts none: where there is no store, none is made.
///
/// # Errors
/// As [`detached_apps`].
pub fn known_apps() -> Result<DetachedApps, EngineError> {
    let root = store_directory()?;
    Ok(DetachedApps::new(if root.exists() { Layout::prepare(&root)? } else { Layout::of_no_store(root) }))
}

/// The secrets of this user that are kept under names. Where there is no store, one is made.
///
/// # Errors
/// When the store cannot be used.
pub fn named_secrets() -> Result<NamedSecrets, EngineError> {
    Ok(NamedSecrets::new(Layout::prepare(&store_directory()?)?.secrets()))
}

/// The dictionaries and queues of this user. Where there is no store, one is made.
///
/// # Errors
/// When the store cannot be used.
pub fn collections() -> Result<Collections, EngineError> {
    Ok(Collections::new(Layout::prepare(&store_directory()?)?.collections()))
}

/// The records of this user's runs, oldest first.
///
/// # Errors
/// When the directory of logs cannot be read.
pub fn run_records() -> Result<Vec<PathBuf>, EngineError> {
    match lamina_ground::run_records(&Layout::of_no_store(store_directory()?).logs()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        records => Ok(records?),
    }
}

/// Looks at what this machine allows, with a trial where the store is or would be: its file system is what matters.
#[must_use]
pub fn probe_store() -> Vec<Finding> {
    let store = store_directory().ok();
    let nearest = store.as_deref().and_then(|store| store.ancestors().find(|path| path.is_dir()).map(Path::to_owned));
    let mut findings = look();
    findings.push(gpus::finding(&Inventory::of_machine()));
    let (Some(store), Some(nearest)) = (store, nearest) else {
        let directory = env::temp_dir();
        findings.extend(judge(&directory, &try_sandbox(&directory, None)));
        return findings;
    };
    let layout = Layout::of_no_store(store);
    let reserve = layout.spend_reserve();
    findings.extend(try_in(&layout, &nearest));
    if reserve.is_some() {
        findings.push(Finding {
            name: "disk",
            status: Status::Warning,
            detail: format!("The disk of the store `{}` is as good as full.", layout.root().display()),
            hint: Some(
                "Remove what you do not need: `modal image du` says what there is, `modal image prune` removes."
                    .to_owned(),
            ),
        });
    }
    findings
}

/// Whether a store can be used, if there is one, and a sandbox be made there, with its ids.
fn try_in(layout: &Layout, nearest: &Path) -> Vec<Finding> {
    let unusable = |error: &EngineError| Finding {
        name: "store",
        status: Status::Problem,
        detail: format!("The store cannot be used: {}.", causes(error)),
        hint: error.hint().map(Cow::into_owned),
    };
    let (map, mut findings) = match ids(layout) {
        Ok(map) => (map, Vec::new()),
        Err(error) => (None, vec![unusable(&error)]),
    };
    let trial = try_sandbox(nearest, map.clone());
    findings.extend(match (trial, map) {
        (Err(error), Some(map)) => match idmap::explain(error.into(), &layout.id_map_file(), &map) {
            EngineError::Sandbox(error) => judge(nearest, &Err(error)),
            error => vec![unusable(&error)],
        },
        (trial, _) => judge(nearest, &trial),
    });
    findings
}

/// The ids of a store, if there is one that has recorded them.
fn ids(layout: &Layout) -> Result<Option<IdMap>, EngineError> {
    let is_new = match fs_err::read_dir(layout.root()) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if is_new { Ok(None) } else { idmap::known(&Layout::prepare(layout.root())?) }
}

fn choose(
    store: Option<OsString>,
    data_home: Option<OsString>,
    home: Option<OsString>,
) -> Result<PathBuf, EngineError> {
    let set = |value: Option<OsString>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(store) = set(store) {
        return if store.is_absolute() { Ok(store) } else { Err(EngineError::RelativeStore(store)) };
    }
    // The specification of XDG_DATA_HOME says that relative values are to be ignored.
    if let Some(data_home) = set(data_home).filter(|path| path.is_absolute()) {
        return Ok(data_home.join("modal"));
    }
    set(home).map(|home| home.join(".local/share/modal")).ok_or(EngineError::NoStoreDirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_are_asked_in_order() {
        let choose =
            |store: &str, data: &str, home: &str| choose(Some(store.into()), Some(data.into()), Some(home.into()));
        assert_eq!(choose("/s", "/d", "/h").unwrap(), PathBuf::from("/s"));
        assert_eq!(choose("", "/d", "/h").unwrap(), PathBuf::from("/d/modal"));
        assert_eq!(choose("", "d", "/h").unwrap(), PathBuf::from("/h/.local/share/modal"));
        assert!(matches!(choose("s", "/d", "/h"), Err(EngineError::RelativeStore(_))));
        assert!(matches!(choose("", "", ""), Err(EngineError::NoStoreDirectory)));
    }
}
