//! Uploads: files are written beside the volume and renamed into it, so that each is there as a whole or not at all.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use lamina_store::{Job, JobError, JobTable, WorkerContext};
use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, fchmod, renameat_with, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::catalogue::get;
use crate::error::{FILE_EXISTS, INVALID};
use crate::sparse;
use crate::tree::{Inside, Tree, refused, synchronise};

/// What was written for a volume and is not in it yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A file on its way to its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// What was written.
    pub staged: Staged,
    /// Where it goes, from the volume's root.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
}

/// Writes what the descriptor that comes along gives.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StageFile {}

/// Puts files in their places, all or none of them if one may not be replaced.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PublishFiles {
    pub(crate) volume: String,
    pub(crate) uploads: Vec<Upload>,
    /// Whether files that are there are replaced.
    pub(crate) force: bool,
}

/// Forgets what was written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DropStaged {
    pub(crate) staged: Vec<Staged>,
}

pub(crate) fn jobs(table: JobTable) -> JobTable {
    table.register::<StageFile>().register::<PublishFiles>().register::<DropStaged>()
}

/// Where something that was written is, if this process wrote it.
fn place(context: &WorkerContext, staged: &Staged) -> Result<PathBuf, JobError> {
    if staged.name.is_empty() || !staged.name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(JobError::new(INVALID, format!("nothing was written as `{}`", staged.name)));
    }
    Ok(context.temporary_path().with_file_name(&staged.name))
}

impl Job for StageFile {
    const NAME: &'static str = "volumes.stage";
    type Output = Staged;

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<Staged, JobError> {
        let source = fds.into_iter().next().ok_or_else(|| JobError::new(JobError::STORE, "nothing to read from"))?;
        let path = context.temporary_path();
        let file = fs_err::File::create_new(&path)?;
        match sparse::copy(&mut File::from(source), &mut file.into_parts().0) {
            Ok(size) => {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
                Ok(Staged { name, size })
            }
            Err(error) => {
                // The space is wanted back at once; the first error is the one that matters.
                let _ = fs_err::remove_file(&path);
                Err(JobError::file("writing an upload to", &path)(error))
            }
        }
    }
}

impl Job for DropStaged {
    const NAME: &'static str = "volumes.drop_staged";
    type Output = ();

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        self.staged.iter().try_for_each(|staged| context.remove(&place(context, staged)?))
    }
}

impl Job for PublishFiles {
    const NAME: &'static str = "volumes.publish";
    type Output = ();

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        let (_, directory) = get(context.content(), &self.volume)?;
        let tree = Tree::open(context, &self.volume)?;
        check_together(&self.uploads, self.force)?;
        let mut targets = Vec::with_capacity(self.uploads.len());
        for Upload { staged, path, mode } in &self.uploads {
            let inside = Inside::new(path)?;
            check(&tree, &inside, self.force)?;
            let source = place(context, staged)?;
            let file = fs_err::File::open(&source)?;
            fchmod(&file, Mode::from_raw_mode(mode & 0o777)).map_err(JobError::file("changing", &source))?;
            targets.push((source, inside));
        }
        synchronise(&directory)?;
        for (source, path) in &targets {
            put(&tree, source, path, self.force)?;
        }
        synchronise(&directory)
    }
}

/// Refuses files that are in the way of one another. Of several with one path the last one stays, if files may be replaced.
fn check_together(uploads: &[Upload], force: bool) -> Result<(), JobError> {
    let mut places = Vec::with_capacity(uploads.len());
    for upload in uploads {
        places.push(format!("{}/", Inside::new(&upload.path)?.as_str()));
    }
    // With the slash, whatever lies below a place comes right after it.
    places.sort_unstable();
    for pair in places.windows(2) {
        let [one, other] = [&pair[0], &pair[1]].map(|place| place.trim_end_matches('/'));
        if one == other && !force {
            return Err(JobError::new(FILE_EXISTS, format!("two files are to be put at `{one}`")));
        }
        if one != other && pair[1].starts_with(&pair[0]) {
            return Err(JobError::new(INVALID, format!("`{one}` cannot be a file and have `{other}` in it")));
        }
    }
    Ok(())
}

/// Refuses a place where no file can go.
fn check(tree: &Tree, path: &Inside, force: bool) -> Result<(), JobError> {
    let Some((parent, name)) = path.split() else {
        return Err(JobError::new(INVALID, "a file cannot take the place of the volume's root: name it"));
    };
    if tree.look(&parent)?.is_none() {
        return Ok(());
    }
    let parent = tree.get(&parent, rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY)?;
    match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(refused(path, errno)),
        Ok(status) if FileType::from_raw_mode(status.st_mode).is_dir() => {
            Err(JobError::new(INVALID, format!("`{path}` is a directory of the volume: name a file in it")))
        }
        Ok(_) if force => Ok(()),
        Ok(_) => Err(exists(path)),
    }
}

/// Puts a file from beside the volume in its place; directories on the way are made.
pub(crate) fn put(tree: &Tree, source: &PathBuf, path: &Inside, force: bool) -> Result<(), JobError> {
    let Some((parent, name)) = path.split() else { return Err(refused(path, Errno::ISDIR)) };
    let parent = tree.ensure_directory(&parent)?;
    let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match renameat_with(CWD, source, &parent, name, flags) {
        Err(Errno::EXIST) => Err(exists(path)),
        renamed => renamed.map_err(|errno| refused(path, errno)),
    }
}

fn exists(path: &Inside) -> JobError {
    JobError::new(FILE_EXISTS, format!("there is a file `{path}` in the volume already"))
}
