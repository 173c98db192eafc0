//! One module per kind of step. Each says what enters the step's key, and how its layers are made.

mod add_python;
mod apt;
mod base;
mod bounds;
mod commands;
mod conda;
mod dockerfile;
mod files;
mod function;
mod installer;
mod look;
mod metadata;
mod poetry;
mod project;
mod python;
mod registry;
mod repositories;
mod requirements;
mod uv_sync;
mod volumes;

use std::sync::{Arc, OnceLock};

pub(crate) use dockerfile::jobs;
use lamina_ground::{DEFAULT_PATH, Hint, Stack};
use lamina_image::{Definition, Digest, ExistingImage, Facts, FileSet, Graph, KeyMaterial, Node, Step};
use lamina_registry::LocalImage;
use lamina_store::{CommitRules, Committed, Context, Lock, Work};
use lamina_workshop::Workshop;
pub(crate) use look::LookAtImage;
pub(crate) use requirements::read as read_requirements;

use crate::BuildError;
use crate::error::Mistake;
use crate::host::HostSettings;
use crate::log::StepLog;
use crate::state::State;
use crate::toolchain::{Image, When};

/// What every kind of step says about itself.
pub(crate) trait Kind {
    /// The local files that the step reads.
    fn local(&self) -> Local<'_> {
        Local::default()
    }

    /// Looks whether the projects that the step reads are there and declare what is asked of them.
    fn check(&self) -> Result<(), BuildError> {
        Ok(())
    }

    /// The plain steps that the step stands for, before anything is planned: the last has the id of `node`.
    fn lower(&self, node: &Node) -> Result<Vec<Node>, BuildError> {
        Ok(vec![node.clone()])
    }
}

impl Kind for ExistingImage {}

/// A kind of step that makes layers.
pub(crate) trait LayerKind: Kind {
    /// Reads what the step depends on beside its inputs, its environment and its secrets, and adds it to the material of
    /// its key. Nothing is executed.
    fn plan(&self, planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError>;
}

/// A kind of step that only changes how things are run, or what is attached.
pub(crate) trait MetadataKind: Kind {
    /// Changes what later steps and containers start from.
    fn apply(&self, node: &Node, state: &mut State) -> Result<(), BuildError>;
}

/// How a step's layers are made, once everything is read that its key depends on.
pub(crate) trait Recipe: Send {
    /// Makes them.
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError>;

    /// Whether the image holds only signed packages of its base's archive afterwards, if it did so before.
    fn stays_pristine(&self, _node: &Node, _before: bool) -> bool {
        false
    }
}

/// A step by what it makes.
pub(crate) enum Declared<'a> {
    Layers(&'a dyn LayerKind),
    Metadata(&'a dyn MetadataKind),
    /// An image that was built before.
    Existing(&'a ExistingImage),
}

impl<'a> Declared<'a> {
    /// The kind of a step: the one place that knows all of them.
    pub(crate) fn of(step: &'a Step) -> Self {
        match step {
            Step::DebianSlim(kind) => Self::Layers(kind),
            Step::Micromamba(kind) => Self::Metadata(kind),
            Step::ExistingImage(image) => Self::Existing(image),
            Step::FromScratch(kind) => Self::Metadata(kind),
            Step::FromRegistry(kind) => Self::Layers(kind),
            Step::AddPython(kind) => Self::Layers(kind),
            Step::FromDockerfile(kind) | Step::DockerfileCommands(kind) => Self::Metadata(kind),
            Step::Instruction(kind) if kind.makes_layer() => Self::Layers(kind),
            Step::Instruction(kind) => Self::Metadata(kind),
            Step::AptInstall(kind) => Self::Layers(kind),
            Step::PipInstall(kind) => Self::Layers(kind),
            Step::UvPipInstall(kind) => Self::Layers(kind),
            Step::PipInstallPrivateRepos(kind) => Self::Layers(kind),
            Step::UvSync(kind) => Self::Layers(kind),
            Step::PoetryInstallFromFile(kind) => Self::Layers(kind),
            Step::MicromambaInstall(kind) => Self::Layers(kind),
            Step::RunCommands(kind) => Self::Layers(kind),
            Step::RunFunction(kind) => Self::Layers(kind),
            Step::CopyFiles(kind) => Self::Layers(kind),
            Step::Env(kind) => Self::Metadata(kind),
            Step::Workdir(kind) => Self::Metadata(kind),
            Step::Entrypoint(kind) => Self::Metadata(kind),
            Step::Shell(kind) => Self::Metadata(kind),
            Step::Cmd(kind) => Self::Metadata(kind),
            Step::AttachFiles(kind) => Self::Metadata(kind),
        }
    }

    /// What every kind says about itself.
    pub(crate) fn kind(&self) -> &'a dyn Kind {
        match *self {
            Self::Layers(kind) => kind,
            Self::Metadata(kind) => kind,
            Self::Existing(image) => image,
        }
    }
}

/// The plain steps of a definition, of which the distinct ones are planned.
pub(crate) fn lower(definition: &Definition) -> Result<Graph, BuildError> {
    let lowered = definition.lowered(|node| Declared::of(&node.step).kind().lower(node))?;
    Graph::new(lowered).map_err(|error| BuildError::invalid(Mistake::from(error)))
}

/// Local files that a step reads.
#[derive(Default)]
pub(crate) struct Local<'a> {
    /// Files and directories.
    pub(crate) files: Option<&'a FileSet>,
    /// Requirements files, which may name others.
    pub(crate) requirements: &'a [String],
}

/// Where planning finds what local files hold.
pub(crate) trait LocalFiles: Sync {
    /// The layer that local files are over `below`. What was hashed is in the store then, so that a file that
    /// changes meanwhile cannot come to stand under the key of what it was.
    fn layer(&self, files: &FileSet, below: &Stack<Digest>) -> Result<Committed, BuildError>;

