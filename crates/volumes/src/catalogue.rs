//! Which volumes there are: a directory each, with a record of its name.
//!
//! Whoever changes that holds a lock on the directory of all volumes. A volume is made beside it and renamed into it, renamed
//! by one file, and renamed away before it is removed: whatever is interrupted, each is there as a whole or not at all.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err::File;
use lamina_ground::{is_app_id, is_object_name, random_id, seconds_since_1970};
use lamina_store::{Job, JobError, JobTable, WorkerContext};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{INVALID, NO_VOLUME, TAKEN};

/// What the ids of volumes begin with.
const PREFIX: &str = "vo-";

/// The name of a volume within an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeName {
    /// The environment.
    pub environment: String,
    /// The name.
    pub name: String,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its id, `vo-…`.
    pub id: String,
    /// Its name; one that ends with who has made it has none.
    pub name: Option<VolumeName>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

/// Contents of a volume's record.
#[derive(Serialize, Deserialize)]
struct Record {
    name: Option<VolumeName>,
    created: u64,
}

/// Finds a volume by its name.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FindVolume {
    pub(crate) name: VolumeName,
    /// Whether it is made where there is none.
    pub(crate) create: bool,
}

/// Makes a volume; without a name, it ends with the process that the worker serves.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MakeVolume {
    pub(crate) name: Option<VolumeName>,
}

/// The volume with an id.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GetVolume {
    pub(crate) id: String,
}

/// Lists the volumes of an environment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListVolumes {
    pub(crate) environment: String,
}

/// Gives a volume another name.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RenameVolume {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// Removes a volume with all that it holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeleteVolume {
    pub(crate) id: String,
}

pub(crate) fn jobs(table: JobTable) -> JobTable {
    table
        .register::<FindVolume>()
        .register::<MakeVolume>()
        .register::<GetVolume>()
        .register::<ListVolumes>()
        .register::<RenameVolume>()
        .register::<DeleteVolume>()
}

/// Where a volume is, relative to the store's content.
pub(crate) fn place(id: &str) -> Result<String, JobError> {
    let unknown = || JobError::new(NO_VOLUME, format!("there is no volume `{id}`"));
    let rest = id.strip_prefix(PREFIX).ok_or_else(unknown)?;
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match rest.split_once('-') {
        None if is_word(rest) => Ok(format!("volumes/{id}")),
        Some((session, number)) if is_word(session) && is_word(number) => {
            Ok(format!("work/{session}-temporary/{number}"))
        }
        _ => Err(unknown()),
    }
}

/// The volume with an id, and where it is.
pub(crate) fn get(content: &Path, id: &str) -> Result<(Volume, PathBuf), JobError> {
    let path = content.join(place(id)?);
    let record = path.join("record.json");
    match fs_err::read(&record) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(JobError::new(NO_VOLUME, format!("there is no volume `{id}`")))
        }
        Err(error) => Err(error.into()),
        Ok(bytes) => {
            let Record { name, created } = serde_json::from_slice(&bytes).map_err(|error| {
                JobError::new(
                    JobError::STORE,
                    format!("the record of a volume `{}` is damaged: {error}", record.display()),
                )
            })?;
            Ok((Volume { id: id.to_owned(), name, created }, path))
        }
    }
}

