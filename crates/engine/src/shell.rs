//! Shells in images and beside functions.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lamina_devices::Lease;
use lamina_events::{Event, Sink};
use lamina_functions::{AppLabel, ContainerSpec, ContainerVolume, ListedShell};
use lamina_ground::{FileError, Stack, random_id};
use lamina_image::{Digest, FileEntry, FileKind, FileSet, GpuRequest};
use lamina_sandbox::{Sandbox, SandboxSpec, Stdio, TerminalSize, TerminalSpec};
use lamina_secrets::SecretName;
use lamina_store::{Store, StoreError, Work};
use lamina_volumes::{Volume, VolumeName};

use crate::protocol::DEFAULT_ENVIRONMENT;
use crate::{Engine, EngineError, gpus};

/// Where local files are in a shell.
const LOCAL_FILES: &str = "/mnt";

/// What stands for the name of an app in the list of containers.
const SHELL: &str = "modal shell";

/// What a shell is opened in.
#[derive(Debug, Clone, Copy)]
pub enum ShellTarget<'a> {
    /// An image, by its id or the beginning of it; also the state before a failed step.
    Image(&'a str),
    /// What a function's containers see: its image with its files, environment and secrets.
    Container(&'a ContainerSpec),
}

/// What a shell's container has besides what its target says.
#[derive(Debug, Clone, Default)]
pub struct ShellOptions {
    /// Local files and directories, which appear in `/mnt` under their own names.
    pub local_files: Vec<PathBuf>,
    /// Names of volumes, which appear in `/mnt` under these.
    pub volumes: Vec<String>,
    /// Names of secrets.
    pub secrets: Vec<String>,
    /// Most processors.
    pub cpus: Option<f64>,
    /// Most bytes of memory.
    pub memory_bytes: Option<u64>,
    /// GPUs: the first of these that the machine has.
    pub gpu: Vec<GpuRequest>,
    /// Name of the environment.
    pub environment_name: Option<String>,
}

/// A command that runs in an image, or as a function does. It is listed among the containers until this is dropped.
#[derive(Debug)]
pub struct Shell {
    sandbox: Arc<Sandbox>,
    _listed: ListedShell,
    /// Where its changes are, if that is on disk.
    _work: Option<Work>,
}

impl Shell {
    /// Its container.
    #[must_use]
    pub fn sandbox(&self) -> &Arc<Sandbox> {
        &self.sandbox
    }
}

impl Engine {
    /// Starts a command in an image, on a terminal of the given size or on this process's own standard streams. What
    /// it changes is gone with it. `sink` hears of what the user should know.
    ///
    /// # Errors
    /// When there is no such image or local file, or the command cannot be started in it.
    pub fn shell(
        &self,
        target: ShellTarget<'_>,
        argv: &[String],
        terminal: Option<TerminalSize>,
        options: &ShellOptions,
        sink: &Sink,
    ) -> Result<Shell, EngineError> {
        let store = self.store.on_behalf_of(&self.cancel, sink);
        let mut beside = match target {
            ShellTarget::Image(id) => self.image_container(&store, id)?,
            ShellTarget::Container(container) => container.clone(),
        };
        if !options.local_files.is_empty() && !store.confirm()? {
            return Err(EngineError::ImageGone(beside.image_id));
        }
        let local_files = take_along(&store, &options.local_files, &beside.layers, sink)?;
        beside.layers.put_all(&local_files);
        beside.cpus = options.cpus.or(beside.cpus);
        beside.memory_bytes = options.memory_bytes.or(beside.memory_bytes);
        if !options.gpu.is_empty() {
            beside.gpu = gpus::for_shell(options.gpu.clone(), sink)?;
        }
        if let Some(name) = &options.environment_name {
            beside.environment_name.clone_from(name);
        }
        let environment = beside.environment_name.clone();
        for name in &options.secrets {
            beside.environment.extend(self.named_secrets().get(&SecretName::new(&environment, name)?, &[])?);
        }
        for name in &options.volumes {
            beside.volumes.push(self.shell_volume(&environment, name)?);
        }
        let terminal = terminal.map(|size| TerminalSpec { size, is_stdio: true });
        let id = random_id("ta");
        let spec = beside.sandbox(&store, &id, terminal);
        let (upper, work) = beside.upper(&store)?;
        let mut spec = SandboxSpec { argv: argv.to_vec(), upper, ..spec };
        let lease = beside.lend(&self.devices, &store)?;
        if let Some(lease) = &lease {
            lease.give(&mut spec, &store);
        }
        let launcher = lease.as_ref().map_or(&self.launcher, Lease::launcher);
        // The looks at the views take as long as the start. What they find damaged is mended, and the start begins again.
        let mut intact = Ok(true);
        let agreed = || {
            intact = store.is_intact();
            matches!(intact, Ok(true))
        };
        if let Some(sandbox) = launcher.spawn_alone(&spec, own_streams()?, agreed)? {
            return Ok(self.list_shell(&id, sandbox, work));
        }
        intact?;
        if !store.confirm()? {
            return Err(EngineError::ImageGone(beside.image_id));
        }
        Ok(self.list_shell(&id, launcher.spawn(&spec, own_streams()?)?, work))
    }

    /// Has a shell be among the containers that run.
    fn list_shell(&self, id: &str, sandbox: Sandbox, work: Option<Work>) -> Shell {
        let sandbox = Arc::new(sandbox);
        let label = AppLabel { id: String::new(), name: Some(SHELL.to_owned()) };
        let listed = self.roster.enter_shell(id, label, &sandbox);
        Shell { sandbox, _listed: listed, _work: work }
    }

    /// A volume as a shell has it.
    fn shell_volume(&self, environment: &str, name: &str) -> Result<ContainerVolume, EngineError> {
        let wanted = VolumeName { environment: environment.to_owned(), name: name.to_owned() };
        let Volume { id, .. } = self.volumes().named(&wanted, false)?;
        Ok(ContainerVolume {
            path: format!("/mnt/{name}"),
            source: self.volumes().mountable(&id, None)?,
            id,
            name: Some(wanted.name),
            environment: Some(wanted.environment),
            sub_path: None,
            read_only: false,
        })
    }

    /// The surroundings of a build step that would follow the last one of an image.
    fn image_container(&self, store: &Store, id: &str) -> Result<ContainerSpec, EngineError> {
        let image = self.image(id)?;
        if !store.begin_hold(image.layers.bottom_up())? {
            return Err(EngineError::ImageGone(image.id));
        }
        let directory = image.config.working_directory.unwrap_or_else(|| "/".to_owned());
        Ok(ContainerSpec {
            image_id: image.id,
            layers: image.layers,
            image_environment: image.config.environment,
            working_directory: Some(directory),
            user: image.config.user,
            entrypoint: Vec::new(),
            python: None,
            environment: Vec::new(),
            cpus: None,
            memory_bytes: None,
            gpu: Vec::new(),
            environment_name: DEFAULT_ENVIRONMENT.to_owned(),
            block_network: false,
            volumes: Vec::new(),
        })
    }
}

/// Takes local files into the store; answers the views that show them over these layers.
fn take_along(
    store: &Store,
    paths: &[PathBuf],
    layers: &Stack<Digest>,
    sink: &Sink,
) -> Result<Stack<Digest>, EngineError> {
    if paths.is_empty() {
        return Ok(Stack::new());
    }
    let view = store.file_set(&file_set(paths)?, layers)?;
    for message in view.warnings {
        sink.emit(Event::Warning { message });
    }
    Ok(view.views)
}

/// Local files, each under its own name.
fn file_set(paths: &[PathBuf]) -> Result<FileSet, EngineError> {
    let mut entries: Vec<FileEntry> = Vec::new();
    for path in paths {
        let entry = file_entry(path)?;
        if entries.contains(&entry) {
            continue;
        }
        if entries.iter().any(|other| other.target == entry.target) {
            let reason = "another one has the same name; rename one of them, or give the directory that both are in";
            return Err(EngineError::LocalPath { path: path.clone(), reason });
        }
        entries.push(entry);
    }
    Ok(FileSet { entries })
}

fn file_entry(path: &Path) -> Result<FileEntry, EngineError> {
    let refused = |reason| EngineError::LocalPath { path: path.to_owned(), reason };
    // `.` and `..` have the name of the directory that they mean.
    let absolute = if path.file_name().is_some() {
        std::path::absolute(path)?
    } else {
        fs_err::canonicalize(path)
            .map_err(FileError::at("looking up the local path", path))
            .map_err(StoreError::Local)?
    };
    let absolute: PathBuf = absolute.components().collect();
    let name = absolute.file_name().ok_or_else(|| refused("it has no name of its own; give a directory in it"))?;
    let text = |text: &std::ffi::OsStr| text.to_str().map(str::to_owned);
    let (Some(source), Some(name)) = (text(absolute.as_os_str()), text(name)) else {
        return Err(refused("its name is no UTF-8 text; rename it"));
    };
    let kind = match fs_err::metadata(&absolute) {
        Ok(metadata) if metadata.is_dir() => FileKind::Directory,
        Ok(metadata) if !metadata.is_file() => return Err(refused("it is neither a file nor a directory")),
        // What is missing is said by whoever reads it.
        _ => FileKind::File,
    };
    Ok(FileEntry { source, target: format!("{LOCAL_FILES}/{name}"), kind, ignore: None })
}

/// This process's standard streams.
fn own_streams() -> std::io::Result<Stdio> {
    let copy = |fd: BorrowedFd<'_>| -> std::io::Result<OwnedFd> { fd.try_clone_to_owned() };
    Ok(Stdio {
        stdin: copy(rustix::stdio::stdin())?,
        stdout: copy(rustix::stdio::stdout())?,
        stderr: copy(rustix::stdio::stderr())?,
        socket: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_files_keep_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs_err::canonicalize(directory.path()).unwrap();
        fs_err::create_dir_all(root.join("data/below")).unwrap();
        fs_err::write(root.join("one.txt"), "1").unwrap();
        let given = [root.join("data/"), root.join("one.txt"), root.join("data/below/../../data/below/.")];
        let entries = file_set(&given).unwrap().entries;
        let targets: Vec<_> = entries.iter().map(|entry| (&*entry.target, entry.kind)).collect();
        assert_eq!(
            targets,
            [("/mnt/data", FileKind::Directory), ("/mnt/one.txt", FileKind::File), ("/mnt/below", FileKind::Directory)]
        );
        let parent = file_entry(&root.join("data/below/..")).unwrap();
        assert_eq!((&*parent.target, Path::new(&parent.source)), ("/mnt/data", root.join("data").as_path()));
    }

    #[test]
    fn local_files_without_a_name_of_their_own_are_refused() {
        let message =
            |paths: &[&str]| file_set(&paths.iter().map(PathBuf::from).collect::<Vec<_>>()).unwrap_err().to_string();
        assert_eq!(
            message(&["/"]),
            "local path `/` cannot be taken along: it has no name of its own; give a directory in it"
        );
        assert!(message(&["a/x", "b/x"]).starts_with("local path `b/x` cannot be taken along: another one"));
        assert!(message(&["/dev/null"]).ends_with("it is neither a file nor a directory"));
        let twice = ["data", "./data/"].map(PathBuf::from);
        assert_eq!(file_set(&twice).unwrap().entries.len(), 1, "the same path twice is no contradiction");
    }
}
