//! The GPUs that this machine has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lamina_ground::EnvVars;
use lamina_image::GpuRequest;

use crate::cdi::{self, Found};
use crate::edits::Edits;
use crate::{DevicesError, nvidia, types};

/// The annotation of a device that says which model it is, for those of which the driver does not say it.
const MODEL: &str = "model";
/// The class of kinds (`nvidia.com/gpu`) whose devices are GPUs.
const CLASS: &str = "/gpu";
/// The device of a specification that stands for all others; of some (that of WSL) it is the only one.
const ALL: &str = "all";
/// Where nodes of parts of GPUs are.
const PARTS: &str = "/dev/nvidia-caps/";

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its name, `nvidia.com/gpu=0`.
    pub name: String,
    /// Its model, as far as it is known.
    pub model: Option<String>,
    /// Where it is described, for messages.
    pub origin: String,
    /// What a container with it gets.
    pub(crate) edits: Edits,
}

/// The GPUs of a machine.
#[derive(Debug, Default)]
pub struct Inventory {
    gpus: Vec<Gpu>,
    /// What is wrong with specifications.
    problems: Vec<String>,
    /// The directories of specifications.
    looked: Vec<PathBuf>,
}

impl Inventory {
    /// Those of this machine.
    #[must_use]
    pub fn of_machine() -> Self {
        let home = std::env::var_os(EnvVars::HOME).map(PathBuf::from);
        let search_path = std::env::var(EnvVars::PATH).unwrap_or_default();
        Self::read(
            &directories(std::env::var_os(EnvVars::MODAL_CDI_DIRS), home.as_deref()),
            Path::new("/"),
            &search_path,
        )
    }

    /// Those that specifications in these directories have, or else the driver of the machine under `root`.
    fn read(directories: &[PathBuf], root: &Path, search_path: &str) -> Self {
        let (found, mut problems) = cdi::read_all(directories);
        let driven = nvidia::gpus(root);
        let mut gpus = of_specs(&found, &driven);
        if gpus.is_empty() {
            gpus = of_driver(root, &driven, search_path);
            problems.extend((!gpus.is_empty()).then(|| nvidia::lacking(root)).flatten());
        }
        if gpus.is_empty() {
            gpus.extend(nvidia::of_windows(root).map(|edits| Gpu {
                name: format!("nvidia.com/gpu={ALL}"),
                model: None,
                origin: "the driver of Windows".to_owned(),
                edits,
            }));
        }
        Self { gpus, problems, looked: directories.to_vec() }
    }

    /// The GPUs.
    #[must_use]
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// What is wrong with specifications, as sentences without their end.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The directories in which specifications were looked for.
    #[must_use]
    pub fn looked(&self) -> &[PathBuf] {
        &self.looked
    }

    /// What there is, in words: `2 NVIDIA A10G`.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut models: BTreeMap<&str, usize> = BTreeMap::new();
        for gpu in &self.gpus {
            *models.entry(gpu.model.as_deref().unwrap_or("GPU of an unknown model")).or_default() += 1;
        }
        models.iter().map(|(model, count)| format!("{count} {model}")).collect::<Vec<_>>().join(", ")
    }

    /// The GPUs for one container, by their places: those of the first request that can be met, of which each is used by
    /// as few containers as possible. `uses` says how many have each.
    pub(crate) fn choose(&self, requests: &[GpuRequest], uses: &[usize]) -> Result<Vec<usize>, DevicesError> {
        for request in requests {
            let is_meant = |place: &usize| is_of(&self.gpus[*place], request);
            let mut places: Vec<usize> = (0..self.gpus.len()).filter(is_meant).collect();
            let count = usize::try_from(request.count).unwrap_or(usize::MAX);
            if places.len() >= count {
                places.sort_by_key(|place| uses.get(*place).copied().unwrap_or(0));
                places.truncate(count);
                places.sort_unstable();
                return Ok(places);
            }
        }
        Err(self.refusal(requests))
    }

    fn refusal(&self, requests: &[GpuRequest]) -> DevicesError {
        let is_known = |request: &&GpuRequest| {
            request.is_any()
                || types::known().any(|known| known == request.kind)
                || self.gpus.iter().any(|gpu| is_of(gpu, request))
        };
        if let Some(request) = requests.iter().find(|request| !is_known(request)) {
            return DevicesError::UnknownType(request.kind.clone());
        }
        let (asked, problems) = (requests.to_vec(), self.problems.clone());
        if self.gpus.is_empty() {
            return DevicesError::NoGpu { asked, looked: self.looked.clone(), problems };
        }
        DevicesError::Absent { asked, has: self.summary(), problems }
    }
}

