//! Unpacking packages as `dpkg --unpack` would, several at a time.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lamina_store::{Job, JobError, WorkerContext};
use serde::{Deserialize, Serialize};
use tar::EntryType;

use super::deb::Deb;
use super::filter::{is_excluded, is_excluded_directory};
use super::malformed;
use super::tree::{Attributes, Tree, relative};
use crate::control::stanzas;
use crate::packages::is_package_name;

/// Where `dpkg` keeps what it knows about packages.
const INFO: &str = "var/lib/dpkg/info";
/// Largest maintainer script or list accepted.
const CONTROL_LIMIT: u64 = 64 << 20;
/// What `dpkg` appends to a configuration file until the package is configured.
const NEW: &str = ".dpkg-new";

/// Unpacks the package in the one descriptor that comes with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UnpackPackage {
    /// The work whose upper is the root.
    pub(crate) work: String,
    /// The package's name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
}

/// What the package database has to know about an unpacked package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    /// Its name.
    pub(crate) name: String,
    /// Its entry in `dpkg`'s status file.
    pub(crate) status: String,
    /// Directories with other attributes than usual.
    pub(crate) directories: Vec<(String, Attributes)>,
    /// What it wants to be told of: a trigger's name or a path, and how `dpkg` notes the package.
    pub(crate) interests: Vec<(String, String)>,
}

impl Job for UnpackPackage {
    const NAME: &'static str = "bases.unpack";
    type Output = Unpacked;

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<Unpacked, JobError> {
        let file = fds.into_iter().next().ok_or_else(|| malformed(&self.name, "it came without its file"))?;
        let tree = Tree::open(&context.upper(&self.work))?;
        unpack(&self.name, &self.version, File::from(file), tree, &|| context.ensure_wanted(&self.work))
    }
}

/// Unpacks the tar archive in the one descriptor that comes with it. The engine made it: it holds directories, files and
/// links of root.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UnpackArchive {
    /// The work whose upper is the root.
    pub(crate) work: String,
    /// The directory that it is unpacked into.
    pub(crate) target: String,
}

impl Job for UnpackArchive {
    const NAME: &'static str = "bases.unpack-archive";
    type Output = ();

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<(), JobError> {
        let file = fds.into_iter().next().ok_or_else(|| malformed(&self.target, "it came without its file"))?;
        let mut tree = Tree::open(&context.upper(&self.work).join(&self.target))?;
        let wanted = || context.ensure_wanted(&self.work);
        unpack_data(&self.target, &HashSet::new(), Box::new(File::from(file)), &mut tree, &wanted).map(drop)
    }
}

/// Fails once nobody wants what is unpacked.
type Wanted<'a> = &'a dyn Fn() -> Result<(), JobError>;

/// Unpacks a package below the root of `tree`.
fn unpack(name: &str, version: &str, file: File, mut tree: Tree, wanted: Wanted<'_>) -> Result<Unpacked, JobError> {
    let mut deb = Deb::open(name, file)?;
    let control = Control::read(name, version, deb.tar("control")?)?;
    for (file, mode, contents) in &control.files {
        let path = Path::new(INFO).join(format!("{}.{file}", control.key));
        tree.write(&path, Attributes::root(*mode), &mut &contents[..])?;
    }
    let data = unpack_data(name, &control.conffiles, deb.tar("data")?, &mut tree, wanted)?;
    let list = Path::new(INFO).join(format!("{}.list", control.key));
    tree.write(&list, Attributes::root(0o644), &mut &data.list[..])?;
    Ok(Unpacked {
        name: name.into(),
        status: control.status,
        directories: data.directories,
        interests: control.interests,
    })
}

/// The first half of a package: what it says about itself.
struct Control {
    /// How `dpkg` names its files: the name, with the architecture if several may be installed together.
    key: String,
    status: String,
    conffiles: HashSet<Vec<u8>>,
    interests: Vec<(String, String)>,
    /// Maintainer scripts and lists: name, mode, contents.
    files: Vec<(String, u32, Vec<u8>)>,
}

impl Control {
    fn read(name: &str, version: &str, archive: Box<dyn Read + '_>) -> Result<Self, JobError> {
        let mut text = String::new();
        let mut files = Vec::new();
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry.map_err(|error| malformed(name, error))?;
            let path = relative(&entry.path_bytes(), name)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let file = path
                .to_str()
                .filter(|file| is_control_name(file))
                .ok_or_else(|| malformed(name, format!("`{}` is no name of a control file", path.display())))?;
            let mut contents = Vec::new();
            (&mut entry).take(CONTROL_LIMIT).read_to_end(&mut contents).map_err(|error| malformed(name, error))?;
            if file == "control" {
                text = String::from_utf8(contents).map_err(|error| malformed(name, error))?;
            } else {
                let mode = entry.header().mode()? & 0o777;
                files.push((file.to_owned(), mode, contents));
            }
        }
        let field = |field: &str| stanzas(&text).next().and_then(|stanza| stanza.get(field).map(str::to_owned));
        if field("Package").as_deref() != Some(name) || field("Version").as_deref() != Some(version) {
            return Err(malformed(name, format!("it does not contain `{name}` {version}")));
        }
        let key = match (field("Multi-Arch").as_deref(), field("Architecture")) {
            (Some("same"), Some(architecture)) if is_package_name(&architecture) => format!("{name}:{architecture}"),
            _ => name.to_owned(),
        };
        let list = |wanted: &str| {
            let found = files.iter().find(|(file, ..)| file == wanted);
            found.map_or_else(String::new, |(_, _, contents)| String::from_utf8_lossy(contents).into_owned())
        };
        let conffiles = list("conffiles");
        Ok(Self {
            status: status(&text, &conffiles),
            conffiles: conffile_paths(&conffiles).map(|path| path[1..].into()).collect(),
            interests: interests(&list("triggers"), &key),
            key,
            files,
        })
    }
}

