//! The kinds of steps, in the form in which they are declared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Dockerfile, DockerfileStep, FileSet, VolumeMount};

/// What one method call of the chain does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Step {
    /// Debian with Python.
    DebianSlim(DebianSlim),
    /// An image that was built before.
    ExistingImage(ExistingImage),
    /// Debian with an environment of conda packages.
    Micromamba(Micromamba),
    /// Nothing.
    FromScratch(FromScratch),
    /// An image of a registry.
    FromRegistry(FromRegistry),
    /// A Python for an image that may have none.
    AddPython(AddPython),
    /// What a Dockerfile describes.
    FromDockerfile(Dockerfile),
    /// Lines of a Dockerfile on an image.
    DockerfileCommands(Dockerfile),
    /// One instruction of either.
    Instruction(DockerfileStep),
    /// Debian packages.
    AptInstall(AptInstall),
    /// Python packages with pip's semantics.
    PipInstall(PipInstall),
    /// Python packages with uv's semantics.
    UvPipInstall(UvPipInstall),
    /// Python packages of private repositories.
    PipInstallPrivateRepos(PipInstallPrivateRepos),
    /// The dependencies of a project of uv's, in an environment of their own.
    UvSync(UvSync),
    /// The dependencies of a project of poetry's.
    PoetryInstallFromFile(PoetryInstallFromFile),
    /// Packages of conda channels.
    MicromambaInstall(MicromambaInstall),
    /// Shell commands.
    RunCommands(RunCommands),
    /// A Python function, whose changes become the layer.
    RunFunction(RunFunction),
    /// Environment variables of the image.
    Env(Env),
    /// Working directory of later steps and of containers.
    Workdir(Workdir),
    /// What a container's command is given to.
    Entrypoint(Entrypoint),
    /// What runs later shell commands.
    Shell(Shell),
    /// The command of a container that is told no other.
    Cmd(Cmd),
    /// Local files as a layer (`copy=True`).
    CopyFiles(CopyFiles),
    /// Local files attached to each container at its start.
    AttachFiles(AttachFiles),
}

/// `debian_slim`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DebianSlim {
    /// The wanted version; `None` is the caller's own series.
    pub python_version: Option<String>,
    /// The caller's own series, for example `3.11`.
    pub local_python: String,
    /// The release that a builder version stands for; `None` is the one that has the wanted Python itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
}

/// A release of Debian that builder versions stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Release {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

/// `micromamba`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Micromamba {
    /// The wanted version of Python; `None` is the caller's own series.
    pub python_version: Option<String>,
    /// The caller's own series, for example `3.11`.
    pub local_python: String,
    /// The release that a builder version stands for; `None` is Debian 12.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
}

/// `from_id` and `from_name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ExistingImage {
    /// The image with this id.
    Id {
        /// The id, `im-…`.
        id: String,
    },
    /// The image that has this name now.
    Name {
        /// The environment.
        environment: String,
        /// The name.
        name: String,
        /// The tag.
        tag: String,
        /// The line of a Dockerfile that asks for it, which a message names.
        #[serde(skip)]
        place: Option<crate::DockerfilePlace>,
    },
}

/// `from_scratch`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FromScratch {}

/// `from_registry`. A secret of the step may hold the login.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FromRegistry {
    /// The image's name, with a tag or a digest.
    pub reference: String,
    /// Whose login its secret holds; where nothing is said, its keys do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<RegistryProvider>,
}

/// `add_python=` of images that are from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AddPython {
    /// The series, for example `3.12`.
    pub version: String,
}

/// A provider whose registries give logins of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistryProvider {
    /// Amazon's Elastic Container Registry.
    Aws,
    /// Google's Artifact Registry.
    Gcp,
}

/// `apt_install`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AptInstall {
    /// Package names, in the user's order: apt sees it.
    pub packages: Vec<String>,
}

/// `pip_install`, and the methods that find the requirements in a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PipInstall {
    /// Requirements.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Absolute local paths of requirements files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<String>,
    /// A project whose dependencies are further requirements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pyproject: Option<Pyproject>,
    /// Index options.
    #[serde(flatten)]
    pub index: IndexOptions,
}

/// Dependencies that a `pyproject.toml` declares.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pyproject {
    /// Absolute local path of the file.
    pub path: String,
    /// Names of the groups of optional dependencies to take along.
    #[serde(default)]
    pub optional_dependencies: Vec<String>,
}

/// `pip_install_private_repos`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PipInstallPrivateRepos {
    /// Repositories, as `github.com/owner/name@reference`.
    pub repositories: Vec<String>,
    /// The user whom the token belongs to.
    pub git_user: String,
    /// Index options.
    #[serde(flatten)]
    pub index: IndexOptions,
}

/// `uv_sync`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UvSync {
    /// Absolute local path of the directory with `pyproject.toml` and `uv.lock`.
    pub project: String,
    /// Dependency groups to install as well.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Extras of the project to install as well.
    #[serde(default)]
    pub extras: Vec<String>,
    /// Whether a lock file is taken as it is.
    pub frozen: bool,
    /// Further options, handed to uv as they are.
    #[serde(default)]
    pub extra_options: String,
    /// The wanted uv version; `None` is the one that came with Lamina.
    #[serde(default)]
    pub uv_version: Option<String>,
}

