//! The program that this process runs, and what has taken its place on the disk.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program of this process, as it was when it began.
#[derive(Debug)]
pub(super) struct OwnProgram {
    path: PathBuf,
    file: File,
}

/// What tells a file from one that has taken its place.
#[derive(Debug, PartialEq, Eq)]
struct File {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl File {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs_err::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

impl OwnProgram {
    /// Takes note of it, also where it has been replaced already.
    pub(super) fn note() -> io::Result<Self> {
        let path = std::env::current_exe()?.into_os_string().into_vec();
        let path = path.strip_suffix(b" (deleted)").unwrap_or(&path).to_vec();
        Ok(Self { file: File::at(Path::new("/proc/self/exe"))?, path: OsString::from_vec(path).into() })
    }

    /// The program that has taken its place, if there is one and it can be executed: an installation may be under way.
    pub(super) fn replacement(&self) -> Option<&Path> {
        let is_other = File::at(&self.path).is_ok_and(|file| file != self.file);
        (is_other && runs(&self.path)).then_some(&self.path)
    }
}

fn runs(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use fs_err::os::unix::fs::OpenOptionsExt;
    use std::io::Write;

    use super::*;

    fn script(path: &Path, text: &str) {
        let mut options = fs_err::OpenOptions::new();
        options.write(true).create_new(true).mode(0o755);
        options.open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_program_is_replaced_once_the_other_one_can_be_executed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        script(&path, "#!/bin/sh\nexit 0\n");
        let own = OwnProgram { file: File::at(&path).unwrap(), path: path.clone() };
        assert_eq!(own.replacement(), None);
        fs_err::remove_file(&path).unwrap();
        assert_eq!(own.replacement(), None, "it is missing");
        script(&path, "#!/bin/sh\nexit 1\n");
        assert_eq!(own.replacement(), None, "it does not work yet");
        let finished = directory.path().join("finished");
        script(&finished, "#!/bin/sh\nexit 0\n#\n");
        fs_err::rename(&finished, &path).unwrap();
        assert_eq!(own.replacement(), Some(&*path));
    }
}
