//! What is done inside before packages are linked, for the few that have scripts for then: `pre-unlink` ones of those that
//! go, and `pre-link` ones of those that come.
//!
//! A `pre-link` script finds its package unpacked, as conda has it, and may change that copy before it is linked. The copy is
//! a layer that lies over the image meanwhile, so that nothing of it is written to; what was changed is in the step's upper,
//! from which it is taken.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;

use fs_err as fs;
use lamina_ground::{Stack, StorePath};
use lamina_packages::{Content, Contents, Entry, File, Layers, Package};
use lamina_store::{Job, JobError, JobErrorKind, LayerPath, Store, Work, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::link::Script;
use crate::manifest::{EntryKind, Manifest, descriptions, manifest_name};
use crate::place::{LinkedPackage, unpacked};
use crate::{CondaError, PREFIX};

/// Kind of a [`JobError`]: a script has left a package that cannot be linked.
const SPOILED: JobErrorKind = JobErrorKind::new("conda-package-spoiled");
/// Where conda keeps unpacked packages.
pub(crate) const UNPACKED: &str = "/opt/conda/pkgs";

/// What is to be done in a sandbox before packages are linked, in this order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Preparing {
    /// Scripts of packages that go.
    pub unlink: Vec<Script>,
    /// Files of packages that go, as absolute paths.
    pub remove: Vec<String>,
    /// Scripts of packages that come, in the copies that they see.
    pub link: Vec<Script>,
    /// The packages that have such scripts.
    pub(crate) packages: Vec<LinkedPackage>,
}

/// What scripts have made of packages: what is to be linked in place of their own files, by name and path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared(pub(crate) BTreeMap<String, BTreeMap<String, EntryKind>>);

impl Prepared {
    /// What is linked in place of a file of a package.
    pub(crate) fn changed(&self, package: &str, path: &str) -> Option<&EntryKind> {
        self.0.get(package)?.get(path)
    }
}

/// The script of a package that is run before it is linked, below the directory that it is unpacked in.
pub(crate) fn early_script(name: &str) -> String {
    format!("bin/.{name}-pre-link.sh")
}

impl Preparing {
    /// Puts the packages into the bare upper of a step as they are unpacked.
    ///
    /// # Errors
    /// When the store lacks something of them.
    pub fn unpack(&self, work: &Work, layers: &Stack<StorePath>, store: &Store) -> Result<(), CondaError> {
        let packages = self.packages.clone();
        Ok(store.job(&UnpackSources { work: work.id().to_owned(), layers: layers.clone(), packages }, &[])?)
    }

    /// What the scripts have made of the packages, whose changed files leave the step's upper. The packages are in `unpacked`,
    /// the view of a layer. Collection is held off until they are linked.
    ///
    /// # Errors
    /// When a package has lost something that it lists.
    pub fn take(&self, work: &Work, unpacked: StorePath, store: &Store) -> Result<Prepared, CondaError> {
        let packages = self.packages.clone();
        let job = TakeSources { work: work.id().to_owned(), upper: work.upper(), unpacked, packages };
        store.job(&job, &[]).map_err(|error| match error {
            error if error.kind == SPOILED => CondaError::NotLinkable(error.message),
            error => error.into(),
        })
    }
}

/// Reads the manifest of a package that was unpacked before.
fn manifest(package: &LinkedPackage, context: &WorkerContext) -> Result<Manifest, JobError> {
    let manifest = descriptions(context).load(&manifest_name(&package.sha256))?;
    manifest.ok_or_else(|| JobError::new(lamina_packages::MISSING, format!("`{}` is not unpacked", package.name)))
}

/// Puts packages into a bare upper as they are unpacked.
#[derive(Serialize, Deserialize)]
pub(crate) struct UnpackSources {
    work: String,
    layers: Stack<StorePath>,
    packages: Vec<LinkedPackage>,
}

