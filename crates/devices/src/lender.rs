//! Lending GPUs to containers and steps.

use std::collections::HashMap;
use std::fmt;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use lamina_ground::Stack;
use lamina_image::{Digest, GpuRequest};
use lamina_sandbox::{InjectedFile, Launcher, Mount, Resource, SandboxError, SandboxSpec};
use lamina_store::{Placed, Store, StoreError};
use rustix::fs::MemfdFlags;

use crate::edits::Edits;
use crate::look::{CACHE, Found, Look};
use crate::uses::{self, Share};
use crate::{DevicesError, Inventory, elf, loader_cache};

/// Where the files of a sandbox appear.
const FILES: &str = "/dev/lamina";
/// The name of the loader's cache there.
const CACHE_FILE: &str = "ld.so.cache";

/// Starts a launcher whose sandboxes can be given parts of the host.
type Start = dyn Fn(&[Resource]) -> Result<Launcher, SandboxError> + Send + Sync;

/// Layers of an image, and GPUs by their places.
type ImageWithGpus = (Vec<Digest>, Vec<usize>);

/// Lends this machine's GPUs. What there is, is looked up with the first request, and what reaches it started then.
pub struct Lender {
    inventory: OnceLock<Inventory>,
    start: Box<Start>,
    launcher: Mutex<Started>,
    /// What lies over images, by their layers and the GPUs.
    shown: Mutex<HashMap<ImageWithGpus, Shown>>,
}

/// Whether sandboxes with GPUs are started.
#[derive(Debug, Default)]
enum Started {
    /// They were not needed yet.
    #[default]
    NotYet,
    By(Launcher),
    /// Not any more.
    Closed,
}

/// GPUs for one sandbox. They count as used until it is dropped.
#[derive(Debug)]
pub struct Lease {
    launcher: Launcher,
    mounts: Vec<Mount>,
    environment: Vec<(String, String)>,
    shown: Shown,
    _share: Share,
}

/// What lies over an image.
#[derive(Debug, Clone)]
struct Shown {
    /// The layer of links and mount points.
    layer: Option<Digest>,
    /// The loader's cache.
    cache: Option<Vec<u8>>,
}

impl fmt::Debug for Lender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Lender").field("inventory", &self.inventory).finish_non_exhaustive()
    }
}

impl Lender {
    /// Lends what this machine has; sandboxes are started by the launcher that `start` gives.
    pub fn new(start: impl Fn(&[Resource]) -> Result<Launcher, SandboxError> + Send + Sync + 'static) -> Self {
        Self { inventory: OnceLock::new(), start: Box::new(start), launcher: Mutex::default(), shown: Mutex::default() }
    }

    fn inventory(&self) -> &Inventory {
        self.inventory.get_or_init(Inventory::of_machine)
    }

