//! Directories of `--mount=type=cache`.

use std::os::fd::OwnedFd;

use lamina_store::{Job, JobError, WorkerContext};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chmodat, chownat};
use serde::{Deserialize, Serialize};

/// Gives a cache its owner and mode, while it is empty.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SetOwner {
    pub(super) cache: String,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Job for SetOwner {
    const NAME: &'static str = "builder.cache";
    type Output = ();

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<(), JobError> {
        let path = context.cache(&self.cache)?;
        let failed = |error: std::io::Error| JobError::file("preparing the cache", &path)(error);
        if fs_err::read_dir(&path).map_err(failed)?.next().is_none() {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            chownat(CWD, &path, Some(uid), Some(gid), AtFlags::empty()).map_err(|errno| failed(errno.into()))?;
            let mode = Mode::from_raw_mode(self.mode & 0o7777);
            chmodat(CWD, &path, mode, AtFlags::empty()).map_err(|errno| failed(errno.into()))?;
        }
        Ok(())
    }
}
