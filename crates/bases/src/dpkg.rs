//! What dpkg keeps in an image: what it writes beside its packages, and what it says about their files.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;

use fs_err as fs;
use lamina_store::{CommitRules, Exclude};

/// Files and directories, apt's and others', that repeat what packages say.
pub const RECORDS: [&str; 8] = [
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/cache/apt",
    "/var/cache/ldconfig",
    "/var/cache/debconf/templates.dat",
    "/var/log/apt",
    "/var/log/dpkg.log",
    "/etc/ld.so.cache",
];

/// Files left out by their exact path.
const SCRATCH: [&str; 18] = [
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "var/cache/apt/archives/lock",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/daily_lock",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/systemd/random-seed",
    "var/log/alternatives.log",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
    "var/log/fontconfig.log",
];
/// Directories of which every file is left out, at any depth.
const SCRATCH_BELOW: [&str; 3] = ["var/cache/apt/archives/partial", "var/lib/apt/lists", "var/log/apt"];
/// Directories of which files with these endings are left out.
const SCRATCH_ENDINGS: [(&str, &str); 4] = [
    ("var/cache/apt", ".bin"),
    ("var/cache/apt/archives", ".de"),
    ("var/cache/debconf", "-old"),
    ("var/lib/dpkg", "-old"),
];

/// How a base is committed, and a step that installs packages: without logs, lists, archives, backups and lock files, and with nothing
/// in it that depends on the day. `drop_empty` are mount points that the sandbox made.
#[must_use]
pub fn commit_rules(drop_empty: Vec<String>) -> CommitRules {
    let exclude = Exclude {
        files: SCRATCH.map(str::to_owned).into(),
        below: SCRATCH_BELOW.map(str::to_owned).into(),
        endings: SCRATCH_ENDINGS.map(|(directory, ending)| (directory.to_owned(), ending.to_owned())).into(),
    };
    CommitRules { exclude, constant_password_days: true, package_times: true, drop_empty }
}

/// The files of installed packages.
#[derive(Debug, Default)]
pub struct Installed {
    /// MD5 of files, by path in the image.
    pub digests: HashMap<Vec<u8>, String>,
    /// Paths of everything, directories and links as well.
    pub paths: HashSet<Vec<u8>>,
}

impl Installed {
    /// Reads what is below the root of an image, or of a step's changes.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let mut installed = Self::default();
        let information = root.join("var/lib/dpkg/info");
        for file in fs::read_dir(&information).into_iter().flatten().flatten().map(|entry| entry.path()) {
            match file.extension().and_then(OsStr::to_str) {
                Some("md5sums") => {
                    for line in lines(&fs::read(&file).unwrap_or_default()) {
                        installed.add_digest(line.get(..32), line.get(34..));
                    }
                }
                Some("list") => installed.paths.extend(lines(&fs::read(&file).unwrap_or_default()).map(<[u8]>::to_vec)),
                _ => {}
            }
        }
        // Configuration files have their digests elsewhere: ` /etc/file digest`.
        for line in lines(&fs::read(root.join("var/lib/dpkg/status")).unwrap_or_default()) {
            let mut words = line.strip_prefix(b" /").unwrap_or_default().split(|byte| *byte == b' ');
            let (path, digest) = (words.next(), words.next());
            installed.add_digest(digest, path);
        }
        installed
    }

    fn add_digest(&mut self, digest: Option<&[u8]>, path: Option<&[u8]>) {
        if let (Some(digest), Some(path)) = (digest.and_then(|digest| std::str::from_utf8(digest).ok()), path) {
            self.digests.insert([b"/", path].concat(), digest.to_owned());
        }
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_paths_as_layers_have_them() {
        let rules = commit_rules(vec!["/mnt".to_owned()]);
        let Exclude { files, below, endings } = &rules.exclude;
        assert_eq!((files.len(), below.len(), endings.len(), rules.drop_empty.len()), (18, 3, 4, 1));
        let directories = endings.iter().map(|(directory, _)| directory);
        for path in files.iter().chain(below).chain(directories) {
            assert!(!path.starts_with('/') && !path.ends_with('/'), "{path}");
        }
    }
}