/// `poetry_install_from_file`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PoetryInstallFromFile {
    /// Absolute local path of `pyproject.toml`.
    pub pyproject: String,
    /// Absolute local path of the lock file; `None` is `poetry.lock` beside the project.
    #[serde(default)]
    pub lockfile: Option<String>,
    /// Whether no lock file is used.
    #[serde(default)]
    pub ignore_lockfile: bool,
    /// Groups to install as well.
    #[serde(default)]
    pub with: Vec<String>,
    /// Groups to leave out.
    #[serde(default)]
    pub without: Vec<String>,
    /// Groups to install and no others.
    #[serde(default)]
    pub only: Vec<String>,
    /// The wanted poetry version, `latest`, or `None` if the image has poetry.
    pub poetry_version: Option<String>,
    /// Whether poetry 1 uses its old installer.
    #[serde(default)]
    pub old_installer: bool,
}

/// `micromamba_install`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MicromambaInstall {
    /// Specifications of packages, in the user's order.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Absolute local path of a file with more of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_file: Option<String>,
    /// Channels, the strongest first.
    #[serde(default)]
    pub channels: Vec<String>,
    /// Whether it makes the environment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub creates: bool,
}

/// `uv_pip_install`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UvPipInstall {
    /// Requirements.
    pub packages: Vec<String>,
    /// Absolute local paths of requirements files.
    #[serde(default)]
    pub requirements: Vec<String>,
    /// Index options.
    #[serde(flatten)]
    pub index: IndexOptions,
    /// The wanted uv version; `None` is the one that came with Lamina.
    #[serde(default)]
    pub uv_version: Option<String>,
}

/// Options of the package index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IndexOptions {
    /// `--find-links`.
    #[serde(default)]
    pub find_links: Option<String>,
    /// `--index-url`.
    #[serde(default)]
    pub index_url: Option<String>,
    /// `--extra-index-url`.
    #[serde(default)]
    pub extra_index_url: Option<String>,
    /// Whether pre-releases are allowed.
    #[serde(default)]
    pub pre: bool,
    /// Further options, handed to the installer as they are.
    #[serde(default)]
    pub extra_options: String,
}

/// `run_commands`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunCommands {
    /// The commands, one after the other.
    pub commands: Vec<String>,
    /// Volumes that are there meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeMount>,
}

/// `run_function`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunFunction {
    /// What its module calls it.
    pub function: String,
    /// Where the container finds that module, as the package's runner reads it.
    pub module: BTreeMap<String, String>,
    /// Name of the environment that it sees itself in.
    pub environment_name: String,
    /// Source to take along; no part of the layer.
    #[serde(default, skip_serializing_if = "FileSet::is_empty")]
    pub source: FileSet,
    /// Pickled positional and keyword arguments, in base64; `None` if there are none.
    #[serde(default)]
    pub arguments: Option<String>,
    /// What decides about the result, as far as it is known without running it.
    pub code: FunctionCode,
    /// Volumes that are there meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeMount>,
    /// How long it may take, in seconds.
    pub timeout: u32,
    /// Most processors, in thousandths.
    #[serde(default)]
    pub milli_cpu: Option<u32>,
    /// Most memory, in MiB.
    #[serde(default)]
    pub memory: Option<u32>,
}

/// What decides about the result of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FunctionCode {
    /// Its text.
    pub text: String,
    /// Digests of the texts of local functions and classes that it uses, by name.
    #[serde(default)]
    pub helpers: BTreeMap<String, String>,
    /// Digests of the values of globals that any of these name.
    #[serde(default)]
    pub globals: BTreeMap<String, String>,
    /// Digest of the arguments.
    #[serde(default)]
    pub arguments: Option<String>,
}

/// `env`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Env {
    /// The variables.
    pub variables: BTreeMap<String, String>,
}

/// `workdir`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Workdir {
    /// The path; a relative one is below the present directory.
    pub path: String,
}

/// `entrypoint`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entrypoint {
    /// The program and its arguments; none takes that of the base away.
    pub arguments: Vec<String>,
}

/// `shell`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shell {
    /// The program and its arguments; none is the usual one.
    pub arguments: Vec<String>,
}

/// `cmd`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cmd {
    /// The program and its arguments.
    pub arguments: Vec<String>,
}

/// `add_local_*(copy=True)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CopyFiles {
    /// The files.
    pub files: FileSet,
}

/// `add_local_*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttachFiles {
    /// The files.
    pub files: FileSet,
}

/// Where a step may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the beginning: it has no inputs.
    Base,
    /// On one image.
    Middle,
    /// On one image; only steps of the same place may follow.
    End,
}