impl Job for UnpackSources {
    const NAME: &'static str = "conda.sources";
    type Output = ();

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<(), JobError> {
        let source = |package: &LinkedPackage| {
            let directory = unpacked(&package.file_name);
            let file = |entry: crate::manifest::Entry| {
                let content = match entry.kind {
                    EntryKind::File { digest, mode, size } => Content::Object { digest, mode, size },
                    EntryKind::Link(target) => Content::Link(target),
                    EntryKind::Directory => return None,
                };
                Some(File { path: format!("{directory}/{}", entry.path), content })
            };
            let files = manifest(package, context)?.packed.into_iter().filter_map(file).collect();
            Ok(Package { name: package.name.clone(), files, empty_directories: Vec::new() })
        };
        let sources = self.packages.iter().map(source).collect::<Result<_, JobError>>()?;
        Contents::new(sources)?.link(context, &self.work, &mut Layers::new(context.content(), &self.layers))?;
        Ok(())
    }
}

/// Takes what scripts have made of packages from a step's upper.
#[derive(Serialize, Deserialize)]
pub(crate) struct TakeSources {
    work: String,
    upper: StorePath,
    unpacked: StorePath,
    packages: Vec<LinkedPackage>,
}

impl Job for TakeSources {
    const NAME: &'static str = "conda.prepared";
    type Output = Prepared;

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Prepared, JobError> {
        let both = Stack::from_bottom_up([self.unpacked.clone(), self.upper.clone()]);
        let mut layers = Layers::new(context.content(), &both);
        let mut prepared = Prepared::default();
        for package in &self.packages {
            let directory = unpacked(&package.file_name);
            let mut changed = BTreeMap::new();
            // conda has replaced prefixes before the script runs, and links what it had then.
            let manifest = manifest(package, context)?;
            for entry in manifest.entries.into_iter().filter(|entry| entry.replaced.is_none()) {
                if entry.kind == EntryKind::Directory {
                    continue;
                }
                let kind = match layers.entry(&format!("{directory}/{}", entry.path))? {
                    Entry::OfBase(_) => continue,
                    Entry::Above(path) => read(&path, context)?,
                    Entry::Absent | Entry::Elsewhere => None,
                };
                let kind = kind.ok_or_else(|| {
                    let (name, path) = (&package.name, &entry.path);
                    JobError::new(SPOILED, format!("the pre-link script of `{name}` has removed its `{path}`"))
                })?;
                changed.insert(entry.path, kind);
            }
            prepared.0.insert(package.name.clone(), changed);
            remove_below(context, &self.work, &directory)?;
        }
        Ok(prepared)
    }
}

/// What is at a path of an upper, as an object; `None` if it is neither a file nor a link.
fn read(path: &LayerPath, context: &WorkerContext) -> Result<Option<EntryKind>, JobError> {
    let metadata = fs::symlink_metadata(path.on_disk())?;
    if metadata.is_symlink() {
        let target = fs::read_link(path.on_disk())?.into_os_string();
        return Ok(target.into_string().ok().map(EntryKind::Link));
    }
    if !metadata.is_file() {
        return Ok(None);
    }
    let (digest, size) = context.put_reader(&mut path.open()?)?;
    Ok(Some(EntryKind::File { digest, mode: metadata.permissions().mode() & 0o7777, size }))
}

/// Removes a directory from an upper, and that of all unpacked packages if nothing else is in it.
fn remove_below(context: &WorkerContext, work: &str, directory: &str) -> Result<(), JobError> {
    let upper = context.upper(work);
    let at = |path: &str| upper.join(path.trim_start_matches('/'));
    // Neither is followed where a script has put a link.
    let is_directory = |path: &str| fs::symlink_metadata(at(path)).is_ok_and(|metadata| metadata.is_dir());
    if [PREFIX, UNPACKED, directory].into_iter().all(is_directory) {
        context.remove(&at(directory))?;
        // One with something in it stays.
        let _ = fs::remove_dir(at(UNPACKED));
    }
    Ok(())
}
