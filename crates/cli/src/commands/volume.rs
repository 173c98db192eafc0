//! `modal volume`: directories that outlive containers.

use std::fmt::Write as _;
use std::fs::Metadata;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fs_err::File;
use lamina_engine::{Engine, Entry, EntryKind, Options, Upload, Volume, VolumeError, VolumeName, Volumes};
use lamina_ground::{ErrorClass, seconds_since_1970};
use serde_json::{Value, json};

use super::ask::{confirm_removal, say};
use super::listing::{table, time};
use super::new_file::NewFile;
use super::{print, print_json};
use crate::arguments::{Removal, VolumeCommand};
use crate::failure::Failure;
use crate::output::text;

/// Lists, makes, fills, empties or removes.
pub(crate) fn volume(command: &VolumeCommand) -> Result<u8, Failure> {
    let fills = matches!(command, VolumeCommand::Create { .. } | VolumeCommand::Put { .. } | VolumeCommand::Cp { .. });
    let engine = Engine::open(&Options { works_on_full_disk: !fills, ..Options::default() })?;
    let volumes = engine.volumes();
    let find = |name: &str, environment: &str| volumes.named(&named(name, environment), false);
    match command {
        VolumeCommand::List { json, environment } => list(&volumes.list(&environment.name)?, *json)?,
        VolumeCommand::Create { name, version: _, environment } => {
            volumes.create(Some(named(name, &environment.name)))?;
            say(&format!("Created the volume `{name}`: `modal.Volume.from_name(\"{name}\")`.\n"));
        }
        VolumeCommand::Ls { name, path, json, environment } => {
            let id = find(name, &environment.name)?.id;
            files(&volumes.files(&id, path, false)?, *json)?;
        }
        VolumeCommand::Get { name, remote, local, force, environment } => {
            let id = find(name, &environment.name)?.id;
            get(volumes, &id, remote, local, *force)?;
        }
        VolumeCommand::Put { name, local, remote, force, environment } => {
            let id = find(name, &environment.name)?.id;
            put(volumes, &id, local, remote, *force)?;
        }
        VolumeCommand::Cp { name, paths, recursive, environment } => {
            let id = find(name, &environment.name)?.id;
            let Some((destination, sources)) = paths.split_last() else { return Ok(super::USAGE) };
            volumes.copy(&id, sources.to_vec(), destination, *recursive).map_err(|error| recursively(&error))?;
        }
        VolumeCommand::Rm { name, path, recursive, environment } => {
            let id = find(name, &environment.name)?.id;
            volumes.remove(&id, path, *recursive).map_err(|error| recursively(&error))?;
        }
        VolumeCommand::Rename { old, new, yes: _, environment } => {
            volumes.rename(&find(old, &environment.name)?.id, new)?;
            say(&format!("The volume `{old}` is called `{new}` now.\n"));
        }
        VolumeCommand::Delete(Removal { name, yes, allow_missing, environment }) => {
            let found = find(name, &environment.name);
            if *allow_missing && found.as_ref().is_err_and(|error| error.class() == ErrorClass::NotFoundError) {
                return Ok(0);
            }
            return delete(volumes, &found?.id, name, *yes);
        }
    }
    Ok(0)
}

fn named(name: &str, environment: &str) -> VolumeName {
    VolumeName { environment: environment.to_owned(), name: name.to_owned() }
}

fn list(volumes: &[Volume], as_json: bool) -> Result<(), Failure> {
    if as_json {
        return print_json(&volumes.iter().map(listed).collect::<Vec<_>>());
    }
    if volumes.is_empty() {
        say("There are no volumes: `modal volume create` makes them.\n");
    }
    print(table(&rows(volumes), seconds_since_1970()).as_bytes())
}

/// The volumes, as they are listed for people.
fn rows(volumes: &[Volume]) -> Vec<(String, u64)> {
    let name = |volume: &Volume| volume.name.as_ref().map(|it| it.name.clone()).unwrap_or_default();
    volumes.iter().map(|volume| (name(volume), volume.created)).collect()
}

/// A volume as `--json` shows it.
fn listed(volume: &Volume) -> Value {
    json!({ "name": volume.name.as_ref().map(|it| &it.name), "created_at": time(volume.created), "id": volume.id })
}

