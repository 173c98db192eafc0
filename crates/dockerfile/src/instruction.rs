//! What instructions are. Words are as they are written: with quotes, escapes and variables.

use serde::{Deserialize, Serialize};

/// An instruction in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The number of its first line, from 1.
    pub line: usize,
    /// Its lines as one, for people.
    pub text: String,
    /// What it is.
    pub kind: Kind,
}

/// What an instruction is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `FROM`.
    From {
        /// The image or stage.
        image: String,
        /// The stage's name.
        name: Option<String>,
        /// `--platform`.
        platform: Option<String>,
    },
    /// `ARG`.
    Arg(Vec<Argument>),
    /// `ENV`.
    Env(Vec<(String, String)>),
    /// `LABEL`.
    Label(Vec<(String, String)>),
    /// `RUN`.
    Run {
        /// The command.
        command: Command,
        /// Here-documents of the command.
        documents: Vec<Document>,
        /// `--mount`, in order.
        mounts: Vec<String>,
        /// `--network`.
        network: Option<String>,
    },
    /// `COPY`.
    Copy(Transfer),
    /// `ADD`.
    Add(Transfer),
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
    /// `HEALTHCHECK`; `None` takes that of the base away.
    Healthcheck(Option<Health>),
    /// `MAINTAINER`.
    Maintainer(String),
}

/// A declaration of `ARG`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// What it is unless it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A program and its arguments.
    Exec(Vec<String>),
    /// Text for the shell.
    Shell(String),
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Document {
    /// The word that ends it.
    pub name: String,
    /// Its lines.
    pub content: String,
    /// Whether variables in it count: the word is not quoted.
    pub expand: bool,
    /// Whether tabs before lines, which are gone here, do not count.
    pub chomp: bool,
}

/// What `COPY` or `ADD` brings where.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Transfer {
    /// The sources.
    pub sources: Vec<String>,
    /// Where they go.
    pub destination: String,
    /// Sources that are written here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<Document>,
    /// How.
    #[serde(flatten)]
    pub options: Options,
}

/// Flags of `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Options {
    /// `--from`: a stage or an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// `--chown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chown: Option<String>,
    /// `--chmod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chmod: Option<String>,
    /// `--link`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub link: bool,
    /// `--parents`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parents: bool,
    /// `--exclude`, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// `--checksum`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// `--unpack`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`, with times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The command.
    pub command: Command,
    /// `--interval`.
    pub interval: Option<u64>,
    /// `--timeout`.
    pub timeout: Option<u64>,
    /// `--start-period`.
    pub start_period: Option<u64>,
    /// `--start-interval`.
    pub start_interval: Option<u64>,
    /// `--retries`.
    pub retries: Option<u32>,
}
