//! Local files that get their names when they are whole.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;
use tempfile::NamedTempFile;

/// What the umask takes from.
const MODE: u32 = 0o666;

/// A file that is written and has no place yet.
pub(super) enum NewFile {
    /// One without a name: nothing is left of it, however this process ends.
    Nameless(OwnedFd),
    /// One beside its place, where the file system knows no others.
    Beside(NamedTempFile),
}

impl NewFile {
    /// Opens one in the directory that it is to be in.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        match openat(CWD, directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(MODE)) {
            Ok(file) => Ok(Self::Nameless(file)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let permissions = std::fs::Permissions::from_mode(MODE);
                let file = beside().permissions(permissions).tempfile_in(directory)?;
                Ok(Self::Beside(file))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Where it is written.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Nameless(file) => file.as_fd(),
            Self::Beside(file) => file.as_file().as_fd(),
        }
    }

    /// Gives it its name, which another file may have if this one `replaces` it.
    pub(super) fn place(self, directory: &Path, target: &Path, replaces: bool) -> io::Result<()> {
        match self {
            Self::Nameless(file) => match name(&file, target) {
                Err(error) if replaces && error.kind() == io::ErrorKind::AlreadyExists => {
                    // A file can only be replaced by one that has a name.
                    let named = beside().make_in(directory, |path| name(&file, path))?;
                    named.into_temp_path().persist(target).map_err(|error| error.error)
                }
                outcome => outcome,
            },
            Self::Beside(file) if replaces => file.persist(target).map(drop).map_err(|error| error.error),
            Self::Beside(file) => file.persist_noclobber(target).map(drop).map_err(|error| error.error),
        }
    }
}

fn beside() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".modal-");
    builder
}

fn name(file: &OwnedFd, path: &Path) -> io::Result<()> {
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs_err::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Makes the one that this file system gives, and the other.
    const KINDS: [fn(&Path) -> NewFile; 2] = [
        |directory| NewFile::open(directory).unwrap(),
        |directory| NewFile::Beside(beside().tempfile_in(directory).unwrap()),
    ];

    fn write(file: &NewFile, text: &str) {
        fs_err::File::from_parts(file.descriptor().try_clone_to_owned().unwrap().into(), "new")
            .write_all(text.as_bytes())
            .unwrap();
    }

    #[test]
    fn files_are_placed_and_replaced_only_if_that_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        for make in KINDS {
            let place = |text: &str, replaces| {
                let new = make(directory.path());
                write(&new, text);
                new.place(directory.path(), &target, replaces).map_err(|error| error.kind())
            };
            assert_eq!(place("first", false), Ok(()));
            assert_eq!(place("second", false), Err(io::ErrorKind::AlreadyExists));
            assert_eq!(fs_err::read_to_string(&target).unwrap(), "first");
            assert_eq!(place("third", true), Ok(()));
            assert_eq!(fs_err::read_to_string(&target).unwrap(), "third");
            assert_eq!(names(directory.path()), ["target"]);
            fs_err::remove_file(&target).unwrap();
            assert_eq!(place("fourth", true), Ok(()));
            fs_err::remove_file(&target).unwrap();
        }
    }

    #[test]
    fn nothing_is_seen_of_a_file_without_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let new = NewFile::open(directory.path()).unwrap();
        write(&new, "half");
        if matches!(new, NewFile::Nameless(_)) {
            assert!(names(directory.path()).is_empty());
        }
    }
}