    /// The layer that is asked for of a local directory, over nothing.
    fn context(&self, context: &Context<'_>) -> Result<Committed, BuildError>;

    /// What tells an image of this machine apart from all others that may have its name.
    fn fingerprint(&self, image: &LocalImage) -> Result<String, BuildError>;
}

/// What planning a step has at hand.
pub(crate) struct Planning<'a> {
    /// The state that it builds on.
    pub(crate) parent: &'a State,
    pub(crate) local: &'a dyn LocalFiles,
}

/// What a step made.
pub(crate) enum Made {
    /// Changes that are still to be committed.
    Work {
        /// The directories that hold them.
        work: Work,
        /// How to commit them.
        rules: CommitRules,
        /// What the step says about the image.
        facts: Box<Facts>,
        /// Held until the commit, where objects lie in the work that nothing else names.
        held: Option<Lock>,
    },
    /// Something over a layer that the step has committed first.
    Over {
        /// That layer.
        below: Committed,
        /// What is over it.
        above: Box<Self>,
    },
    /// Layers that the store has already.
    Layers {
        /// Those beneath the uppermost one.
        below: Stack<Committed>,
        /// The uppermost one.
        top: Committed,
        /// What the step says about the image.
        facts: Box<Facts>,
    },
}

/// What executing a step has at hand.
pub(crate) struct StepContext<'a> {
    pub(crate) workshop: Workshop<'a>,
    pub(crate) host: &'a OnceLock<HostSettings>,
    pub(crate) node: &'a Node,
    pub(crate) parent: &'a State,
    /// Further states that it uses.
    pub(crate) others: &'a [Arc<State>],
    pub(crate) number: u64,
    /// Most memory that the step may use, in bytes.
    pub(crate) memory: u64,
}

impl StepContext<'_> {
    /// The host's network settings.
    pub(crate) fn host(&self) -> &HostSettings {
        self.host.get_or_init(HostSettings::read)
    }

    /// The layer with the compilers that the image lacks, to lie over it, where something is likely to be compiled, or
    /// always or never, as the user has set it.
    pub(crate) fn toolchain(&self, is_likely: bool, log: &mut StepLog) -> Result<Option<Digest>, BuildError> {
        if !When::of_environment()?.includes(is_likely) {
            return Ok(None);
        }
        let own = self.node.variables().filter(|(name, _)| *name == "PATH").last().map(|(_, value)| value);
        let search_path = own.or_else(|| self.parent.config.environment.get("PATH").map(String::as_str));
        let image = Image {
            layers: &self.parent.layers,
            facts: &self.parent.facts,
            search_path: search_path.unwrap_or(DEFAULT_PATH),
        };
        image.toolchain(&self.workshop, log)
    }
}

/// Why a step's command did not work; the schedule adds log and title.
pub(crate) enum StepError {
    /// The step failed, for a reason that only it knows.
    Failed { message: String, hint: Option<String> },
    /// The step failed because of this error.
    Because(Box<dyn Hint + Send + Sync>),
    /// The machinery failed or the build was cancelled.
    Other(BuildError),
}

impl StepError {
    /// That the step failed because of `error`.
    pub(crate) fn of(error: impl Hint + Send + Sync + 'static) -> Self {
        Self::Because(Box::new(error))
    }
}

impl From<BuildError> for StepError {
    fn from(error: BuildError) -> Self {
        Self::Other(error)
    }
}

impl From<lamina_store::StoreError> for StepError {
    fn from(error: lamina_store::StoreError) -> Self {
        Self::Other(error.into())
    }
}
