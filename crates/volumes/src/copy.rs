//! Copying within a volume, as `cp` does it.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};

use lamina_store::{Job, JobError, JobTable, WorkerContext};
use rustix::fs::{FileType, OFlags, Stat, fstat, readlinkat};
use serde::{Deserialize, Serialize};

use crate::catalogue::get;
use crate::error::{DIRECTORY, INVALID};
use crate::files::{failed, open_file};
use crate::sparse;
use crate::tree::{Inside, MAXIMUM_DEPTH, Tree, entries, refused, synchronise, too_deep};
use crate::upload::put;

/// Copies files, or directories with all that they hold, to another place of the volume.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CopyFiles {
    pub(crate) volume: String,
    pub(crate) sources: Vec<String>,
    /// A directory that they go into, or what the only one becomes.
    pub(crate) destination: String,
    /// Whether directories may be copied.
    pub(crate) recursive: bool,
}

pub(crate) fn jobs(table: JobTable) -> JobTable {
    table.register::<CopyFiles>()
}

fn kind(status: &Stat) -> FileType {
    FileType::from_raw_mode(status.st_mode)
}

impl Job for CopyFiles {
    const NAME: &'static str = "volumes.copy";
    type Output = ();

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        let (_, directory) = get(context.content(), &self.volume)?;
        let copy = Copy { context, tree: Tree::open(context, &self.volume)? };
        let destination = Inside::new(&self.destination)?;
        let into_directory = copy.tree.look(&destination)?.is_some_and(|status| kind(&status).is_dir());
        if !into_directory && (self.sources.len() > 1 || self.destination.ends_with('/')) {
            let message = format!("`{destination}` is no directory of the volume, so that nothing can go into it");
            return Err(JobError::new(INVALID, message));
        }
        for source in &self.sources {
            let source = Inside::new(source)?;
            let target = match source.split() {
                Some((_, name)) if into_directory => destination.join(name),
                _ => destination.clone(),
            };
            copy.one(&source, &target, self.recursive)?;
        }
        synchronise(&directory)
    }
}

struct Copy<'a> {
    context: &'a WorkerContext,
    tree: Tree,
}

impl Copy<'_> {
    fn one(&self, source: &Inside, target: &Inside, recursive: bool) -> Result<(), JobError> {
        let status = self.tree.look(source)?.ok_or_else(|| refused(source, rustix::io::Errno::NOENT))?;
        if !kind(&status).is_dir() {
            return self.file(source, target);
        }
        if !recursive {
            let message = format!("`{source}` is a directory: say that it is to be copied with all that it holds");
            return Err(JobError::new(DIRECTORY, message));
        }
        if format!("{}/", target.as_str()).starts_with(&format!("{}/", source.as_str())) || source.as_str() == "." {
            let message = format!("`{source}` cannot be copied into itself, `{target}`");
            return Err(JobError::new(INVALID, message));
        }
        self.directory(source, target, &status, 0)
    }

    fn file(&self, source: &Inside, target: &Inside) -> Result<(), JobError> {
        let (mut file, status) = open_file(&self.tree, source)?;
        let path = self.context.temporary_path();
        let written = fs_err::File::create_new(&path).and_then(|copy| {
            let (mut copy, _) = copy.into_parts();
            sparse::copy(&mut file, &mut copy)?;
            copy.set_permissions(std::fs::Permissions::from_mode(status.st_mode & 0o777))
        });
        let placed = written.map_err(|error| failed(source, &error)).and_then(|()| {
            if self
                .tree
                .look(target)?
                .is_some_and(|there| (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino))
            {
                let message = format!("`{source}` and `{target}` are the same file");
                return Err(JobError::new(INVALID, message));
            }
            put(&self.tree, &path, target, true)
        });
        if placed.is_err() {
            // The space is wanted back at once; the first error is the one that matters.
            let _ = self.context.remove(&path);
        }
        placed
    }

    /// Copies a directory; `root` is what the copying began with, which is not copied into itself.
    fn directory(&self, source: &Inside, target: &Inside, root: &Stat, depth: usize) -> Result<(), JobError> {
        if depth > MAXIMUM_DEPTH {
            return Err(too_deep(source));
        }
        let opened = self.tree.get(source, OFlags::PATH | OFlags::DIRECTORY)?;
        let found = entries(&opened).map_err(|error| failed(source, &error))?;
        let made = self.tree.ensure_directory(target)?;
        let made = fstat(&made).map_err(|errno| refused(target, errno))?;
        if (made.st_dev, made.st_ino) == (root.st_dev, root.st_ino) {
            let message = format!("`{source}` cannot be copied into itself");
            return Err(JobError::new(INVALID, message));
        }
        for (name, status) in found {
            let Ok(name) = std::str::from_utf8(&name) else {
                let name = String::from_utf8_lossy(&name);
                return Err(JobError::new(INVALID, format!("`{}` has no name in UTF-8", source.join(&name))));
            };
            let (from, to) = (source.join(name), target.join(name));
            match kind(&status) {
                FileType::Directory => self.directory(&from, &to, root, depth + 1)?,
                FileType::RegularFile => self.file(&from, &to)?,
                FileType::Symlink => {
                    let leads = readlinkat(&opened, name, Vec::new()).map_err(|errno| refused(&from, errno))?;
                    let path = self.context.temporary_path();
                    let leads = std::os::unix::ffi::OsStrExt::from_bytes(leads.to_bytes());
                    let leads: &std::ffi::OsStr = leads;
                    symlink(leads, &path).map_err(|error| failed(&to, &error))?;
                    put(&self.tree, &path, &to, true)?;
                }
                // Pipes and sockets have no contents.
                _ => {}
            }
        }
        let mode =
            rustix::fs::Mode::from_raw_mode(fstat(&opened).map_err(|errno| refused(source, errno))?.st_mode & 0o777);
        let made = self.tree.get(target, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fchmod(&made, mode).map_err(|errno| refused(target, errno))?;
        Ok(())
    }
}
