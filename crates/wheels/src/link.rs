//! Putting unpacked wheels into a step's upper; runs in the store worker.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use fs_err as fs;
use lamina_ground::{Stack, StorePath};
use lamina_image::Digest;
use lamina_store::{Job, JobError, Metadata, UpperDirectory, WorkerContext};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::layers::{Directory, Layers};
use crate::manifest::{self, Bytecode, MISSING, Manifest};
use crate::place::{Content, Placed, place};
use crate::request::{Installer, Target};

/// Kind of a [`JobError`]: the image is laid out in a way that only the real installer copes with.
pub(crate) const NEEDS_SANDBOX: &str = "wheel-needs-sandbox";

/// Installs wheels, all of them unpacked before, into a bare upper.
#[derive(Serialize, Deserialize)]
pub(crate) struct LinkWheels {
    pub(crate) work: String,
    pub(crate) layers: Stack<StorePath>,
    pub(crate) target: Target,
    pub(crate) installer: Installer,
    pub(crate) bytecode_key: String,
    pub(crate) wheels: Vec<LinkedWheel>,
}

/// A wheel to install.
#[derive(Serialize, Deserialize)]
pub(crate) struct LinkedWheel {
    pub(crate) name: String,
    pub(crate) sha256: String,
    pub(crate) requested: bool,
    pub(crate) direct_url: Option<String>,
}

/// What was installed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Linked {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) warnings: Vec<String>,
}

impl Job for LinkWheels {
    const NAME: &'static str = "wheels.link";
    type Output = Linked;

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Linked, JobError> {
        let loaded: Vec<(Manifest, Bytecode)> =
            self.wheels.par_iter().map(|wheel| load(context, wheel, &self.bytecode_key)).collect::<Result<_, _>>()?;
        let placed: Vec<Vec<Placed>> = self
            .wheels
            .par_iter()
            .zip(&loaded)
            .map(|(wheel, (manifest, _))| place(wheel, manifest, &self.target, self.installer))
            .collect();
        let mut linked = Linked::default();
        let mut files = self.merge(&placed, &mut linked.warnings)?;
        let bytecode = self.bytecode(&loaded, &files);
        files.extend(bytecode);
        let empty = self.empty_directories(&loaded);
        let directories = make_directories(context, &self.work, &self.layers, &files, &empty)?;
        let counts: Vec<(u64, u64)> =
            directories.par_iter().map(|paths| fill(context, &self.work, paths, &files)).collect::<Result<_, _>>()?;
        for (count, bytes) in counts {
            linked.files += count;
            linked.bytes += bytes;
        }
        Ok(linked)
    }
}

/// What goes to one path, and the position of the wheel that it is from.
type Files<'a> = HashMap<String, (usize, Owned<'a>)>;

/// A file's content, of the manifest or made from it.
enum Owned<'a> {
    Placed(&'a Content),
    Bytecode(Digest),
}

impl LinkWheels {
    /// Decides who owns each path: of several wheels, the last by name, as with `uv`.
    fn merge<'a>(&self, placed: &'a [Vec<Placed>], warnings: &mut Vec<String>) -> Result<Files<'a>, JobError> {
        let mut files: Files<'a> = HashMap::with_capacity(placed.iter().map(Vec::len).sum::<usize>() * 2);
        let mut conflicts: BTreeMap<(usize, usize), (u64, &str)> = BTreeMap::new();
        for (position, files_of_wheel) in placed.iter().enumerate() {
            for file in files_of_wheel {
                let former = files.insert(file.path.clone(), (position, Owned::Placed(&file.content)));
                if let Some((other, Owned::Placed(content))) = former
                    && other != position
                    && content != &file.content
                {
                    conflicts.entry((other, position)).or_insert((0, &file.path)).0 += 1;
                }
            }
        }
        for ((loser, winner), (count, path)) in conflicts {
            let (loser, winner) = (&self.wheels[loser].name, &self.wheels[winner].name);
            let others = if count > 1 { format!(" and {} more files", count - 1) } else { String::new() };
            warnings
                .push(format!("`{loser}` and `{winner}` both install `{path}`{others}; the files of `{winner}` stay"));
        }
        let nested = files.keys().find(|path| ancestors(path).any(|parent| files.contains_key(parent)));
        match nested {
            Some(path) => Err(JobError::new(NEEDS_SANDBOX, format!("`{path}` lies below a file of another package"))),
            None => Ok(files),
        }
    }

    /// Directories to make although no file goes there.
    fn empty_directories(&self, loaded: &[(Manifest, Bytecode)]) -> Vec<String> {
        let wheels = loaded.iter().zip(&self.wheels).filter(|_| self.installer == Installer::Uv);
        let directories = wheels.flat_map(|((manifest, _), wheel)| {
            let placed = |path: &String| {
                let (place, rest) = manifest.place(path)?;
                Some(format!("{}/{rest}", place.directory(&self.target, &wheel.name)))
            };
            manifest.empty_directories.iter().filter_map(placed).collect::<Vec<_>>()
        });
        directories.collect()
    }

    /// The bytecode of those sources that stay.
    fn bytecode<'a>(&self, loaded: &[(Manifest, Bytecode)], files: &Files<'_>) -> Vec<(String, (usize, Owned<'a>))> {
        let Some((major, minor)) = self.target.python_minor() else {
            return Vec::new();
        };
        let mut bytecode = Vec::new();
        for (position, ((manifest, compiled), wheel)) in loaded.iter().zip(&self.wheels).enumerate() {
            for (path, digest) in &compiled.files {
                let Some((place, rest)) = manifest.place(path) else {
                    continue;
                };
                let source = format!("{}/{rest}", place.directory(&self.target, &wheel.name));
                let stays = files.get(&source).is_some_and(|(owner, _)| *owner == position);
                if let (true, Some((directory, name))) = (stays, source.rsplit_once('/')) {
                    let stem = name.strip_suffix(".py").unwrap_or(name);
                    let path = format!("{directory}/__pycache__/{stem}.cpython-{major}{minor}.pyc");
                    bytecode.push((path, (position, Owned::Bytecode(*digest))));
                }
            }
        }
        bytecode
    }
}

