//! The root before and after its packages are unpacked.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use lamina_store::{Job, JobError, WorkerContext};
use serde::{Deserialize, Serialize};

use super::filter;
use super::tree::{Attributes, Tree};
use super::unpack::Unpacked;

/// Directories that packages and `dpkg` rely on.
const DIRECTORIES: [&str; 13] = [
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/local/bin",
    // Left empty, but some packages make links in there without asking.
    "usr/share/man/man1",
    "usr/share/man/man5",
    "usr/share/man/man7",
    "usr/share/man/man8",
    "etc/dpkg/dpkg.cfg.d",
    "var/lib/dpkg/info",
    "var/lib/dpkg/updates",
    "var/lib/dpkg/triggers",
    "var/cache",
];

/// Links of the merged `/usr`, and those that maintainer scripts need before their packages have made them.
const LINKS: [(&str, &str); 5] =
    [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("usr/bin/sh", "dash"), ("usr/bin/awk", "mawk")];

/// Programs that are only there while packages are configured. Those in `/usr/local/sbin` are found first.
pub(crate) const HELPERS: [(&str, &str); 4] = [
    // Forbids starting services: there is no init system.
    ("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n"),
    // Python's packages ask these what to compile, and to do it. It is done for all at once, meanwhile.
    ("usr/local/sbin/py3compile", "#!/bin/sh\nexit 0\n"),
    ("usr/local/sbin/dpkg", "#!/bin/sh\n[ \"$1\" = -L ] && exit 0\nexec /usr/bin/dpkg \"$@\"\n"),
    // The certificates' trigger would do once more, for a second, what their configuration has just done.
    (
        "usr/local/sbin/dpkg-trigger",
        "#!/bin/sh\ncase \"$*\" in *update-ca-certificates) exit 0;; esac\nexec /usr/bin/dpkg-trigger \"$@\"\n",
    ),
];

/// Accounts, and the lists that `base-passwd` makes them from.
const ACCOUNTS: [(&str, &str); 2] =
    [("etc/passwd", "usr/share/base-passwd/passwd.master"), ("etc/group", "usr/share/base-passwd/group.master")];

/// Makes the empty root that packages are unpacked into.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayOut {
    /// The work whose upper is the root.
    pub(crate) work: String,
    /// Debian's architecture.
    pub(crate) architecture: String,
}

impl Job for LayOut {
    const NAME: &'static str = "bases.lay-out";
    type Output = ();

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        let mut tree = Tree::open(&context.upper(&self.work))?;
        tree.set_directory(Path::new(""), Attributes::root(0o755))?;
        for directory in DIRECTORIES {
            tree.directory(Path::new(directory))?;
        }
        for (link, target) in LINKS {
            tree.symlink(Path::new(link), OsStr::new(target), Attributes::root(0o777))?;
        }
        if self.architecture == "amd64" {
            tree.directory(Path::new("usr/lib64"))?;
            tree.symlink(Path::new("lib64"), OsStr::new("usr/lib64"), Attributes::root(0o777))?;
        }
        let rules = filter::configuration();
        tree.write(Path::new(filter::CONFIGURATION), Attributes::root(0o644), &mut rules.as_bytes())
    }
}

/// Writes the package database, when all packages are unpacked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Register {
    /// The work whose upper is the root.
    pub(crate) work: String,
    /// The packages, by name.
    pub(crate) packages: Vec<Unpacked>,
}

impl Job for Register {
    const NAME: &'static str = "bases.register";
    type Output = ();

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _: Vec<OwnedFd>) -> Result<(), JobError> {
        let mut tree = Tree::open(&context.upper(&self.work))?;
        let file = Attributes::root(0o644);
        let mut write = |path: &str, text: &str| tree.write(Path::new(path), file, &mut text.as_bytes());
        let status: Vec<_> = self.packages.iter().map(|package| package.status.as_str()).collect();
        write("var/lib/dpkg/status", &(status.join("\n") + "\n"))?;
        write("var/lib/dpkg/available", "")?;
        write("var/lib/dpkg/info/format", "1\n")?;
        for (path, text) in triggers(&self.packages) {
            write(&path, &text)?;
        }
        for (path, script) in HELPERS {
            tree.write(Path::new(path), Attributes::root(0o755), &mut script.as_bytes())?;
        }
        for (path, master) in ACCOUNTS {
            if let Some(contents) = tree.read(Path::new(master))? {
                tree.write(Path::new(path), file, &mut &contents[..])?;
            }
        }
        for (path, attributes) in directories(&self.packages) {
            tree.set_directory(Path::new(path), attributes)?;
        }
        Ok(())
    }
}

/// `dpkg`'s files of who is interested in what: one for all paths, one for each trigger.
fn triggers(packages: &[Unpacked]) -> BTreeMap<String, String> {
    let mut files = BTreeMap::<String, String>::new();
    let mut add =
        |name: &str, line: String| *files.entry(format!("var/lib/dpkg/triggers/{name}")).or_default() += &line;
    for (trigger, package) in packages.iter().flat_map(|package| &package.interests) {
        if trigger.starts_with('/') {
            add("File", format!("{trigger} {package}\n"));
        } else if !trigger.contains('/') {
            add(trigger, format!("{package}\n"));
        }
    }
    files
}

/// Unusual attributes of directories. Packages that share a directory mostly agree; where not, the first package counts,
/// whatever the order in which they were unpacked, and `base-files` before all others.
fn directories(packages: &[Unpacked]) -> BTreeMap<&str, Attributes> {
    let mut found = BTreeMap::new();
    let is_base = |package: &&Unpacked| package.name == "base-files";
    let ordered = packages.iter().filter(is_base).chain(packages.iter().filter(|package| !is_base(package)));
    for (path, attributes) in ordered.flat_map(|package| &package.directories) {
        found.entry(path.as_str()).or_insert(*attributes);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, mode: u32, interests: &[(&str, &str)]) -> Unpacked {
        Unpacked {
            name: name.into(),
            status: String::new(),
            directories: vec![("var/local".into(), Attributes::root(mode))],
            interests: interests.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect(),
        }
    }

    #[test]
    fn the_order_of_unpacking_does_not_matter() {
        let packages = [package("a", 0o700, &[]), package("base-files", 0o2775, &[])];
        assert_eq!(directories(&packages)["var/local"].mode, 0o2775);
    }

    #[test]
    fn triggers_are_filed_as_dpkg_does() {
        let packages = [
            package("a", 0o755, &[("/usr/lib/x", "a/noawait"), ("ldconfig", "a"), ("../x", "a")]),
            package("b", 0o755, &[("ldconfig", "b:amd64/noawait")]),
        ];
        let files = triggers(&packages);
        assert_eq!(files["var/lib/dpkg/triggers/File"], "/usr/lib/x a/noawait\n");
        assert_eq!(files["var/lib/dpkg/triggers/ldconfig"], "a\nb:amd64/noawait\n");
        assert_eq!(files.len(), 2);
    }
}
