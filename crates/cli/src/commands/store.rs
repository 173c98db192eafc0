//! `modal store`: where everything is kept, and how it is removed.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lamina_apps::{DeploymentName, DetachedApps, Survey};
use lamina_engine::{Options, Removal, deployments, detached_apps, run_records, store_directory};
use lamina_events::CancelToken;

use super::ask::{ask, say};
use super::{print, verify};
use crate::arguments::Store;
use crate::failure::Failure;
use crate::output::text;

/// Answers or removes.
pub(crate) fn store(store: &Store) -> Result<u8, Failure> {
    let root = store_directory()?;
    match store {
        Store::Path => {
            use std::os::unix::ffi::OsStrExt;
            print(&[root.as_os_str().as_bytes(), b"\n"].concat())?;
            Ok(0)
        }
        Store::Record { list } => record(*list),
        Store::Verify { repair, image } => verify::verify(image.as_deref(), *repair),
        Store::Remove { yes } => remove(&root, *yes),
    }
}

/// Prints the record of the last run that left one, or where all are.
fn record(list: bool) -> Result<u8, Failure> {
    let records = run_records()?;
    if list {
        for path in &records {
            print(format!("{}\n", path.display()).as_bytes())?;
        }
    } else if let Some(newest) = records.last() {
        print(&fs_err::read(newest)?)?;
    } else {
        say("No run has left a record.\n");
    }
    Ok(0)
}

fn remove(root: &Path, yes: bool) -> Result<u8, Failure> {
    let shown = root.display();
    if !root.exists() {
        say(&format!("There is no store at `{shown}`.\n"));
        return Ok(0);
    }
    let apps = detached_apps()?;
    refuse_while_used(&apps, root)?;
    let removal = Removal::prepare(&Options::default())?;
    let size = text::bytes(size_on_disk(root));
    if !yes {
        match ask(&format!("Remove the store `{shown}` with all images{}, {size}?", kept(root)))? {
            Some(true) => {}
            Some(false) => {
                say("Nothing was removed.\n");
                return Ok(1);
            }
            None => {
                let message = format!("the store `{shown}` ({size}) was not removed: there is nobody to ask");
                return Err(Failure::new(message).hint("say so with `modal store remove --yes`"));
            }
        }
    }
    // One may have been started while the question was being answered.
    let waiting = || say("Waiting for a detached app that is just being started...\n");
    let _none_starts = apps.forbid_starts(&CancelToken::new(), waiting)?;
    refuse_while_used(&apps, root)?;
    removal.remove()?;
    say(&format!("Removed `{shown}`, {size}.\n"));
    Ok(0)
}

/// What is nowhere else, for the question.
fn kept(root: &Path) -> String {
    let count = |directory: &Path| fs_err::read_dir(directory).map_or(0, |entries| entries.flatten().count());
    let volumes = count(&root.join("content/volumes"));
    let environments = fs_err::read_dir(root.join("secrets")).into_iter().flatten().flatten();
    let secrets: usize = environments.map(|environment| count(&environment.path())).sum();
    let counted = |count: usize, one: &str, several: &str| match count {
        0 => String::new(),
        1 => format!(", 1 {one}"),
        count => format!(", {count} {several}"),
    };
    let deployed = deployed_apps().sound.iter().filter(|app| app.is_deployed()).count();
    counted(volumes, "volume", "volumes")
        + &counted(secrets, "secret", "secrets")
        + &counted(deployed, "deployed app", "deployed apps")
}

/// The deployed apps; a store that is damaged may be removed all the same.
fn deployed_apps() -> Survey {
    deployments().ok().and_then(|deployments| deployments.survey().ok()).unwrap_or_default()
}

fn refuse_while_used(apps: &DetachedApps, root: &Path) -> Result<(), Failure> {
    let runs = |name: &DeploymentName| deployments()?.host_state(name).map_err(Failure::from);
    let all = deployed_apps();
    let sound = all.sound.into_iter().map(|app| (app.full_name(), app.id));
    let damaged = all.damaged.into_iter().map(|(name, _)| (name.clone(), name.name().to_owned()));
    for (name, target) in sound.chain(damaged) {
        if runs(&name)?.is_running() {
            let shown = root.display();
            let hint = format!("it ends by itself when nobody calls it, or stop it: `modal app stop {target}`");
            let message = format!("the store `{shown}` was not removed: the deployed app {name} uses it");
            return Err(Failure::new(message).hint(hint));
        }
    }
    let apps = apps.list()?;
    let Some(app) = apps.iter().find(|app| app.state.is_running()) else { return Ok(()) };
    let (id, shown) = (&app.record.id, root.display());
    Err(Failure::new(format!("the store `{shown}` was not removed: the detached app `{id}` uses it"))
        .hint(format!("wait for its end, or stop it: `modal app stop {id}`")))
}

/// Bytes that removing `root` frees: every file once, however many names it has. What this user may not look into is
/// made of further names of files that are counted elsewhere.
fn size_on_disk(root: &Path) -> u64 {
    let mut total = 0;
    let mut seen = HashSet::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs_err::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            }
            if metadata.nlink() == 1 || metadata.is_dir() || seen.insert(metadata.ino()) {
                total += metadata.blocks() * 512;
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nowhere_else_is_named() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(kept(root.path()), "");
        fs_err::create_dir_all(root.path().join("content/volumes/vo-1")).unwrap();
        for name in ["main", "staging"] {
            fs_err::create_dir_all(root.path().join("secrets").join(name)).unwrap();
            fs_err::write(root.path().join("secrets").join(name).join("a.json"), "{}").unwrap();
        }
        assert_eq!(kept(root.path()), ", 1 volume, 2 secrets");
    }

    #[test]
    fn links_are_counted_once() {
        let root = tempfile::tempdir().unwrap();
        let empty = size_on_disk(root.path());
        fs_err::write(root.path().join("one"), vec![1; 64 << 10]).unwrap();
        let single = size_on_disk(root.path());
        fs_err::hard_link(root.path().join("one"), root.path().join("two")).unwrap();
        assert!(single >= empty + (64 << 10));
        assert_eq!(size_on_disk(root.path()), single);
    }
}
