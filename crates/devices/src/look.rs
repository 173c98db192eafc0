//! What an image has of a dynamic loader, looked up in its layers without running anything.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use lamina_ground::{Stack, StorePath};
use lamina_packages::{Directory, Entry, Layers};
use lamina_store::{Job, JobError, JobTable, LayerPath, WorkerContext};
use serde::{Deserialize, Serialize};

/// Where images have the cache of the loader.
pub(crate) const CACHE: &str = "/etc/ld.so.cache";
/// Most bytes of it that are read: some thousand libraries take 200 KiB.
const MOST: u64 = 8 << 20;
/// Where images of CUDA have libraries for drivers that are older than they are.
const COMPATIBLE: &str = "/usr/local/cuda/compat";
/// Links on the way there that are followed.
const MAXIMUM_LINKS: usize = 40;

/// The loader's name on this architecture.
const LOADER: &str = if cfg!(target_arch = "aarch64") { "ld-linux-aarch64.so.1" } else { "ld-linux-x86-64.so.2" };
/// Where it lies; the loader always looks for libraries beside itself. Directories that are links in the image do not count.
const PLACES: [&str; 6] = ["/lib/TRIPLE", "/usr/lib/TRIPLE", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// The jobs of this crate.
#[must_use]
pub fn jobs(table: JobTable) -> JobTable {
    table.register::<Look>()
}

/// Looks for the loader and its cache, whose bytes are written to the descriptor that comes along.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Look {
    pub(crate) views: Stack<StorePath>,
}

/// What an image has of a dynamic loader.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    /// The directory that it always looks in.
    pub(crate) directory: Option<String>,
    /// Whether there is a cache.
    pub(crate) has_cache: bool,
    /// Libraries for older drivers: their directory, and their names.
    pub(crate) compatible: Option<(String, Vec<String>)>,
}

impl Job for Look {
    const NAME: &'static str = "devices.look-for-loader";
    type Output = Found;

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<Found, JobError> {
        let mut layers = Layers::new(context.content(), &self.views);
        let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
        let mut directory = None;
        for place in PLACES.map(|place| place.replace("TRIPLE", &triple)) {
            if path_of(layers.entry(&format!("{place}/{LOADER}"))?).is_some() {
                directory = Some(place);
                break;
            }
        }
        let cache = path_of(layers.entry(CACHE)?);
        // A link leads to no cache that somebody has made with `ldconfig`.
        let cache = cache.filter(|path| fs_err::symlink_metadata(path.on_disk()).is_ok_and(|found| found.is_file()));
        if let (Some(path), Some(fd)) = (&cache, fds.into_iter().next()) {
            let mut bytes = Vec::new();
            path.open()?.take(MOST).read_to_end(&mut bytes)?;
            std::fs::File::from(fd).write_all(&bytes)?;
        }
        Ok(Found { directory, has_cache: cache.is_some(), compatible: compatible(&mut layers)? })
    }
}

fn path_of(entry: Entry) -> Option<LayerPath> {
    match entry {
        Entry::OfBase(path) | Entry::Above(path) => Some(path),
        Entry::Absent | Entry::Elsewhere => None,
    }
}

/// The libraries for older drivers.
fn compatible(layers: &mut Layers) -> Result<Option<(String, Vec<String>)>, JobError> {
    let Some(path) = follow(layers, COMPATIBLE)? else { return Ok(None) };
    let Directory::Present(directories) = layers.directory(&path)? else { return Ok(None) };
    let mut names = Vec::new();
    for directory in directories.top_down() {
        for entry in fs_err::read_dir(directory.on_disk())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("lib") && path_of(layers.entry(&format!("{path}/{name}"))?).is_some() {
                names.push(name);
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(Some((path, names)))
}

/// Where a path leads in the image, links followed.
fn follow(layers: &mut Layers, path: &str) -> Result<Option<String>, JobError> {
    let parts = |path: &str| path.rsplit('/').filter(|part| !matches!(*part, "" | ".")).map(str::to_owned).collect();
    let mut rest: Vec<String> = parts(path);
    let (mut at, mut links) = (String::new(), 0);
    while let Some(part) = rest.pop() {
        if part == ".." {
            at.truncate(at.rfind('/').unwrap_or(0));
            continue;
        }
        let next = format!("{at}/{part}");
        let Some(found) = path_of(layers.entry(&next)?) else { return Ok(None) };
        if !fs_err::symlink_metadata(found.on_disk())?.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        let target = fs_err::read_link(found.on_disk())?;
        let Some(target) = target.to_str().filter(|_| links <= MAXIMUM_LINKS) else { return Ok(None) };
        if target.starts_with('/') {
            at.clear();
        }
        let further: Vec<String> = parts(target);
        rest.extend(further);
    }
    Ok(Some(at))
}
