//! Specifications of the Container Device Interface, as files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lamina_ground::causes;
use serde::Deserialize;

/// A specification, as its file has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    cdi_version: String,
    /// Vendor and class, `nvidia.com/gpu`.
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) devices: Vec<Device>,
    /// What every container with one of the devices gets.
    #[serde(default)]
    pub(crate) container_edits: ContainerEdits,
}

/// A device of a specification.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) container_edits: ContainerEdits,
}

/// What a container with a device gets.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerEdits {
    pub(crate) env: Vec<String>,
    pub(crate) device_nodes: Vec<DeviceNode>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) hooks: Vec<Hook>,
}

/// A device node; its mode, owner and numbers are those of the host's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeviceNode {
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) host_path: Option<String>,
}

/// A file or directory of the host.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mount {
    #[serde(default)]
    pub(crate) host_path: String,
    pub(crate) container_path: String,
    #[serde(default)]
    pub(crate) options: Vec<String>,
    #[serde(default, rename = "type")]
    pub(crate) kind: Option<String>,
}

/// A program that a runtime would execute while it makes the container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hook {
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) args: Vec<String>,
}

/// The directories of specifications where nothing else is said: later ones come first.
pub(crate) fn usual_directories(home: Option<&Path>) -> Vec<PathBuf> {
    let own = home.map(|home| home.join(".config/cdi"));
    [PathBuf::from("/etc/cdi"), PathBuf::from("/var/run/cdi")].into_iter().chain(own).collect()
}

/// The devices of all specifications in some directories, by their full names, and what is wrong with files there. A
/// device of a later directory replaces that of an earlier one; of two in the same directory neither is taken.
pub(crate) fn read_all(directories: &[PathBuf]) -> (BTreeMap<String, Found>, Vec<String>) {
    let (mut found, mut problems) = (BTreeMap::new(), Vec::new());
    for directory in directories {
        let mut here: BTreeMap<String, Option<Found>> = BTreeMap::new();
        for file in files(directory) {
            let spec = match read(&file) {
                Ok(spec) => std::rc::Rc::new(spec),
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            for index in 0..spec.devices.len() {
                let name = format!("{}={}", spec.kind, spec.devices[index].name);
                let device = Found { file: file.clone(), spec: std::rc::Rc::clone(&spec), index };
                if let Some(taken) = here.get_mut(&name) {
                    if taken.take().is_some() {
                        let directory = directory.display();
                        problems.push(format!("two specifications in `{directory}` have the device `{name}`"));
                    }
                } else {
                    here.insert(name, Some(device));
                }
            }
        }
        found.extend(here.into_iter().filter_map(|(name, device)| Some((name, device?))));
    }
    (found, problems)
}

/// A device and the specification that it is from.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: PathBuf,
    pub(crate) spec: std::rc::Rc<Spec>,
    index: usize,
}

impl Found {
    pub(crate) fn device(&self) -> &Device {
        &self.spec.devices[self.index]
    }
}

/// The files of specifications in a directory, in the order of their names.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let is_spec = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ["json", "yaml", "yml"].iter().any(|known| ending == *known))
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_spec).collect();
    files.sort();
    files
}

/// Reads a specification; says what is wrong with it.
fn read(file: &Path) -> Result<Spec, String> {
    let wrong =
        |why: &dyn std::fmt::Display| format!("the CDI specification `{}` cannot be used: {why}", file.display());
    let text = fs_err::read_to_string(file).map_err(|error| causes(&error))?;
    let is_json = file.extension().is_some_and(|ending| ending == "json");
    let spec: Spec = if is_json {
        serde_json::from_str(&text).map_err(|error| wrong(&error))?
    } else {
        serde_yaml::from_str(&text).map_err(|error| wrong(&error))?
    };
    let numbers: Vec<u32> = spec.cdi_version.split('.').filter_map(|part| part.parse().ok()).collect();
    if !matches!(numbers[..], [0, 3..=8, _] | [1, ..]) {
        return Err(wrong(&format!("its version is `{}`, and those from 0.3.0 to 1.1.0 are known", spec.cdi_version)));
    }
    check(&spec).map_err(|problem| wrong(&problem))?;
    Ok(spec)
}

/// What is the sandbox's own.
const OWN: [&str; 3] = ["/dev", "/proc", "/sys"];

