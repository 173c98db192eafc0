//! Directories of `--mount=type=cache`.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use lamina_dockerfile::{Cache, Made};
use lamina_image::Hasher;
use lamina_store::{Job, JobError, WorkerContext};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid, chmodat, chownat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::state::State;

/// What the directory of a cache is called. Caches that begin in another way are others, as with `BuildKit`; of one that begins
/// as a copy, each part is one of its own here.
pub(super) fn name(cache: &Cache, from: Option<&State>) -> String {
    let mut hasher = Hasher::new();
    hasher.update(cache.id.as_bytes());
    if let Some(Made { uid, gid, mode }) = cache.made {
        hasher.update(format!("\0{uid}:{gid} {mode:o}").as_bytes());
    }
    if let Some(from) = from {
        let part = cache.source.as_deref().unwrap_or_default().split('/').filter(|part| !matches!(*part, "" | "."));
        hasher.update(format!("\0{}\0{}", from.content().hex(), part.collect::<Vec<_>>().join("/")).as_bytes());
    }
    format!("mount-{}", &hasher.finish().hex()[..16])
}

/// Gives a cache its owner and mode while it is empty, and finds a part of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Prepare {
    pub(super) cache: String,
    pub(super) made: Option<Made>,
    pub(super) part: Option<String>,
}

impl Job for Prepare {
    const NAME: &'static str = "builder.cache";
    /// Where the part is: a path below the cache of which nothing is a link. `None` if it is not there.
    type Output = Option<String>;

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Self::Output, JobError> {
        let path = context.cache(&self.cache)?;
        let failed = |error: std::io::Error| JobError::file("preparing the cache", &path)(error);
        let Made { uid, gid, mode } = self.made.unwrap_or(Made { uid: 0, gid: 0, mode: 0o755 });
        if fs_err::read_dir(&path).map_err(failed)?.next().is_none() {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            chownat(CWD, &path, Some(uid), Some(gid), AtFlags::empty()).map_err(|errno| failed(errno.into()))?;
            chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(|errno| failed(errno.into()))?;
        }
        let Some(part) = self.part else { return Ok(Some(String::new())) };
        found(&path, &part).map_err(failed)
    }
}

/// Where a path below a directory leads, the directory being the root.
fn found(directory: &Path, part: &str) -> std::io::Result<Option<String>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let place = match rustix::fs::openat2(&root, part, flags, Mode::empty(), resolve) {
        Ok(place) => place,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let name = |fd: &OwnedFd| fs_err::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let (root, place) = (name(&root)?, name(&place)?);
    Ok(place.strip_prefix(root).ok().and_then(Path::to_str).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_cache_are_found_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs_err::create_dir_all(path("a/b")).unwrap();
        std::os::unix::fs::symlink("/a/../a/b", path("link")).unwrap();
        for (part, leads_to) in
            [("a/b", Some("a/b")), ("/a/", Some("a")), ("link", Some("a/b")), ("../../a", Some("a")), ("c", None)]
        {
            assert_eq!(found(directory.path(), part).unwrap().as_deref(), leads_to, "{part}");
        }
    }

    #[test]
    fn caches_that_begin_in_another_way_are_others() {
        let plain = Cache {
            id: "x".to_owned(),
            target: "/c".to_owned(),
            from: None,
            source: None,
            sharing: lamina_dockerfile::Sharing::Shared,
            read_only: false,
            made: None,
        };
        let part = Cache { source: Some("a/".to_owned()), ..plain.clone() };
        let same_part = Cache { source: Some("/a".to_owned()), ..plain.clone() };
        let owned = Cache { made: Some(Made { uid: 0, gid: 0, mode: 0o755 }), ..plain.clone() };
        let image = State::default();
        assert_eq!(name(&plain, None), name(&part, None));
        assert_eq!(name(&part, Some(&image)), name(&same_part, Some(&image)));
        let names = [
            name(&plain, None),
            name(&owned, None),
            name(&plain, Some(&image)),
            name(&part, Some(&image)),
            name(&Cache { id: "y".to_owned(), ..plain }, None),
        ];
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
    }
}
