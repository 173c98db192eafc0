//! What the NVIDIA driver of this machine has, where no specification says it: the parts that `nvidia-ctk cdi generate`
//! finds.

use std::path::{Path, PathBuf};

use crate::edits::{Edits, HostMount};
use crate::elf;

/// Device nodes that every container with a GPU needs.
const NODES: [&str; 4] = ["nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools", "nvidiactl"];
const PROGRAMS: [&str; 5] =
    ["nvidia-cuda-mps-control", "nvidia-cuda-mps-server", "nvidia-debugdump", "nvidia-persistenced", "nvidia-smi"];
const SOCKETS: [&str; 2] = ["/run/nvidia-fabricmanager/socket", "/run/nvidia-persistenced/socket"];
/// Settings for graphics.
const SETTINGS: [&str; 5] = [
    "/etc/vulkan/icd.d/nvidia_icd.json",
    "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
    "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
    "/usr/share/vulkan/icd.d/nvidia_icd.json",
    "/usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
];
/// Where distributions have the driver's libraries; `TRIPLE` is the architecture's name there.
const LIBRARIES: [&str; 8] = [
    "/usr/lib/TRIPLE",
    "/usr/lib/TRIPLE/nvidia/current",
    "/usr/lib/TRIPLE/vdpau",
    "/usr/lib64",
    "/usr/lib64/vdpau",
    "/usr/lib",
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64",
];
/// Links that programs look for by name, beside those named after libraries.
const LINKS: [(&str, &str); 2] =
    [("libcuda.so", "libcuda.so.1"), ("libnvidia-opticalflow.so", "libnvidia-opticalflow.so.1")];

/// A GPU of the driver.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Driven {
    /// The number in its node's name.
    pub(crate) minor: u32,
    pub(crate) model: String,
    /// Its address on the bus, `0000:3b:00.0`.
    address: String,
}

/// The GPUs that the driver under `root` has, whether their nodes are there or not, in the order of their numbers.
pub(crate) fn gpus(root: &Path) -> Vec<Driven> {
    let entries = fs_err::read_dir(root.join("proc/driver/nvidia/gpus")).into_iter().flatten().filter_map(Result::ok);
    let read = |entry: fs_err::DirEntry| {
        let text = fs_err::read_to_string(entry.path().join("information")).ok()?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
            Some(line.trim().to_owned())
        };
        let (minor, model) = (value("Device Minor")?.parse().ok()?, value("Model")?);
        Some(Driven { minor, model, address: entry.file_name().to_string_lossy().into_owned() })
    };
    let mut gpus: Vec<Driven> = entries.filter_map(read).collect();
    gpus.sort_by_key(|gpu| gpu.minor);
    gpus
}

/// What containers with one of the GPUs get beside what all of them get.
pub(crate) fn own(root: &Path, gpu: &Driven) -> Edits {
    let mut edits = Edits::default();
    edits.mounts.push(HostMount::same(&format!("/dev/nvidia{}", gpu.minor)));
    // Its nodes for rendering have numbers of their own.
    let nodes = names(&root.join(format!("sys/bus/pci/devices/{}/drm", gpu.address)));
    let nodes = nodes.into_iter().map(|name| format!("/dev/dri/{name}")).filter(|path| exists(root, path));
    edits.mounts.extend(nodes.map(|path| HostMount::same(&path)));
    edits
}

/// What CUDA needs and the driver makes with the first program that asks for it.
pub(crate) fn lacking(root: &Path) -> Option<String> {
    (!exists(root, "/dev/nvidia-uvm")).then(|| {
        "CUDA needs `/dev/nvidia-uvm`, which is not there before a program of the host used it: run `nvidia-modprobe -u -c=0`"
            .to_owned()
    })
}

/// What every container with a GPU gets.
pub(crate) fn common(root: &Path, search_path: &str) -> Edits {
    let mut edits = Edits::default();
    let mut add = |path: String| {
        if exists(root, &path) {
            edits.mounts.push(HostMount::same(&path));
        }
    };
    for name in NODES {
        add(format!("/dev/{name}"));
    }
    for program in PROGRAMS {
        let directories = search_path.split(':').filter(|directory| directory.starts_with('/'));
        let mut places = directories.map(|directory| format!("{directory}/{program}"));
        places.find(|path| exists(root, path)).into_iter().for_each(&mut add);
    }
    SOCKETS.into_iter().chain(SETTINGS).for_each(|path| add(path.to_owned()));
    if let Some(version) = version(root) {
        let firmware = format!("/lib/firmware/nvidia/{version}");
        let files = names(&below(root, &firmware)).into_iter().filter(|name| name.starts_with("gsp"));
        files.for_each(|name| add(format!("{firmware}/{name}")));
        add_libraries(root, &version, &mut edits);
        edits.driver_version = Some(version);
    }
    edits
}

