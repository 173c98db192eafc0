//! A root that is only to lie over another one: files below `/usr`, and nothing that says which packages they are of.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use fs_err as fs;
use lamina_store::{Job, JobError, WorkerContext};
use serde::{Deserialize, Serialize};

use super::tree::{Attributes, Tree};

/// What the root was laid out with, for packages that are not in this one.
const OTHERS: [&str; 4] = ["usr/bin/awk", "usr/bin/sh", "usr/local", "usr/share/man"];

/// Names under which compilers are called. In an image these are links to `/etc/alternatives`, which a package's script
/// leaves as they are where they are right; so they must be others, to become part of the image that they are installed in.
const NAMES: [(&str, &str); 6] =
    [("cc", "gcc"), ("c++", "g++"), ("c89", "c89-gcc"), ("c99", "c99-gcc"), ("f77", "gfortran"), ("f95", "gfortran")];

/// Removes everything else, and makes the links that scripts of packages would.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Strip {
    /// The work whose upper is the root.
    pub(crate) work: String,
}

impl Job for Strip {
    const NAME: &'static str = "bases.strip";
    type Output = ();

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        strip(&context.upper(&self.work))
    }
}

fn strip(root: &Path) -> Result<(), JobError> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name() != "usr" {
            remove(&entry.path())?;
        }
    }
    for path in OTHERS {
        remove(&root.join(path))?;
    }
    let mut tree = Tree::open(root)?;
    for (name, target) in NAMES {
        if fs::symlink_metadata(root.join("usr/bin").join(target)).is_ok() {
            tree.symlink(&Path::new("usr/bin").join(name), OsStr::new(target), Attributes::root(0o777))?;
        }
    }
    Ok(())
}

/// Removes a file, a link or a directory with all that is in it; none being there is fine.
fn remove(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_packages_stay_and_nothing_that_knows_of_them() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for directory in ["etc/ld.so.conf.d", "var/lib/dpkg/info", "usr/bin", "usr/share/man/man1", "usr/local/bin"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for file in ["etc/ld.so.conf.d/x.conf", "var/lib/dpkg/info/gcc.list", "usr/bin/gcc"] {
            fs::write(root.join(file), "").unwrap();
        }
        fs::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        fs::os::unix::fs::symlink("dash", root.join("usr/bin/sh")).unwrap();
        strip(root).unwrap();
        let names = |directory: &str| {
            let mut names: Vec<_> =
                fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["usr"]);
        assert_eq!(
            (names("usr"), names("usr/bin")),
            (vec!["bin".into(), "share".into()], vec!["cc".into(), "gcc".into()])
        );
        assert_eq!(fs::read_link(root.join("usr/bin/cc")).unwrap(), Path::new("gcc"));
    }
}
