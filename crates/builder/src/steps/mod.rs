//! One module per kind of step. Each says what enters the step's key, and how its layer is made.

mod apt;
mod base;
mod commands;
mod credentials;
mod files;
mod python;
mod requirements;

use std::borrow::Cow;

pub(crate) use apt::keeps_pristine;
use lamina_events::{CancelToken, Event, Sink};
use lamina_ground::{Hint, causes};
use lamina_image::{Facts, KeyMaterial, Node, Step};
use lamina_store::{CommitRules, Committed, Lock, Work};
pub(crate) use requirements::read as read_requirements;

use crate::BuildError;
use crate::log::StepLog;
use crate::schedule::Tools;
use crate::state::State;

/// A step whose inputs have been read: its key is known, and it can be executed.
pub(crate) enum Plan {
    Base(base::BasePlan),
    Apt(apt::AptPlan),
    Python(Box<python::PythonPlan>),
    Commands(commands::CommandsPlan),
    Files(files::FilesPlan),
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
    /// A layer that the store has already.
    Layer(Committed),
}

/// What executing a step has at hand.
pub(crate) struct StepContext<'a> {
    pub(crate) tools: &'a Tools,
    pub(crate) node: &'a Node,
    pub(crate) parent: &'a State,
    pub(crate) number: u64,
    pub(crate) sink: &'a Sink,
    pub(crate) cancel: &'a CancelToken,
}

impl StepContext<'_> {
    /// Reports how far the step is.
    pub(crate) fn progress(&self, what: &str, done: u64, total: u64) {
        self.sink.emit(Event::StepProgress { step: self.number, what: what.to_owned(), done, total });
    }
}

/// Why a step's command did not work; the schedule adds log and title.
pub(crate) enum StepError {
    /// The user's command, package or file is at fault: the step failed.
    Failed { message: String, hint: Option<String> },
    /// The machinery failed or the build was cancelled.
    Other(BuildError),
}

impl StepError {
    /// That the step failed because of `error`.
    pub(crate) fn of(error: &(impl Hint + 'static)) -> Self {
        Self::Failed { message: causes(error), hint: error.hint().map(Cow::into_owned) }
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

/// Reads what a step depends on and computes its key material, beside what every step shares.
pub(crate) fn plan(tools: &Tools, node: &Node, parent: &State, material: &mut KeyMaterial) -> Result<Plan, BuildError> {
    match &node.step {
        Step::DebianSlim { python_version, local_python } => {
            base::plan(python_version.as_deref(), local_python, material).map(Plan::Base)
        }
        Step::AptInstall { packages } => Ok(Plan::Apt(apt::plan(packages, material))),
        Step::PipInstall { .. } | Step::UvPipInstall { .. } => {
            python::plan(&node.step, material).map(|plan| Plan::Python(Box::new(plan)))
        }
        Step::RunCommands { commands } => Ok(Plan::Commands(commands::plan(commands, material))),
        Step::CopyFiles { files } => files::plan(tools, files, parent, material).map(Plan::Files),
        Step::Env { .. } | Step::Workdir { .. } | Step::AttachFiles { .. } => {
            Err(BuildError::Invalid { message: format!("`{}` makes no layer", node.title), hint: None })
        }
    }
}

impl Plan {
    /// Executes the step.
    pub(crate) fn execute(self, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        match self {
            Self::Base(plan) => plan.execute(context, log),
            Self::Apt(plan) => plan.execute(context, log),
            Self::Python(plan) => plan.execute(context, log),
            Self::Commands(plan) => plan.execute(context, log),
            Self::Files(plan) => Ok(plan.into_made()),
        }
    }
}