/// Adds the libraries of this version of the driver, each once.
fn add_libraries(root: &Path, version: &str, edits: &mut Edits) {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let ending = format!(".so.{version}");
    let mut seen = Vec::new();
    for directory in LIBRARIES.map(|directory| directory.replace("TRIPLE", &triple)) {
        let mut is_used = false;
        for name in names(&below(root, &directory)) {
            if !name.ends_with(&ending) || seen.contains(&name) {
                continue;
            }
            let path = format!("{directory}/{name}");
            // Of this architecture; 32-bit ones may lie in the same place.
            let soname = fs_err::File::open(below(root, &path)).ok().and_then(|file| elf::soname(&file.into()));
            let Some(soname) = soname else { continue };
            edits.mounts.push(HostMount::same(&path));
            for (link, target) in LINKS.iter().filter(|(_, target)| *target == soname) {
                edits.links.push((format!("{directory}/{link}"), (*target).to_owned()));
            }
            seen.push(name);
            is_used = true;
        }
        if is_used {
            edits.folders.push(directory);
        }
    }
}

/// Where WSL shows libraries and programs of the Windows driver, and what they load.
const WINDOWS_LIBRARIES: &str = "/usr/lib/wsl/lib";
const WINDOWS_DRIVERS: &str = "/usr/lib/wsl/drivers";
/// The node that leads to all GPUs of Windows.
const WINDOWS_NODE: &str = "/dev/dxg";

/// What containers get of the GPUs of Windows, where this is WSL and CUDA is there.
pub(crate) fn of_windows(root: &Path) -> Option<Edits> {
    let names = names(&below(root, WINDOWS_LIBRARIES));
    if !exists(root, WINDOWS_NODE) || !names.iter().any(|name| name.starts_with("libcuda.so")) {
        return None;
    }
    let files = names.iter().filter(|name| name.contains(".so") || *name == "nvidia-smi");
    let files = files.map(|name| format!("{WINDOWS_LIBRARIES}/{name}"));
    let paths = [WINDOWS_NODE, WINDOWS_DRIVERS].map(str::to_owned).into_iter().chain(files);
    let mounts = paths.filter(|path| exists(root, path)).map(|path| HostMount::same(&path)).collect();
    Some(Edits { mounts, folders: vec![WINDOWS_LIBRARIES.to_owned()], ..Edits::default() })
}

/// The driver's version.
fn version(root: &Path) -> Option<String> {
    let is_version = |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    ["sys/module/nvidia/version", "proc/driver/nvidia/version"].iter().find_map(|path| {
        let text = fs_err::read_to_string(root.join(path)).ok()?;
        text.split_whitespace().find(is_version).map(str::to_owned)
    })
}

/// The first driver that supports each version of CUDA, by the release notes of NVIDIA's toolkit; the newest first.
const CUDA: [(u32, &str); 21] = [
    (590, "13.1"),
    (580, "13.0"),
    (575, "12.9"),
    (570, "12.8"),
    (565, "12.7"),
    (560, "12.6"),
    (555, "12.5"),
    (550, "12.4"),
    (545, "12.3"),
    (535, "12.2"),
    (530, "12.1"),
    (525, "12.0"),
    (520, "11.8"),
    (515, "11.7"),
    (510, "11.6"),
    (495, "11.5"),
    (470, "11.4"),
    (465, "11.3"),
    (460, "11.2"),
    (455, "11.1"),
    (450, "11.0"),
];

/// The newest version of CUDA that this machine's driver supports, if it has one.
#[must_use]
pub fn cuda_version() -> Option<&'static str> {
    cuda_of(&version(Path::new("/"))?)
}

fn cuda_of(driver: &str) -> Option<&'static str> {
    let major: u32 = driver.split('.').next()?.parse().ok()?;
    CUDA.into_iter().find(|(first, _)| major >= *first).map(|(_, cuda)| cuda)
}

/// The names in a directory, in order.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn exists(root: &Path, path: &str) -> bool {
    below(root, path).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_support_versions_of_cuda() {
        let found = ["550.54.15", "999.1", "560.35", "470.1", "390.1", "x"].map(cuda_of);
        assert_eq!(found, [Some("12.4"), Some("13.1"), Some("12.6"), Some("11.4"), None, None]);
    }
}