/// That names, variables and paths are what a container can be given, so that a file that is wrong is named before one starts.
fn check(spec: &Spec) -> Result<(), String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "-_.:".contains(character);
    if let Some(device) = spec.devices.iter().find(|device| device.name.is_empty() || !device.name.chars().all(is_part))
    {
        return Err(format!("`{}` is no name of a device", device.name.escape_debug()));
    }
    for edits in spec.devices.iter().map(|device| &device.container_edits).chain([&spec.container_edits]) {
        let is_variable =
            |text: &str| text.split_once('=').is_some_and(|(name, _)| !name.is_empty()) && !text.contains('\0');
        if let Some(wrong) = edits.env.iter().find(|text| !is_variable(text)) {
            return Err(format!("`{}` is no variable with a value", wrong.escape_debug()));
        }
        let nodes = edits.device_nodes.iter().map(|node| (&node.path, node.host_path.as_deref().unwrap_or_default()));
        let mounts = edits.mounts.iter().map(|mount| (&mount.container_path, &*mount.host_path));
        for (target, source) in nodes.chain(mounts) {
            let path = target.trim_end_matches('/');
            if !is_plain(path) || OWN.contains(&path) {
                return Err(format!("nothing can be put at `{}` in a container", target.escape_debug()));
            }
            if !source.is_empty() && (!source.starts_with('/') || source.contains('\0')) {
                return Err(format!("`{}` is no absolute path of the host", source.escape_debug()));
            }
        }
    }
    Ok(())
}

/// Whether a path inside a container is absolute and leads nowhere else than its words say.
pub(crate) fn is_plain(path: &str) -> bool {
    let is_name = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255 && !part.contains('\0');
    path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "kind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    env: [A=B]\n";

    #[test]
    fn later_directories_come_first_and_equals_are_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let (low, high) = (directory.path().join("low"), directory.path().join("high"));
        for path in [&low, &high] {
            fs_err::create_dir(path).unwrap();
        }
        let write = |path: PathBuf, text: &str| fs_err::write(path, text).unwrap();
        write(low.join("a.yaml"), &format!("cdiVersion: 0.5.0\n{DEVICE}"));
        let json = r#"{"cdiVersion": "0.3.0", "kind": "nvidia.com/gpu", "devices": [{"name": "1"}]}"#;
        write(low.join("b.json"), json);
        write(low.join("readme.txt"), "no specification");
        write(high.join("a.yaml"), &format!("cdiVersion: 0.8.0\n{DEVICE}"));
        let (found, problems) = read_all(&[low.clone(), high.clone(), "/nonexistent".into()]);
        assert_eq!(problems, Vec::<String>::new());
        let places: Vec<_> = found.iter().map(|(name, found)| (&**name, found.file.clone())).collect();
        assert_eq!(places, [("nvidia.com/gpu=0", high.join("a.yaml")), ("nvidia.com/gpu=1", low.join("b.json"))]);
        assert_eq!(found["nvidia.com/gpu=0"].device().container_edits.env, ["A=B"]);

        write(high.join("b.json"), &json.replace("\"1\"", "\"0\""));
        write(high.join("c.yaml"), &format!("cdiVersion: 0.2.0\n{DEVICE}"));
        write(high.join("d.yaml"), "cdiVersion: [");
        let (found, problems) = read_all(&[low.clone(), high]);
        assert_eq!(found["nvidia.com/gpu=0"].file, low.join("a.yaml"));
        assert!(problems.iter().any(|problem| problem.contains("its version is `0.2.0`")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("d.yaml` cannot be used")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("have the device `nvidia.com/gpu=0`")), "{problems:?}");
    }
    #[test]
    fn what_no_container_can_be_given_is_said_of_its_file() {
        let problem = |name: &str, edits: &str| {
            let text =
                format!("cdiVersion: 0.5.0\nkind: a/gpu\ndevices:\n- name: {name}\n  containerEdits: {{{edits}}}\n");
            check(&serde_yaml::from_str(&text).unwrap()).err()
        };
        assert_eq!(problem("'0:1'", "env: [A=B=C], mounts: [{hostPath: /a, containerPath: /proc/x/}]"), None);
        for (name, edits, expected) in [
            ("\"a\\n\"", "", r"`a\n` is no name of a device"),
            ("x", "env: [A]", "`A` is no variable with a value"),
            ("x", "env: ['=A']", "`=A` is no variable with a value"),
            ("x", "mounts: [{hostPath: /a, containerPath: /}]", "nothing can be put at `/` in a container"),
            ("x", "mounts: [{hostPath: /a, containerPath: /dev}]", "nothing can be put at `/dev` in a container"),
            (
                "x",
                "mounts: [{hostPath: /a, containerPath: /b/../../c}]",
                "nothing can be put at `/b/../../c` in a container",
            ),
            ("x", "mounts: [{hostPath: /a, containerPath: b}]", "nothing can be put at `b` in a container"),
            ("x", "deviceNodes: [{path: /dev//a}]", "nothing can be put at `/dev//a` in a container"),
            ("x", "mounts: [{hostPath: a, containerPath: /b}]", "`a` is no absolute path of the host"),
        ] {
            assert_eq!(problem(name, edits).as_deref(), Some(expected), "{edits}");
        }
    }
}