fn is_of(gpu: &Gpu, request: &GpuRequest) -> bool {
    request.is_any() || gpu.model.as_deref().is_some_and(|model| types::is_of(model, &request.kind))
}

/// The directories of specifications.
fn directories(setting: Option<std::ffi::OsString>, home: Option<&Path>) -> Vec<PathBuf> {
    match setting.filter(|setting| !setting.is_empty()) {
        Some(setting) => std::env::split_paths(&setting).collect(),
        None => cdi::usual_directories(home),
    }
}

/// The GPUs of specifications. A GPU may have several names there; it is taken once.
fn of_specs(found: &BTreeMap<String, Found>, driven: &[nvidia::Driven]) -> Vec<Gpu> {
    let mut gpus: Vec<Gpu> = Vec::new();
    let mut nodes_seen: Vec<Vec<String>> = Vec::new();
    for (name, found) in found {
        let device = found.device();
        let is_sum = device.name == ALL && found.spec.devices.len() > 1;
        if !found.spec.kind.ends_with(CLASS) || is_sum {
            continue;
        }
        let own = Edits::of_spec(&device.container_edits);
        let mut nodes: Vec<String> = own.mounts.iter().map(|mount| mount.target.clone()).collect();
        nodes.sort();
        if !nodes.is_empty() && nodes_seen.contains(&nodes) {
            continue;
        }
        let mut edits = Edits::of_spec(&found.spec.container_edits);
        edits.merge(&own);
        let is_part = nodes.iter().any(|node| node.starts_with(PARTS));
        let model = driven.iter().find(|gpu| nodes.contains(&format!("/dev/nvidia{}", gpu.minor)));
        // A part of a GPU is not what is meant by the name of the whole one.
        let model = model.filter(|_| !is_part).map(|gpu| gpu.model.clone());
        let annotations = [&device.annotations, &found.spec.annotations];
        let model = annotations.iter().find_map(|annotations| annotations.get(MODEL)).cloned().or(model);
        nodes_seen.push(nodes);
        gpus.push(Gpu { name: name.clone(), model, origin: format!("`{}`", found.file.display()), edits });
    }
    gpus
}

/// The GPUs of the driver whose nodes are there.
fn of_driver(root: &Path, driven: &[nvidia::Driven], search_path: &str) -> Vec<Gpu> {
    let is_there = |gpu: &&nvidia::Driven| root.join(format!("dev/nvidia{}", gpu.minor)).exists();
    let there: Vec<&nvidia::Driven> = driven.iter().filter(is_there).collect();
    if there.is_empty() {
        return Vec::new();
    }
    let common = nvidia::common(root, search_path);
    let gpu = |gpu: &nvidia::Driven| {
        let mut edits = common.clone();
        edits.merge(&nvidia::own(root, gpu));
        let name = format!("nvidia.com/gpu={}", gpu.minor);
        Gpu { name, model: Some(gpu.model.clone()), origin: "the NVIDIA driver".to_owned(), edits }
    };
    there.into_iter().map(gpu).collect()
}

#[cfg(test)]
mod tests {
    use lamina_ground::{Hint, causes};

    use super::*;

    const SPEC: &str = "cdiVersion: 0.6.0
kind: nvidia.com/gpu
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void]
  deviceNodes: [{path: /dev/nvidiactl}]