fn is_control_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
}

/// Paths of configuration files; those that are only to be removed on upgrades are not among them.
fn conffile_paths(list: &str) -> impl Iterator<Item = &[u8]> {
    list.lines().map(str::trim_end).filter(|line| line.len() > 1 && line.starts_with('/')).map(str::as_bytes)
}

/// A stanza of `dpkg`'s status file for a package that is unpacked, but not configured.
fn status(control: &str, conffiles: &str) -> String {
    let mut status = String::new();
    let mut lines = control.trim_end().lines();
    status.extend(lines.next());
    status.push_str("\nStatus: install ok unpacked\n");
    for line in lines {
        status.push_str(line);
        status.push('\n');
    }
    let mut paths = conffile_paths(conffiles).peekable();
    if paths.peek().is_some() {
        status.push_str("Conffiles:\n");
        for path in paths {
            // Writing into a string cannot fail.
            let _ = writeln!(status, " {} newconffile", String::from_utf8_lossy(path));
        }
    }
    status
}

/// What a `triggers` file says the package is interested in.
fn interests(triggers: &str, key: &str) -> Vec<(String, String)> {
    triggers
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let suffix = match words.next()? {
                "interest" | "interest-await" => "",
                "interest-noawait" => "/noawait",
                _ => return None,
            };
            Some((words.next()?.to_owned(), format!("{key}{suffix}")))
        })
        .collect()
}

/// What unpacking the second half of a package tells.
#[derive(Default)]
struct Data {
    /// All paths, kept or not, as `dpkg -L` shows them.
    list: Vec<u8>,
    directories: Vec<(String, Attributes)>,
}

/// Unpacks the files. Packages carry no extended attributes: `dpkg` would ignore them.
fn unpack_data(
    name: &str,
    conffiles: &HashSet<Vec<u8>>,
    archive: Box<dyn Read + '_>,
    tree: &mut Tree,
    wanted: Wanted<'_>,
) -> Result<Data, JobError> {
    let mut data = Data::default();
    for entry in tar::Archive::new(archive).entries()? {
        wanted()?;
        let mut entry = entry.map_err(|error| malformed(name, error))?;
        let path = relative(&entry.path_bytes(), name)?;
        let bytes = path.as_os_str().as_bytes();
        data.list.push(b'/');
        data.list.extend(if bytes.is_empty() { b"." } else { bytes });
        data.list.push(b'\n');
        if bytes.is_empty() {
            continue;
        }
        let attributes = attributes(&entry).map_err(|error| malformed(name, error))?;
        if entry.header().entry_type() == EntryType::Directory {
            if is_excluded_directory(bytes) {
                continue;
            }
            tree.directory(&path)?;
            if attributes != Attributes::root(0o755) {
                data.directories.push((path.to_string_lossy().into_owned(), attributes));
            }
            continue;
        }
        if is_excluded(bytes) {
            continue;
        }
        let target = if conffiles.contains(bytes) { with_suffix(&path) } else { path };
        unpack_entry(name, &mut entry, &target, attributes, conffiles, tree)?;
    }
    Ok(data)
}

fn unpack_entry<R: Read>(
    name: &str,
    entry: &mut tar::Entry<'_, R>,
    path: &Path,
    attributes: Attributes,
    conffiles: &HashSet<Vec<u8>>,
    tree: &mut Tree,
) -> Result<(), JobError> {
    let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
    let link =
        || link.as_deref().ok_or_else(|| malformed(name, format!("the link `{}` leads nowhere", path.display())));
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous => tree.write(path, attributes, entry),
        EntryType::Symlink => tree.symlink(path, OsStr::from_bytes(link()?), attributes),
        EntryType::Link => {
            let existing = relative(link()?, name)?;
            let existing =
                if conffiles.contains(existing.as_os_str().as_bytes()) { with_suffix(&existing) } else { existing };
            tree.hard_link(path, &existing)
        }
        other => Err(malformed(
            name,
            format!("its entry `{}` is of a kind that packages do not have: {other:?}", path.display()),
        )),
    }
}

fn attributes<R: Read>(entry: &tar::Entry<'_, R>) -> std::io::Result<Attributes> {
    let header = entry.header();
    let id = |id: u64| u32::try_from(id).map_err(std::io::Error::other);
    Ok(Attributes { mode: header.mode()? & 0o7777, uid: id(header.uid()?)?, gid: id(header.gid()?)? })
}

fn with_suffix(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(NEW);
    path.into()
}

#[cfg(test)]
mod tests;