/// Files as a table for people, and as plain paths for programs that read lines.
fn files(entries: &[Entry], as_json: bool) -> Result<(), Failure> {
    if as_json {
        let file = |entry: &Entry| {
            let created = u64::try_from(entry.mtime).unwrap_or(0);
            json!({ "filename": entry.path, "type": entry.kind, "created_modified": time(created), "size": entry.size })
        };
        return print_json(&entries.iter().map(file).collect::<Vec<_>>());
    }
    let is_for_people = io::stdout().is_terminal();
    let mut lines = String::new();
    for entry in entries {
        // Writing to a string does not fail.
        let _ = if is_for_people {
            let kind = kind(entry.kind);
            writeln!(lines, "{kind:9}  {:>10}  {}", text::bytes(entry.size), text::clean(&entry.path))
        } else {
            writeln!(lines, "{}", entry.path)
        };
    }
    print(lines.as_bytes())
}

fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "link",
        EntryKind::Fifo => "pipe",
        EntryKind::Socket => "socket",
        EntryKind::Other => "other",
    }
}

/// Writes a file, or the files of a directory, to local ones or to standard output.
fn get(volumes: Volumes<'_>, id: &str, remote: &str, local: &str, force: bool) -> Result<(), Failure> {
    let entries = volumes.files(id, remote, true)?;
    let root = remote.trim_matches('/');
    // A path that is a file lists itself.
    let is_file = matches!(&entries[..], [only] if only.path == root);
    if local == "-" {
        if !is_file {
            return Err(Failure::new(format!("`{remote}` is a directory, which standard output cannot take")));
        }
        volumes.read(id, root, rustix::stdio::stdout())?;
        return Ok(());
    }
    let local = Path::new(local);
    if is_file {
        let name = root.rsplit('/').next().unwrap_or(root);
        let target = if local.is_dir() { local.join(name) } else { local.to_owned() };
        return get_file(volumes, id, root, &target, force);
    }
    for entry in &entries {
        check_name(volumes, id, &entry.path)?;
    }
    let above = root.rfind('/').map_or(0, |slash| slash + 1);
    let mut left_out = 0;
    for entry in &entries {
        // Of a root that is named, its own name comes along.
        let target = local.join(entry.path.get(above..).unwrap_or(&entry.path));
        match entry.kind {
            EntryKind::Directory => fs_err::create_dir_all(&target)?,
            EntryKind::File => get_file(volumes, id, &entry.path, &target, force)?,
            // Where a link leads is for the volume to know: a copy of it would lead somewhere else here.
            _ => left_out += 1,
        }
    }
    if left_out > 0 {
        say(&format!("Left out {left_out} links, pipes and sockets: only files and directories are taken.\n"));
    }
    Ok(())
}

/// Refuses what is listed with another name than it has, because that is none in UTF-8.
fn check_name(volumes: Volumes<'_>, id: &str, path: &str) -> Result<(), Failure> {
    if !path.contains(char::REPLACEMENT_CHARACTER) || volumes.files(id, path, false).is_ok() {
        return Ok(());
    }
    let message = format!("`{path}` of the volume has no name in UTF-8, so it cannot be taken by its name");
    Err(Failure::new(message).hint("rename it in a function that has the volume, with `os.rename` and a name in bytes"))
}

/// Writes a file that gets its name when it is whole: it is there as such or not at all.
fn get_file(volumes: Volumes<'_>, id: &str, remote: &str, target: &Path, force: bool) -> Result<(), Failure> {
    if is_special(target) {
        let file = fs_err::OpenOptions::new().write(true).open(target)?;
        volumes.read(id, remote, file.as_fd())?;
        return Ok(());
    }
    let exists = || {
        Failure::new(format!("there is a local file `{}` already", target.display())).hint("replace it with `--force`")
    };
    if !force && target.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(directory)?;
    let new = NewFile::open(directory)?;
    volumes.read(id, remote, new.descriptor())?;
    new.place(directory, target, force).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists if !force => exists(),
        _ => Failure::from(error),
    })
}

/// Whether a device or a pipe is there, which is written into, as `cp` does, and never replaced.
fn is_special(target: &Path) -> bool {
    let kind = target.metadata().map(|status| status.file_type());
    kind.is_ok_and(|kind| kind.is_char_device() || kind.is_block_device() || kind.is_fifo())
}

/// An error, with the option that would have been needed for a directory.
fn recursively(error: &VolumeError) -> Failure {
    let failure = Failure::from_error(error);
    if error.wants_recursive() { failure.hint("say so with `--recursive`") } else { failure }
}