/// All volumes with a name.
fn all(content: &Path) -> Result<Vec<Volume>, JobError> {
    let entries = match fs_err::read_dir(content.join("volumes")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut volumes = Vec::new();
    for entry in entries {
        if let Some(id) = entry?.file_name().to_str() {
            match get(content, id) {
                Err(error) if error.kind == NO_VOLUME => {}
                found => volumes.push(found?.0),
            }
        }
    }
    Ok(volumes)
}

fn find(content: &Path, name: &VolumeName) -> Result<Option<Volume>, JobError> {
    Ok(all(content)?.into_iter().find(|volume| volume.name.as_ref() == Some(name)))
}

/// Whoever changes which volumes there are does so alone, until the file is closed.
fn lock(content: &Path) -> Result<File, JobError> {
    let directory = content.join("volumes");
    match fs_err::create_dir(&directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let locked = File::open(&directory)?;
    flock(&locked, FlockOperation::LockExclusive).map_err(JobError::file("locking", &directory))?;
    Ok(locked)
}

/// Refuses what cannot be a name.
fn check(name: &VolumeName) -> Result<(), JobError> {
    for (what, name) in [("an environment", &name.environment), ("a volume", &name.name)] {
        if !is_object_name(name) {
            return Err(JobError::new(
                INVALID,
                format!("`{name}` cannot be the name of {what}: take 1 to 64 letters, digits, `-`, `_` and `.`"),
            ));
        }
    }
    Ok(())
}

/// Refuses what no volume can be called from now on.
fn check_new(name: &VolumeName) -> Result<(), JobError> {
    check(name)?;
    if is_app_id(&name.name) {
        let message = format!("`{}` cannot be the name of a volume: it looks like the id of an app", name.name);
        return Err(JobError::new(INVALID, message));
    }
    Ok(())
}

fn taken(name: &VolumeName) -> JobError {
    JobError::new(TAKEN, format!("there is a volume `{}` already", name.name))
}

/// Makes a volume where it is not seen yet.
fn prepare(context: &WorkerContext, name: Option<VolumeName>, created: u64) -> Result<PathBuf, JobError> {
    let path = context.temporary_path();
    let files = path.join("files");
    fs_err::create_dir(&path)?;
    fs_err::create_dir(&files)?;
    // Containers may run as any user of their image.
    fs_err::set_permissions(&files, std::fs::Permissions::from_mode(0o777))?;
    write_record(&path.join("record.json"), &Record { name, created })?;
    Ok(path)
}

fn write_record(path: &Path, record: &Record) -> Result<(), JobError> {
    let bytes = serde_json::to_vec(record).map_err(std::io::Error::from)?;
    fs_err::write(path, bytes)?;
    Ok(File::open(path)?.sync_all()?)
}

/// Makes a volume of a name that is free; the caller has the lock.
fn make(context: &WorkerContext, name: VolumeName, locked: &File) -> Result<Volume, JobError> {
    let (id, created) = (random_id("vo"), seconds_since_1970());
    let prepared = prepare(context, Some(name.clone()), created)?;
    fs_err::rename(&prepared, context.content().join(place(&id)?))?;
    locked.sync_all()?;
    Ok(Volume { id, name: Some(name), created })
}

impl Job for FindVolume {
    const NAME: &'static str = "volumes.find";
    type Output = Option<Volume>;

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<Option<Volume>, JobError> {
        check(&self.name)?;
        if let Some(volume) = find(context.content(), &self.name)? {
            return Ok(Some(volume));
        }
        if !self.create {
            return Ok(None);
        }
        check_new(&self.name)?;
        let locked = lock(context.content())?;
        match find(context.content(), &self.name)? {
            None => make(context, self.name, &locked).map(Some),
            found => Ok(found),
        }
    }
}

impl Job for MakeVolume {
    const NAME: &'static str = "volumes.make";
    type Output = Volume;

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<Volume, JobError> {
        if let Some(name) = self.name {
            check_new(&name)?;
            let locked = lock(context.content())?;
            if find(context.content(), &name)?.is_some() {
                return Err(taken(&name));
            }
            return make(context, name, &locked);
        }
        let created = seconds_since_1970();
        let path = prepare(context, None, created)?;
        let component = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let session = path.parent().map(component).unwrap_or_default();
        let id = format!("{PREFIX}{}-{}", session.trim_end_matches("-temporary"), component(&path));
        Ok(Volume { id, name: None, created })
    }
}

impl Job for GetVolume {
    const NAME: &'static str = "volumes.get";
    type Output = Volume;

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<Volume, JobError> {
        Ok(get(context.content(), &self.id)?.0)
    }
}

impl Job for ListVolumes {
    const NAME: &'static str = "volumes.list";
    type Output = Vec<Volume>;

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<Vec<Volume>, JobError> {
        let mut volumes = all(context.content())?;
        let of_environment =
            |volume: &Volume| volume.name.as_ref().is_some_and(|it| it.environment == self.environment);
        volumes.retain(of_environment);
        volumes.sort_by(|one, other| one.name.as_ref().map(|it| &it.name).cmp(&other.name.as_ref().map(|it| &it.name)));
        Ok(volumes)
    }
}

impl Job for RenameVolume {
    const NAME: &'static str = "volumes.rename";
    type Output = ();

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        let _locked = lock(context.content())?;
        let (volume, path) = get(context.content(), &self.id)?;
        let Some(VolumeName { environment, .. }) = volume.name else {
            return Err(JobError::new(INVALID, "an ephemeral volume has no name to change"));
        };
        let name = VolumeName { environment, name: self.name };
        check_new(&name)?;
        if find(context.content(), &name)?.is_some_and(|other| other.id != volume.id) {
            return Err(taken(&name));
        }
        let written = context.temporary_path();
        write_record(&written, &Record { name: Some(name), created: volume.created })?;
        fs_err::rename(&written, path.join("record.json"))?;
        Ok(File::open(&path)?.sync_all()?)
    }
}

impl Job for DeleteVolume {
    const NAME: &'static str = "volumes.delete";
    type Output = ();

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        let away = context.temporary_path();
        {
            let locked = lock(context.content())?;
            let (_, path) = get(context.content(), &self.id)?;
            fs_err::rename(&path, &away)?;
            locked.sync_all()?;
        }
        context.remove(&away)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_lead_to_directories_of_volumes_only() {
        assert_eq!(place("vo-aB3").unwrap(), "volumes/vo-aB3");
        assert_eq!(place("vo-s1-7").unwrap(), "work/s1-temporary/7");
        for id in ["", "vo-", "vo-../x", "vo-a/b", "vo-a-", "vo--1", "vo-a-b-c", "im-a", "vo-a-../../objects"] {
            assert!(place(id).is_err(), "{id}");
        }
    }
}