    /// Looks whether this machine has what is asked for; gives what a user should know of it, as sentences.
    ///
    /// # Errors
    /// When it has not.
    pub fn check(&self, requests: &[GpuRequest]) -> Result<Vec<String>, DevicesError> {
        let inventory = self.inventory();
        let places = inventory.choose(requests, &[])?;
        let mut warnings = inventory.problems().to_vec();
        for gpu in places.iter().map(|place| &inventory.gpus()[*place]) {
            for hook in &gpu.edits.unknown_hooks {
                let warning = format!("GPUs are used without the {hook} of {}, which is not known here", gpu.origin);
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
        Ok(warnings)
    }

    /// GPUs for a sandbox in an image with these layers.
    ///
    /// # Errors
    /// When this machine does not have what is asked for, or it cannot be reached.
    pub fn lend(&self, requests: &[GpuRequest], store: &Store, layers: &Stack<Digest>) -> Result<Lease, DevicesError> {
        let inventory = self.inventory();
        let share = uses::share(inventory, requests, store)?;
        let mut edits = Edits::default();
        for gpu in share.places.iter().map(|place| &inventory.gpus()[*place]) {
            if let Some(gone) = gpu.edits.mounts.iter().find(|mount| !Path::new(&mount.source).exists()) {
                let (gpu, origin, path) = (gpu.name.clone(), gpu.origin.clone(), gone.source.clone());
                return Err(DevicesError::Gone { gpu, origin, path });
            }
            edits.merge(&gpu.edits);
        }
        let names = resources(inventory);
        let mount = |mount: &crate::edits::HostMount| {
            let resource = names.iter().find(|resource| resource.path == mount.source)?.name.clone();
            Some(Mount::Host { resource, path: None, target: mount.target.clone(), read_only: mount.read_only })
        };
        let mounts = edits.mounts.iter().filter_map(mount).collect();
        let launcher = self.launcher(&names)?;
        let key = (layers.bottom_up().to_vec(), share.places.clone());
        let known = self.shown.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let shown = match known {
            Some(shown) => shown,
            None => show(&edits, store, layers)?,
        };
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).insert(key, shown.clone());
        tracing::info!(gpus = ?share.places, "GPUs of a sandbox");
        Ok(Lease { launcher, mounts, environment: edits.environment, shown, _share: share })
    }

    /// The launcher of sandboxes with GPUs.
    fn launcher(&self, resources: &[Resource]) -> Result<Launcher, DevicesError> {
        let mut started = self.launcher.lock().unwrap_or_else(PoisonError::into_inner);
        match &*started {
            Started::By(launcher) => Ok(launcher.clone()),
            Started::Closed => Err(SandboxError::Lost.into()),
            Started::NotYet => {
                let launcher = (self.start)(resources)?;
                *started = Started::By(launcher.clone());
                Ok(launcher)
            }
        }
    }

    /// Ends all sandboxes with GPUs; no further ones are started.
    pub fn close(&self) {
        let mut started = self.launcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Started::By(launcher) = std::mem::replace(&mut *started, Started::Closed) {
            launcher.close();
        }
    }
}

impl Lease {
    /// What starts the sandbox.
    #[must_use]
    pub fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Gives the GPUs to a sandbox.
    pub fn give(&self, spec: &mut SandboxSpec, store: &Store) {
        spec.mounts.extend(self.mounts.iter().cloned());
        spec.env.retain(|(name, _)| !self.environment.iter().any(|(own, _)| own == name));
        spec.env.extend(self.environment.iter().cloned());
        if let Some(layer) = &self.shown.layer {
            spec.layers.put(store.view_path(layer));
        }
        if let Some(cache) = &self.shown.cache {
            spec.files.push(InjectedFile { name: CACHE_FILE.to_owned(), contents: cache.clone(), mode: 0o444 });
        }
    }
}

/// All parts of the host that some GPU needs, as far as they are there.
fn resources(inventory: &Inventory) -> Vec<Resource> {
    let mut paths: Vec<&str> = Vec::new();
    for mount in inventory.gpus().iter().flat_map(|gpu| &gpu.edits.mounts) {
        if !paths.contains(&&*mount.source) && Path::new(&mount.source).exists() {
            paths.push(&mount.source);
        }
    }
    paths
        .iter()
        .enumerate()
        .map(|(number, path)| Resource { name: format!("gpu-{number}"), path: (*path).to_owned() })
        .collect()
}

/// Makes what lies over an image, so that the libraries are found in it.
fn show(edits: &Edits, store: &Store, layers: &Stack<Digest>) -> Result<Shown, DevicesError> {
    let libraries = libraries(edits);
    let (found, cache) = look(store, layers)?;
    let mut placed = links(edits, &libraries, found.directory.as_deref());
    let names = cached(edits, &libraries, &found);
    let cache = if names.is_empty() || (cache.is_none() && found.directory.is_none()) {
        None
    } else {
        loader_cache::with(cache.as_deref(), &names)
    };
    if cache.is_some() {
        placed.push((CACHE.to_owned(), Placed::OwnLink(format!("{FILES}/{CACHE_FILE}"))));
    }
    placed.extend(mount_points(edits));
    let layer = if placed.is_empty() { None } else { Some(store.placed_layer(&placed, layers)?.digest) };
    Ok(Shown { layer, cache })
}

/// Where the host's parts appear, as far as that is in the image: steps leave nothing of what is made before them.
fn mount_points(edits: &Edits) -> impl Iterator<Item = (String, Placed)> {
    let is_own = |path: &str| ["/dev/", "/proc/", "/sys/"].iter().any(|own| path.starts_with(own));
    edits.mounts.iter().filter(move |mount| !is_own(&mount.target)).map(|mount| {
        let placed = if Path::new(&mount.source).is_dir() { Placed::Directory(0, 0) } else { Placed::Empty };
        (mount.target.clone(), placed)
    })
}

/// Looks at an image; gives the loader's cache, too, if there is one.
fn look(store: &Store, layers: &Stack<Digest>) -> Result<(Found, Option<Vec<u8>>), DevicesError> {
    let memory = rustix::fs::memfd_create("loader cache", MemfdFlags::CLOEXEC)
        .map_err(|errno| StoreError::from(std::io::Error::from(errno)))?;
    let found = store.job(&Look { views: store.view_paths(layers) }, &[memory.as_fd()])?;
    if !found.has_cache {
        return Ok((found, None));
    }
    Ok((found, Some(read_whole(memory).map_err(StoreError::from)?)))
}

fn read_whole(memory: OwnedFd) -> std::io::Result<Vec<u8>> {
    let (mut file, mut bytes) = (std::fs::File::from(memory), Vec::new());
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A library that programs are to find.
#[derive(Debug)]
struct Library {
    /// Its directory in the image.
    directory: String,
    file: String,
    /// What programs ask for.
    name: String,
}

/// The libraries in the directories that a specification names.
fn libraries(edits: &Edits) -> Vec<Library> {
    let read = |mount: &crate::edits::HostMount| {
        let (directory, file) = mount.target.rsplit_once('/')?;
        if !file.contains(".so") || !edits.folders.iter().any(|folder| folder.trim_end_matches('/') == directory) {
            return None;
        }
        let name = elf::soname(&fs_err::File::open(&mount.source).ok()?.into())?;
        Some(Library { directory: directory.to_owned(), file: file.to_owned(), name })
    };
    edits.mounts.iter().filter_map(read).collect()
}

/// Links to libraries by the names that programs ask for, beside them and where the loader always looks, and those of a
/// specification.
fn links(edits: &Edits, libraries: &[Library], loader: Option<&str>) -> Vec<(String, Placed)> {
    let mut links: Vec<(String, Placed)> = Vec::new();
    let mut add = |path: String, target: String| {
        let is_taken = edits.mounts.iter().any(|mount| mount.target == path);
        if !is_taken && !links.iter().any(|(known, _)| *known == path) {
            links.push((path, Placed::OwnLink(target)));
        }
    };
    for Library { directory, file, name } in libraries {
        add(format!("{directory}/{name}"), file.clone());
        // In most images `/lib` is `/usr/lib`.
        let without_usr = |path: &str| path.trim_start_matches("/usr").to_owned();
        if let Some(loader) = loader.filter(|loader| without_usr(loader) != without_usr(directory)) {
            add(format!("{loader}/{name}"), format!("{directory}/{file}"));
        }
    }
    for (path, target) in &edits.links {
        add(path.clone(), target.clone());
    }
    links
}

/// What the loader's cache is to name: pairs of name and path.
fn cached(edits: &Edits, libraries: &[Library], found: &Found) -> Vec<(String, String)> {
    let mut names: Vec<(String, String)> = Vec::new();
    for Library { directory, name, .. } in libraries {
        if !names.iter().any(|(known, _)| known == name) {
            names.push((name.clone(), format!("{directory}/{name}")));
        }
    }
    let major = |version: &str| version.split('.').next().and_then(|part| part.parse::<u32>().ok());
    if let (Some((directory, files)), Some(driver)) =
        (&found.compatible, edits.driver_version.as_deref().and_then(major))
    {
        let version = files.iter().filter_map(|file| file.strip_prefix("libcuda.so.")).find(|rest| rest.contains('.'));
        if version.and_then(major).is_some_and(|version| version > driver) {
            for (name, path) in names.iter_mut().filter(|(name, _)| files.contains(name)) {
                *path = format!("{directory}/{name}");
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edits::HostMount;

    fn library(directory: &str, file: &str, name: &str) -> Library {
        Library { directory: directory.to_owned(), file: file.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn libraries_are_found_beside_themselves_and_where_the_loader_looks() {
        let libraries = [
            library("/usr/lib64", "libcuda.so.550.54", "libcuda.so.1"),
            library("/usr/lib64", "libnvidia-x.so.550.54", "libnvidia-x.so.550.54"),
        ];
        let edits = Edits {
            mounts: libraries.iter().map(|library| HostMount::same(&format!("/usr/lib64/{}", library.file))).collect(),
            links: vec![("/usr/lib64/libcuda.so".to_owned(), "libcuda.so.1".to_owned())],
            ..Edits::default()
        };
        let shown = |loader: Option<&str>| {
            let links = links(&edits, &libraries, loader).into_iter();
            let text = |(path, placed): (String, Placed)| match placed {
                Placed::OwnLink(target) => format!("{path} -> {target}"),
                other => panic!("{other:?}"),
            };
            links.map(text).collect::<Vec<_>>()
        };
        let beside = ["/usr/lib64/libcuda.so.1 -> libcuda.so.550.54", "/usr/lib64/libcuda.so -> libcuda.so.1"];
        assert_eq!(shown(None), beside);
        assert_eq!(shown(Some("/lib64")), beside);
        assert_eq!(
            shown(Some("/usr/lib/x86_64-linux-gnu")),
            [
                beside[0],
                "/usr/lib/x86_64-linux-gnu/libcuda.so.1 -> /usr/lib64/libcuda.so.550.54",
                "/usr/lib/x86_64-linux-gnu/libnvidia-x.so.550.54 -> /usr/lib64/libnvidia-x.so.550.54",
                beside[1],
            ]
        );
    }

    #[test]
    fn libraries_for_older_drivers_come_first_where_the_driver_is_older() {
        let libraries = [
            library("/usr/lib64", "libcuda.so.550.54", "libcuda.so.1"),
            library("/usr/lib64", "libnvidia-ml.so.550.54", "libnvidia-ml.so.1"),
        ];
        let files = ["libcuda.so", "libcuda.so.1", "libcuda.so.560.28.03"].map(str::to_owned).to_vec();
        let found = Found {
            directory: None,
            has_cache: true,
            compatible: Some(("/usr/local/cuda-12.6/compat".to_owned(), files)),
        };
        let path = |driver: Option<&str>| {
            let edits = Edits { driver_version: driver.map(str::to_owned), ..Edits::default() };
            let names = cached(&edits, &libraries, &found);
            assert_eq!(names[1], ("libnvidia-ml.so.1".to_owned(), "/usr/lib64/libnvidia-ml.so.1".to_owned()));
            names[0].1.clone()
        };
        assert_eq!(path(Some("550.54")), "/usr/local/cuda-12.6/compat/libcuda.so.1");
        for driver in [None, Some("560.35.03"), Some("570.1")] {
            assert_eq!(path(driver), "/usr/lib64/libcuda.so.1", "{driver:?}");
        }
    }
}