/// Takes in local files, and puts them into the volume when all are there.
fn put(volumes: Volumes<'_>, id: &str, local: &Path, remote: &str, force: bool) -> Result<(), Failure> {
    status_of(local)?;
    let remote = if remote.ends_with('/') {
        let whole = fs_err::canonicalize(local)?;
        let name = whole.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Failure::new(format!("`{}` has no name to keep", local.display())))?;
        format!("{remote}{name}")
    } else {
        remote.to_owned()
    };
    let mut found = Found::default();
    if local.is_dir() {
        walk(local, &remote, &[], &mut found)?;
    } else {
        found.wanted.push((local.to_owned(), remote));
    }
    let Found { wanted, left_out } = found;
    let mut uploads = Vec::with_capacity(wanted.len());
    for (path, remote) in wanted {
        let file = File::open(&path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        uploads.push(Upload { staged: volumes.stage(&file)?, path: remote, mode });
    }
    let (count, size) = (uploads.len(), uploads.iter().map(|upload| upload.staged.size).sum());
    volumes.publish(id, uploads, force).map_err(|error| {
        let failure = Failure::from_error(&error);
        if error.class() == ErrorClass::FileExistsError { failure.hint("replace it with `--force`") } else { failure }
    })?;
    say(&format!(
        "Put {count} {} into the volume, {}.\n",
        if count == 1 { "file" } else { "files" },
        text::bytes(size)
    ));
    if left_out > 0 {
        say(&format!("Left out {left_out} pipes, sockets and devices: only files and directories are taken.\n"));
    }
    Ok(())
}

/// What a local directory holds.
#[derive(Default)]
struct Found {
    /// The files, and where each goes.
    wanted: Vec<(PathBuf, String)>,
    /// How much is no file.
    left_out: usize,
}

/// What is at a local path, links followed.
fn status_of(path: &Path) -> Result<Metadata, Failure> {
    let is_link = || path.symlink_metadata().is_ok();
    fs_err::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if is_link() => Failure::new(format!("the link `{}` leads nowhere", path.display())),
        io::ErrorKind::NotFound => Failure::new(format!("`{}` does not exist", path.display())),
        _ => Failure::from(error),
    })
}

/// Finds the files below a directory, links followed; `above` are the directories that it is in.
fn walk(directory: &Path, remote: &str, above: &[(u64, u64)], found: &mut Found) -> Result<(), Failure> {
    let status = status_of(directory)?;
    let identity = (status.dev(), status.ino());
    if above.contains(&identity) {
        return Err(Failure::new(format!("the link `{}` leads to a directory that it is in", directory.display())));
    }
    let above = [above, &[identity]].concat();
    let mut entries = fs_err::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs_err::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().ok_or_else(|| Failure::new(format!("`{}` has no name in UTF-8", path.display())))?;
        let target = format!("{}/{name}", remote.trim_end_matches('/'));
        let status = status_of(&path)?;
        if status.is_dir() {
            walk(&path, &target, &above, found)?;
        } else if status.is_file() {
            found.wanted.push((path, target));
        } else {
            found.left_out += 1;
        }
    }
    Ok(())
}

fn delete(volumes: Volumes<'_>, id: &str, name: &str, yes: bool) -> Result<u8, Failure> {
    if !confirm_removal(yes, &format!("the volume `{name}`"), " with all that it holds")? {
        return Ok(1);
    }
    volumes.delete(id)?;
    say(&format!("Removed the volume `{name}`.\n"));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_a_table() {
        let volume = |name| Volume { id: "vo-1".to_owned(), name: Some(named(name, "main")), created: 1_000 };
        let volumes = [volume("models"), volume("data")];
        insta::assert_snapshot!(table(&rows(&volumes), 1_200), @r"
        name    created
        models  3 min ago
        data    3 min ago
        ");
        insta::assert_snapshot!(listed(&volumes[1]), @r#"{"created_at":"1970-01-01T00:16:40Z","id":"vo-1","name":"data"}"#);
    }

    #[test]
    fn a_directory_is_put_file_by_file() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::create_dir(directory.path().join("deep")).unwrap();
        for name in ["b", "a", "deep/c"] {
            fs_err::write(directory.path().join(name), "").unwrap();
        }
        let walked = || {
            let mut found = Found::default();
            walk(directory.path(), "/to/", &[], &mut found).map(|()| found)
        };
        let targets: Vec<_> = walked().unwrap().wanted.into_iter().map(|(_, target)| target).collect();
        assert_eq!(targets, ["/to/a", "/to/b", "/to/deep/c"]);
        let link = directory.path().join("deep/link");
        for (target, words) in [("nowhere", "leads nowhere"), ("..", "leads to a directory that it is in")] {
            fs_err::os::unix::fs::symlink(target, &link).unwrap();
            let failure = format!("{:?}", walked().err().unwrap());
            assert!(failure.contains(words), "{failure}");
            fs_err::remove_file(&link).unwrap();
        }
        let _socket = std::os::unix::net::UnixListener::bind(&link).unwrap();
        assert_eq!(walked().unwrap().left_out, 1);
    }
}
