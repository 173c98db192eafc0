//! Volumes: what programs ask of them, and finding those that apps name.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, OwnedFd};

use lamina_functions::ContainerVolume;
use lamina_ground::{ErrorClass, Hint, causes};
use lamina_image::{VolumeMount, VolumeReference};
use lamina_volumes::{Volume, VolumeError, VolumeName, Volumes};
use serde::Serialize;
use serde_json::{Value, json};

use crate::protocol::{AppRequest, DEFAULT_ENVIRONMENT, Failure, VolumeErrand};

/// Where nothing of a container's own can be replaced by a volume.
const RESERVED: [&str; 4] = ["/proc", "/sys", "/dev", "/__modal"];

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        Self { hint: error.hint().map(Cow::into_owned), ..Self::new(error.class(), causes(&error)) }
    }
}

/// The app, in which every volume has its id. Those that are to be made are made.
pub(crate) fn with_ids<'a>(app: Cow<'a, AppRequest>, volumes: Volumes<'_>) -> Result<Cow<'a, AppRequest>, Failure> {
    let of_functions = app.functions.iter().any(|function| !function.volumes.is_empty());
    if !of_functions && app.images.nodes.iter().all(|node| node.step.volumes().is_empty()) {
        return Ok(app);
    }
    let mut app = app.into_owned();
    let mut found = HashMap::new();
    for node in &mut app.images.nodes {
        find_all(node.step.volumes_mut(), volumes, &mut found, &node.title)?;
    }
    for function in &mut app.functions {
        find_all(&mut function.volumes, volumes, &mut found, &function.name)?;
    }
    Ok(Cow::Owned(app))
}

/// Gives the volumes of one function or step their ids. Those that were looked up for others are not looked up again.
fn find_all(
    mounts: &mut [VolumeMount],
    volumes: Volumes<'_>,
    found: &mut HashMap<VolumeReference, Volume>,
    owner: &str,
) -> Result<(), Failure> {
    let mut places: HashMap<String, &str> = HashMap::new();
    for VolumeMount { path, volume: reference, .. } in mounts {
        check_path(path, owner)?;
        let volume = match found.entry(reference.clone()) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => entry.insert(find(reference, volumes)?).clone(),
        };
        if let Some(other) = places.insert(volume.id.clone(), path) {
            let message = format!("`{owner}` has the same volume at `{other}` and at `{path}`: one place is possible");
            return Err(Failure::new(ErrorClass::InvalidError, message));
        }
        if let Some(name) = volume.name {
            (reference.name, reference.environment) = (Some(name.name), Some(name.environment));
        }
        reference.id = Some(volume.id);
    }
    Ok(())
}

fn check_path(path: &str, owner: &str) -> Result<(), Failure> {
    let parts = path.strip_prefix('/').map(|rest| rest.split('/'));
    let is_plain = parts.is_some_and(|mut parts| parts.all(|part| !matches!(part, "" | "." | "..")));
    let is_below =
        |reserved: &str| path.strip_prefix(reserved).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if is_plain && !RESERVED.into_iter().any(is_below) {
        return Ok(());
    }
    let message = format!("a volume of `{owner}` cannot be at `{path}`: choose an absolute path such as `/data`");
    Err(Failure::new(ErrorClass::InvalidError, message))
}

/// The volumes of a function's containers.
pub(crate) fn of_containers(mounts: &[VolumeMount], volumes: Volumes<'_>) -> Result<Vec<ContainerVolume>, Failure> {
    let volume = |VolumeMount { path, volume, read_only, sub_path }: &VolumeMount| {
        let id = volume.id.clone().unwrap_or_default();
        Ok(ContainerVolume {
            path: path.clone(),
            source: volumes.mountable(&id, sub_path.as_deref())?,
            id,
            name: volume.name.clone(),
            environment: volume.environment.clone(),
            sub_path: sub_path.clone(),
            read_only: *read_only,
        })
    };
    mounts.iter().map(volume).collect()
}

/// The volume that is meant.
fn find(reference: &VolumeReference, volumes: Volumes<'_>) -> Result<Volume, VolumeError> {
    match reference {
        VolumeReference { id: Some(id), .. } => volumes.get(id),
        VolumeReference { name, environment, create, .. } => {
            volumes.named(&named(name.clone().unwrap_or_default(), environment.clone()), *create)
        }
    }
}

fn named(name: String, environment: Option<String>) -> VolumeName {
    VolumeName { environment: environment.unwrap_or_else(|| DEFAULT_ENVIRONMENT.to_owned()), name }
}

/// Does an errand of a program; gives what it asked for.
pub(crate) fn run(errand: VolumeErrand, fds: Vec<OwnedFd>, volumes: Volumes<'_>) -> Result<Value, Failure> {
    let id = |reference: &VolumeReference| find(reference, volumes).map(|volume| volume.id);
    let stream = |fds: Vec<OwnedFd>| {
        let missing = || Failure::new(ErrorClass::ExecutionError, "a descriptor has to come with this request");
        fds.into_iter().next().ok_or_else(missing)
    };
    match errand {
        VolumeErrand::Create { name, environment } => {
            answer(volumes.create(name.map(|name| named(name, environment))).map(described))
        }
        VolumeErrand::Find { volume } => answer(find(&volume, volumes).map(described)),
        VolumeErrand::List { environment } => {
            answer(volumes.list(&environment).map(|list| list.into_iter().map(described).collect::<Vec<_>>()))
        }
        VolumeErrand::Rename { volume, name } => answer(volumes.rename(&id(&volume)?, &name)),
        VolumeErrand::Delete { volume } => answer(volumes.delete(&id(&volume)?)),
        VolumeErrand::Files { volume, path, recursive } => answer(volumes.files(&id(&volume)?, &path, recursive)),
        VolumeErrand::Read { volume, path } => {
            let target = stream(fds)?;
            answer(volumes.read(&id(&volume)?, &path, target.as_fd()))
        }
        VolumeErrand::Remove { volume, path, recursive } => answer(volumes.remove(&id(&volume)?, &path, recursive)),
        VolumeErrand::Copy { volume, sources, destination, recursive } => {
            answer(volumes.copy(&id(&volume)?, sources, &destination, recursive))
        }
        VolumeErrand::Stage {} => answer(volumes.stage(&stream(fds)?)),
        VolumeErrand::Publish { volume, uploads, force } => answer(volumes.publish(&id(&volume)?, uploads, force)),
        VolumeErrand::Forget { staged } => answer(volumes.forget(staged)),
    }
}

/// A volume as programs know it.
fn described(volume: Volume) -> Value {
    let (name, environment) = volume.name.map(|it| (it.name, it.environment)).unzip();
    json!({ "id": volume.id, "name": name, "environment": environment, "created": volume.created })
}

fn answer(outcome: Result<impl Serialize, VolumeError>) -> Result<Value, Failure> {
    serde_json::to_value(outcome?).map_err(|error| Failure::new(ErrorClass::ExecutionError, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_at_absolute_paths_that_are_nobody_elses() {
        for path in ["/data", "/root/.cache", "/tmp/x", "/process", "/a/b"] {
            check_path(path, "f").unwrap();
        }
        for path in ["", "/", "data", "/a/../b", "/a//b", "/a/", "/proc", "/dev/shm", "/__modal/python"] {
            assert_eq!(check_path(path, "f").unwrap_err().error, ErrorClass::InvalidError, "{path}");
        }
    }
}