devices:
- {name: '0', annotations: {model: NVIDIA A100-SXM4-80GB}, containerEdits: {deviceNodes: [{path: /dev/nvidia0}]}}
- {name: '1', annotations: {model: NVIDIA A100-SXM4-80GB}, containerEdits: {deviceNodes: [{path: /dev/nvidia1}]}}
- {name: GPU-1, containerEdits: {deviceNodes: [{path: /dev/nvidia1}]}}
- {name: '2', containerEdits: {deviceNodes: [{path: /dev/nvidia2}]}}
- {name: '2:0', containerEdits: {deviceNodes: [{path: /dev/nvidia2}, {path: /dev/nvidia-caps/nvidia-cap3}]}}
- {name: all, containerEdits: {deviceNodes: [{path: /dev/nvidia0}, {path: /dev/nvidia1}]}}
";

    fn information(root: &Path, minor: u32, model: &str) {
        let directory = root.join(format!("proc/driver/nvidia/gpus/0000:0{minor}:00.0"));
        fs_err::create_dir_all(&directory).unwrap();
        let text = format!("Model: \t\t {model}\nIRQ:   \t\t 12\nGPU UUID: \t GPU-{minor}\nDevice Minor: \t {minor}\n");
        fs_err::write(directory.join("information"), text).unwrap();
    }

    fn machine() -> (tempfile::TempDir, Inventory) {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("nvidia.yaml"), SPEC).unwrap();
        information(directory.path(), 2, "NVIDIA L4");
        let inventory = Inventory::read(&[directory.path().to_owned()], directory.path(), "");
        (directory, inventory)
    }

    fn requests(texts: &[&str]) -> Vec<GpuRequest> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn each_gpu_of_a_specification_is_one() {
        let (_directory, inventory) = machine();
        let found: Vec<_> = inventory.gpus.iter().map(|gpu| (&*gpu.name, gpu.model.as_deref())).collect();
        let a100 = Some("NVIDIA A100-SXM4-80GB");
        let expected = [("0", a100), ("1", a100), ("2", Some("NVIDIA L4")), ("2:0", None)];
        assert_eq!(
            found,
            expected
                .map(|(name, model)| (format!("nvidia.com/gpu={name}"), model))
                .each_ref()
                .map(|(name, model)| (&**name, *model))
        );
        assert_eq!(inventory.summary(), "1 GPU of an unknown model, 2 NVIDIA A100-SXM4-80GB, 1 NVIDIA L4");
        let mounts: Vec<_> = inventory.gpus[0].edits.mounts.iter().map(|mount| &*mount.target).collect();
        assert_eq!(mounts, ["/dev/nvidiactl", "/dev/nvidia0"]);
    }

    #[test]
    fn a_device_that_stands_for_all_counts_where_it_is_alone() {
        let directory = tempfile::tempdir().unwrap();
        let spec = "cdiVersion: 0.3.0\nkind: nvidia.com/gpu\n\
                    devices: [{name: all, containerEdits: {deviceNodes: [{path: /dev/dxg}]}}]";
        fs_err::write(directory.path().join("wsl.yaml"), spec).unwrap();
        let inventory = Inventory::read(&[directory.path().to_owned()], directory.path(), "");
        assert_eq!(inventory.choose(&requests(&["any"]), &[]).unwrap(), [0]);
        assert_eq!(inventory.summary(), "1 GPU of an unknown model");
    }

    #[test]
    fn the_first_request_that_can_be_met_is() {
        let (_directory, inventory) = machine();
        let choose = |texts: &[&str], uses: &[usize]| inventory.choose(&requests(texts), uses).ok();
        assert_eq!(choose(&["A100"], &[]), Some(vec![0]));
        assert_eq!(choose(&["A100"], &[2, 1, 0, 0]), Some(vec![1]));
        assert_eq!(choose(&["A100:2"], &[2, 1, 0, 0]), Some(vec![0, 1]));
        assert_eq!(choose(&["H100", "L4", "A100"], &[]), Some(vec![2]));
        assert_eq!(choose(&["A100:4", "any:4"], &[]), Some(vec![0, 1, 2, 3]));
        assert_eq!(choose(&["any"], &[1, 1, 1, 0]), Some(vec![3]));
        assert_eq!(choose(&["H100", "A100:3"], &[]), None);
    }

    #[test]
    fn who_asks_for_what_is_not_there_is_told_what_is() {
        let (_directory, inventory) = machine();
        let bare = Inventory { looked: vec!["/etc/cdi".into(), "/var/run/cdi".into()], ..Inventory::default() };
        let text = |inventory: &Inventory, texts: &[&str]| {
            let error = inventory.choose(&requests(texts), &[]).unwrap_err();
            format!("{:?}: {}\n{}", error.class(), causes(&error), error.hint().unwrap_or_default())
        };
        insta::assert_snapshot!(text(&bare, &["any"]), @r#"
        NotFoundError: this machine has no GPU for `gpu="ANY"`: there is none in the CDI specifications of `/etc/cdi`, `/var/run/cdi`, and the NVIDIA driver has none in `/proc/driver/nvidia/gpus`
        `MODAL_GPU=ignore` runs everything without GPUs
        "#);
        insta::assert_snapshot!(text(&inventory, &["H100:2", "A100:4"]), @r#"
        NotFoundError: this machine does not have what `gpu="H100:2", "A100:4"` asks for: it has 1 GPU of an unknown model, 2 NVIDIA A100-SXM4-80GB, 1 NVIDIA L4
        `MODAL_GPU=any` takes GPUs of any type, `MODAL_GPU=ignore` runs everything without GPUs
        "#);
        for inventory in [&bare, &inventory] {
            insta::allow_duplicates!(insta::assert_snapshot!(text(inventory, &["A100:9", "h1000"]), @"
            InvalidError: `H1000` is no known type of GPU
            did you mean `H100`? known are `T4`, `L4`, `A10`, `A10G`, `L40S`, `A100`, `A100-40GB`, `A100-80GB`, `RTX-PRO-6000`, `H100`, `H100!`, `H200`, `B200`, `B200+`, `B300`, `any`, and words of a model that this machine has
            "));
        }
    }

    #[test]
    fn without_specifications_the_driver_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        information(root, 0, "NVIDIA H200");
        information(root, 1, "NVIDIA H200");
        assert!(Inventory::read(&[], root, "/usr/bin").gpus.is_empty(), "no node of it is in this container");
        let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        let real = fs_err::read_to_string("/proc/self/maps").unwrap();
        let real = real.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("libc."));
        for (file, contents) in [
            ("dev/nvidia0", Some(vec![])),
            ("dev/nvidiactl", Some(vec![])),
            ("dev/nvidia-uvm", Some(vec![])),
            ("usr/bin/nvidia-smi", Some(vec![])),
            (
                "proc/driver/nvidia/version",
                Some(b"NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue".to_vec()),
            ),
            ("lib/firmware/nvidia/550.54.15/gsp_ga10x.bin", Some(vec![])),
            (&format!("{libraries}/libcuda.so.550.54.15"), None),
            (&format!("{libraries}/libnvidia-text.so.550.54.15"), Some(b"text".to_vec())),
            (&format!("{libraries}/libother.so.1"), Some(vec![])),
        ] {
            let path = root.join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, contents.unwrap_or_else(|| fs_err::read(real.unwrap()).unwrap())).unwrap();
        }
        let inventory = Inventory::read(&[], root, "/usr/local/bin:/usr/bin");
        assert_eq!(inventory.problems(), Vec::<String>::new());
        let [gpu] = inventory.gpus() else { panic!("{inventory:?}") };
        assert_eq!((&*gpu.name, gpu.model.as_deref()), ("nvidia.com/gpu=0", Some("NVIDIA H200")));
        let targets: Vec<_> = gpu.edits.mounts.iter().map(|mount| &*mount.target).collect();
        assert_eq!(
            targets,
            [
                "/dev/nvidia-uvm",
                "/dev/nvidiactl",
                "/usr/bin/nvidia-smi",
                "/lib/firmware/nvidia/550.54.15/gsp_ga10x.bin",
                &format!("/{libraries}/libcuda.so.550.54.15"),
                "/dev/nvidia0",
            ]
        );
        assert_eq!(gpu.edits.folders, [format!("/{libraries}")]);
        assert_eq!(gpu.edits.driver_version.as_deref(), Some("550.54.15"));
        fs_err::remove_file(root.join("dev/nvidia-uvm")).unwrap();
        let inventory = Inventory::read(&[], root, "");
        assert!(inventory.problems()[0].contains("`nvidia-modprobe -u -c=0`"), "{:?}", inventory.problems());
    }

    #[test]
    fn gpus_of_windows_are_one_of_an_unknown_model() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = directory.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, "").unwrap();
        };
        let read = || Inventory::read(&[], directory.path(), "");
        for file in ["libcuda.so.1", "libdxcore.so", "nvidia-smi", "other"] {
            write(&format!("usr/lib/wsl/lib/{file}"));
        }
        write("usr/lib/wsl/drivers/nv.inf_1/libcuda_loader.so");
        assert!(read().gpus.is_empty(), "there is no node");
        write("dev/dxg");
        let inventory = read();
        let targets: Vec<_> = inventory.gpus[0].edits.mounts.iter().map(|mount| &*mount.target).collect();
        let files = ["libcuda.so.1", "libdxcore.so", "nvidia-smi"].map(|name| format!("/usr/lib/wsl/lib/{name}"));
        assert_eq!(targets, ["/dev/dxg", "/usr/lib/wsl/drivers", &files[0], &files[1], &files[2]]);
        assert_eq!(inventory.choose(&requests(&["any"]), &[]).unwrap(), [0]);
        assert!(inventory.choose(&requests(&["T4"]), &[]).is_err());
    }

    #[test]
    fn the_setting_names_the_directories() {
        let paths = |setting: &str, home: Option<&str>| directories(Some(setting.into()), home.map(Path::new));
        assert_eq!(paths("/a:/b", None), [Path::new("/a"), Path::new("/b")]);
        let usual = [Path::new("/etc/cdi"), Path::new("/var/run/cdi"), Path::new("/home/me/.config/cdi")];
        assert_eq!(paths("", Some("/home/me")), usual);
    }
}