impl Step {
    /// Where the step may stand.
    #[must_use]
    pub fn place(&self) -> Place {
        match self {
            Self::DebianSlim(_)
            | Self::Micromamba(_)
            | Self::ExistingImage(_)
            | Self::FromScratch(_)
            | Self::FromRegistry(_)
            | Self::FromDockerfile(_) => Place::Base,
            Self::AttachFiles(_) => Place::End,
            Self::AddPython(_)
            | Self::DockerfileCommands(_)
            | Self::Instruction(_)
            | Self::AptInstall(_)
            | Self::PipInstall(_)
            | Self::UvPipInstall(_)
            | Self::PipInstallPrivateRepos(_)
            | Self::UvSync(_)
            | Self::PoetryInstallFromFile(_)
            | Self::MicromambaInstall(_)
            | Self::RunCommands(_)
            | Self::RunFunction(_)
            | Self::Env(_)
            | Self::Workdir(_)
            | Self::Entrypoint(_)
            | Self::Shell(_)
            | Self::Cmd(_)
            | Self::CopyFiles(_) => Place::Middle,
        }
    }

    /// The volumes that are there while the step executes.
    #[must_use]
    pub fn volumes(&self) -> &[VolumeMount] {
        match self {
            Self::RunCommands(commands) => &commands.volumes,
            Self::RunFunction(function) => &function.volumes,
            _ => &[],
        }
    }

    /// The same, for giving them the ids that their names stand for.
    #[must_use]
    pub fn volumes_mut(&mut self) -> &mut [VolumeMount] {
        match self {
            Self::RunCommands(commands) => &mut commands.volumes,
            Self::RunFunction(function) => &mut function.volumes,
            _ => &mut [],
        }
    }

    /// Whether it uses other images beside the one that it builds on.
    #[must_use]
    pub fn takes_others(&self) -> bool {
        matches!(self, Self::Instruction(step) if step.makes_layer())
    }

    /// The canonical form: equal for steps that do the same, however they were written. Whoever declares a step may give
    /// what has no order in any order, and more than once.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        match &mut self {
            Self::PipInstall(PipInstall { packages, .. }) | Self::UvPipInstall(UvPipInstall { packages, .. }) => {
                packages.sort_unstable();
                packages.dedup();
            }
            Self::UvSync(UvSync { groups, extras, .. }) => {
                for names in [groups, extras] {
                    names.sort_unstable();
                    names.dedup();
                }
            }
            Self::RunCommands(RunCommands { volumes, .. }) | Self::RunFunction(RunFunction { volumes, .. }) => {
                volumes.sort_unstable_by(|one, other| one.path.cmp(&other.path));
            }
            // The order of these counts, or their types leave one form only.
            Self::DebianSlim(_)
            | Self::Micromamba(_)
            | Self::MicromambaInstall(_)
            | Self::ExistingImage(_)
            | Self::FromScratch(_)
            | Self::FromRegistry(_)
            | Self::AddPython(_)
            | Self::FromDockerfile(_)
            | Self::DockerfileCommands(_)
            | Self::Instruction(_)
            | Self::AptInstall(_)
            | Self::PipInstallPrivateRepos(_)
            | Self::PoetryInstallFromFile(_)
            | Self::Env(_)
            | Self::Workdir(_)
            | Self::Entrypoint(_)
            | Self::Shell(_)
            | Self::Cmd(_)
            | Self::CopyFiles(_)
            | Self::AttachFiles(_) => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        let step: Step = serde_json::from_str(text).unwrap();
        serde_json::to_string(&step.canonical()).unwrap()
    }

    #[test]
    fn requirements_have_no_order_and_count_once() {
        for kind in ["pip_install", "uv_pip_install"] {
            let one = canonical(&format!(r#"{{"kind":"{kind}","packages":["b","a>=1","b","Ä"],"pre":true}}"#));
            assert_eq!(one, canonical(&format!(r#"{{"kind":"{kind}","packages":["Ä","b","a>=1"],"pre":true}}"#)));
            assert!(one.contains(r#""packages":["a>=1","b","Ä"]"#), "{one}");
            assert_ne!(one, canonical(&format!(r#"{{"kind":"{kind}","packages":["b","a>=1"],"pre":true}}"#)));
        }
    }

    #[test]
    fn volumes_have_the_order_of_their_places() {
        let one = r#"{"path":"/a","volume":{"name":"x","environment":"main"}}"#;
        let other = r#"{"path":"/b","volume":{"id":"vo-1"},"read_only":true,"sub_path":"c"}"#;
        let step =
            |volumes: &str| canonical(&format!(r#"{{"kind":"run_commands","commands":["a"],"volumes":[{volumes}]}}"#));
        assert_eq!(step(&format!("{one},{other}")), step(&format!("{other},{one}")));
        assert!(step(&format!("{other},{one}")).ends_with(&format!(r#""volumes":[{one},{other}]}}"#)));
    }

    #[test]
    fn what_has_an_order_keeps_it() {
        for step in [
            r#"{"kind":"apt_install","packages":["git","curl","git"]}"#,
            r#"{"kind":"run_commands","commands":["b","a","b"]}"#,
        ] {
            assert_eq!(canonical(step), step);
        }
    }
}
