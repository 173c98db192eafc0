//! Removing directories that programs we do not trust have filled.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::disk::{self, Result, join};
use crate::JobError;

/// Directories whose paths are longer than this are moved up before they are emptied: paths stay below what a system
/// call takes, and the stack stays small.
const DEEP: usize = 2048;

/// Removes `path` and everything below it; that nothing is there is fine.
///
/// Any depth can be removed, although a single system call takes no path beyond 4,095 bytes.
pub(super) fn remove_all(path: &Path) -> Result<()> {
    match disk::try_stat(path)? {
        None => Ok(()),
        Some(stat) if disk::file_type(&stat) != FileType::Directory => disk::unlink(path),
        Some(_) => {
            let mut moved = 0;
            empty(path, path, &mut moved)?;
            // What was moved up may hold deep directories again.
            while moved > 0 {
                moved = 0;
                empty(path, path, &mut moved)?;
            }
            remove_directory(path)
        }
    }
}

fn empty(top: &Path, directory: &Path, moved: &mut usize) -> Result<()> {
    let names = match disk::list(directory) {
        // Another sweep is removing the same leftovers.
        Err(_) if disk::try_stat(directory)?.is_none() => return Ok(()),
        other => other?,
    };
    for (name, file_type) in names {
        let path = join(directory, &name);
        let unlinked = if file_type == FileType::Directory { Err(Errno::ISDIR) } else { rustix::fs::unlink(&path) };
        match unlinked {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) if path.as_os_str().len() > DEEP => {
                *moved += 1;
                let name = format!(".deep-{}", lamina_ground::random_name());
                disk::rename(&path, &top.join(name))?;
            }
            Err(Errno::ISDIR) => {
                empty(top, &path, moved)?;
                remove_directory(&path)?;
            }
            Err(errno) => return Err(JobError::file("removing", &path)(errno)),
        }
    }
    Ok(())
}

fn remove_directory(path: &Path) -> Result<()> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(JobError::file("removing the directory", path)(errno)),
    }
}
