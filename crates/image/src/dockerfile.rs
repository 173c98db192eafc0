//! Dockerfiles, and the steps that their instructions are.

use std::collections::BTreeMap;

use lamina_dockerfile::{Command, Document, Transfer};
use serde::{Deserialize, Serialize};

use crate::{Healthcheck, Ignore};

/// `from_dockerfile`, and `dockerfile_commands` as lines that follow an image: the plain steps that it stands for are
/// [`DockerfileStep`]s.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dockerfile {
    /// What it is called in messages.
    pub name: String,
    /// Its text.
    pub text: String,
    /// The directory that `COPY` and `ADD` take files from.
    #[serde(default)]
    pub context: Option<DockerfileContext>,
    /// Values of `ARG`.
    #[serde(default)]
    pub build_args: BTreeMap<String, String>,
    /// The environment of published images that it names without one.
    #[serde(default)]
    pub environment: String,
    /// The stage that is wanted; `None` is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// The local directory of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DockerfileContext {
    /// Absolute local path.
    pub source: String,
    /// What is never taken.
    #[serde(default)]
    pub ignore: Option<Ignore>,
    /// Further files: absolute local paths, by their paths in the directory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// One instruction of a Dockerfile as a step. Words are as they are written: variables are known when it is planned.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DockerfileStep {
    /// Where it is.
    pub place: Place,
    /// The character that takes the next one as it is.
    pub escape: char,
    /// What it does.
    pub action: Action,
}

/// A line of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// What the Dockerfile is called.
    pub file: String,
    /// The line's number, from 1.
    pub line: usize,
    /// The instruction.
    pub text: String,
}

impl Place {
    /// A message about this line, which it shows.
    #[must_use]
    pub fn message(&self, what: &str) -> String {
        let Self { file, line, text } = self;
        format!("{file}:{line}: {what}\n  {line} | {text}")
    }
}

/// What an instruction does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Begins a stage on an image, or ends the last one: no `ARG` holds beyond it.
    Stage,
    /// Begins a stage on another one, or ends one that others may begin on: values of `ARG` go on, but for variables of the image.
    Inherit,
    /// `ARG`, with the value that was given or that its declaration above all stages has.
    Arg {
        /// Its name.
        name: String,
        /// The value that is given.
        given: Option<String>,
        /// Its own default.
        default: Option<String>,
    },
    /// `ENV`.
    Env(Vec<(String, String)>),
    /// `LABEL`.
    Label(Vec<(String, String)>),
    /// `RUN`.
    Run(DockerfileRun),
    /// `COPY` or `ADD`; a further input is what `--from` names.
    Copy(DockerfileCopy),
    /// `WORKDIR`.
    Workdir(String),
    /// `USER`.
    User(String),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `CMD`.
    Cmd(Command),
    /// `EXPOSE`.
    Expose(Vec<String>),
    /// `VOLUME`.
    Volume(Vec<String>),
    /// `STOPSIGNAL`.
    Stopsignal(String),
    /// `HEALTHCHECK`; a command for the shell is one argument behind `CMD-SHELL`.
    Healthcheck(Healthcheck),
    /// `MAINTAINER`.
    Maintainer(String),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DockerfileRun {
    /// The command.
    pub command: Command,
    /// Its here-documents.
    pub documents: Vec<Document>,
    /// Values of `--mount`; further inputs are what their `from=` names, in order.
    pub mounts: Vec<String>,
    /// `--network`.
    pub network: Option<String>,
    /// Where mounts without `from=` are from.
    pub context: Option<DockerfileContext>,
    /// Proxies that were given without a declaration: no result depends on them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proxies: BTreeMap<String, String>,
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DockerfileCopy {
    /// What is brought where.
    pub transfer: Transfer,
    /// Whether it is `ADD`, which downloads addresses and unpacks archives.
    pub is_add: bool,
    /// Where sources without `--from` are.
    pub context: Option<DockerfileContext>,
}

impl DockerfileStep {
    /// Whether it makes a layer.
    #[must_use]
    pub fn makes_layer(&self) -> bool {
        matches!(self.action, Action::Run(_) | Action::Copy(_) | Action::Workdir(_))
    }
}