fn load(context: &WorkerContext, wheel: &LinkedWheel, key: &str) -> Result<(Manifest, Bytecode), JobError> {
    let manifest = manifest::load(context, &manifest::file_name(&wheel.sha256, None));
    let manifest = manifest.ok_or_else(|| JobError::new(MISSING, format!("`{}` is not unpacked", wheel.name)))?;
    let bytecode = manifest::load(context, &manifest::file_name(&wheel.sha256, Some(key))).unwrap_or_default();
    Ok((manifest, bytecode))
}

/// The directories above a path, nearest first.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(path.rsplit_once('/'), |(parent, _)| parent.rsplit_once('/'))
        .map(|(parent, _)| parent)
        .filter(|parent| !parent.is_empty())
}

/// Makes all directories, like the image's own where it has them, and groups the files by directory.
fn make_directories<'a>(
    context: &WorkerContext,
    work: &str,
    layers: &Stack<StorePath>,
    files: &'a Files<'_>,
    empty: &[String],
) -> Result<Vec<Vec<&'a str>>, JobError> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for path in files.keys() {
        groups.entry(path.rsplit_once('/').map_or("", |(parent, _)| parent)).or_default().push(path);
    }
    let mut directories: BTreeSet<&str> = files.keys().flat_map(|path| ancestors(path)).collect();
    for path in empty.iter().filter(|path| !files.contains_key(*path)) {
        directories.extend(ancestors(path).chain([path.as_str()]));
    }
    let upper = context.upper(work);
    let mut layers = Layers::new(context.content(), layers);
    for directory in directories {
        let path = upper.join(directory.trim_start_matches('/'));
        match fs::create_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            other => other?,
        }
        match layers.directory(directory)? {
            Directory::Absent => fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?,
            Directory::Present(like) => imitate(&path, like.top().unwrap_or(&upper))?,
            Directory::Other => {
                return Err(JobError::new(
                    NEEDS_SANDBOX,
                    format!("`{directory}` of the image is not a plain directory"),
                ));
            }
        }
    }
    Ok(groups.into_values().collect())
}

/// Gives a directory of the upper the owner and mode that the image's directory has.
fn imitate(path: &Path, like: &Path) -> Result<(), JobError> {
    let metadata = fs::symlink_metadata(like)?;
    if (metadata.uid(), metadata.gid()) != (0, 0) {
        fs::os::unix::fs::chown(path, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    Ok(fs::set_permissions(path, std::fs::Permissions::from_mode(metadata.mode() & 0o7777))?)
}

/// Puts the files of one directory in place; answers how many and how large.
fn fill(context: &WorkerContext, work: &str, paths: &[&str], files: &Files<'_>) -> Result<(u64, u64), JobError> {
    let mut total = (0, 0);
    let parent = paths.first().and_then(|path| path.rsplit_once('/')).map_or("/", |(parent, _)| parent);
    let mut directory = context.upper_directory(work, Path::new(parent))?;
    for path in paths {
        let Some((_, content)) = files.get(*path) else { continue };
        total.0 += 1;
        match content {
            Owned::Placed(Content::Object { digest, mode, size }) => {
                link(context, &mut directory, digest, *mode, path)?;
                total.1 += size;
            }
            Owned::Placed(Content::Text { bytes, mode }) => {
                let place = context.upper(work).join(path.trim_start_matches('/'));
                fs::write(&place, bytes)?;
                fs::set_permissions(&place, std::fs::Permissions::from_mode(*mode))?;
                total.1 += bytes.len() as u64;
            }
            Owned::Bytecode(digest) => link(context, &mut directory, digest, 0o644, path)?,
        }
    }
    Ok(total)
}

fn link(
    context: &WorkerContext,
    directory: &mut UpperDirectory<'_>,
    digest: &Digest,
    mode: u32,
    path: &str,
) -> Result<(), JobError> {
    let meta = Metadata::root_owned(mode);
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    directory.place_object(digest, &meta, name).map_err(|error| {
        // Told apart only on failure: asking beforehand would cost as much as linking.
        if context.has_object(digest) { error } else { JobError::new(MISSING, error.message) }
    })
}
