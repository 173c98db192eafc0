//! The numbers of an image's users and groups.

use std::os::fd::OwnedFd;

use lamina_ground::{Stack, StorePath};
use lamina_image::DockerfileStep;
use lamina_packages::{Entry, Layers, read_text};
use lamina_sandbox::IdRange;
use lamina_store::{Job, JobError, WorkerContext};
use serde::{Deserialize, Serialize};

use super::mistake;
use crate::steps::{StepContext, StepError};

/// Reads the image's lists of users and groups.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FindIds {
    views: Stack<StorePath>,
}

impl Job for FindIds {
    const NAME: &'static str = "builder.ids";
    type Output = (String, String);

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Self::Output, JobError> {
        let mut layers = Layers::new(context.content(), &self.views);
        let mut text = |path: &str| match layers.entry(path)? {
            Entry::OfBase(file) | Entry::Above(file) => read_text(&file),
            Entry::Absent | Entry::Elsewhere => Ok(String::new()),
        };
        Ok((text("/etc/passwd")?, text("/etc/group")?))
    }
}

/// The user and group that `--chown` or `USER` names. A name that has a group, has that; a number alone is both.
pub(super) fn ids(step: &DockerfileStep, wanted: &str, context: &StepContext<'_>) -> Result<(u32, u32), StepError> {
    let (user, group) = wanted.split_once(':').map_or((wanted, None), |(user, group)| (user, Some(group)));
    let number = |text: &str| text.parse::<u32>().ok();
    let known = |ids| check(step, ids, wanted, context);
    if let (Some(uid), Some(gid)) = (number(user), group.map_or(number(user), number)) {
        return known((uid, gid));
    }
    let store = context.workshop.store;
    let job = FindIds { views: store.view_paths(&context.parent.layers) };
    let (users, groups) = store.job(&job, &[]).map_err(lamina_store::StoreError::from)?;
    known(among(user, group, &users, &groups).map_err(|message| StepError::from(mistake(step, message)))?)
}

/// These ids, if the store has them for images.
pub(super) fn check(
    step: &DockerfileStep,
    (uid, gid): (u32, u32),
    wanted: &str,
    context: &StepContext<'_>,
) -> Result<(u32, u32), StepError> {
    let map = context.workshop.id_map;
    let has = |ranges: &[IdRange], id: u32| ranges.iter().any(|range| id.wrapping_sub(range.inside) < range.count);
    if has(&map.uids, uid) && has(&map.gids, gid) {
        return Ok((uid, gid));
    }
    let message = format!("`{wanted}` is not among the {} ids that this store has for images", map.count());
    Err(mistake(step, message).into())
}

fn among(user: &str, group: Option<&str>, users: &str, groups: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| text.parse::<u32>().ok();
    let find = |text: &str, name: &str, field: usize| {
        let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
        lines.find(|fields| fields[0] == name).and_then(|fields| number(fields.get(field)?))
    };
    let user = if user.is_empty() { "0" } else { user };
    let known = find(users, user, 2).map(|uid| (uid, find(users, user, 3).unwrap_or(uid)));
    let numbers = known.or_else(|| number(user).map(|uid| (uid, uid)));
    let (uid, gid) = numbers.ok_or_else(|| format!("the image has no user `{user}`: make it before it is named"))?;
    let Some(group) = group.filter(|group| !group.is_empty()) else { return Ok((uid, gid)) };
    let gid = find(groups, group, 2).or_else(|| number(group));
    Ok((uid, gid.ok_or_else(|| format!("the image has no group `{group}`: make it before it is named"))?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn owners_are_found() {
        let (users, groups) = ("root:x:0:0::/:\napp:x:1000:100::/:\n", "root:x:0:\ndocker:x:999:\n");
        for (user, group, ids) in [
            ("app", None, Ok((1000, 100))),
            ("app", Some("docker"), Ok((1000, 999))),
            ("app", Some("5"), Ok((1000, 5))),
            ("7", Some("docker"), Ok((7, 999))),
            ("", Some("docker"), Ok((0, 999))),
            ("nobody", None, Err("the image has no user `nobody`: make it before it is named")),
            ("app", Some("no"), Err("the image has no group `no`: make it before it is named")),
        ] {
            assert_eq!(super::among(user, group, users, groups), ids.map_err(str::to_owned));
        }
    }
}
