//! Running containers in their user's hands: listing them, running further commands in them, reading what they print,
//! stopping them. The process that runs a container does it, for whoever asks at its socket.

mod client;
mod server;

use std::borrow::Cow;

use lamina_apps::AppsError;
use lamina_events::Printer;
use lamina_ground::Hint;
use lamina_sandbox::TerminalSize;
use lamina_wire::{Sender, WireError};
use serde::{Deserialize, Serialize};

use crate::EngineError;

pub use client::{Command, Containers, FoundContainer, is_container_id};
pub(crate) use server::Reception;

/// What is asked of a process that runs containers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Request {
    /// Which there are.
    List,
    /// Run a further command in one. Descriptors: its standard input, output and error, which count without a terminal.
    Exec {
        container: String,
        argv: Vec<String>,
        /// Rows and columns of its terminal, if it gets one.
        terminal: Option<(u16, u16)>,
        /// What `TERM` is in it.
        kind: Option<String>,
    },
    /// Hand on a signal to the command that this connection has started.
    Signal { number: i32 },
    /// Tell what one has printed last, and go on with what it prints.
    Logs { container: String, follow: bool },
    /// Have one leave, after its inputs have ended when that is to be graceful; answered when it has gone.
    Stop { container: String, graceful: bool },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Answer {
    /// All of them, the oldest first.
    Containers { containers: Vec<ContainerRecord> },
    /// The command runs. Descriptor: the outer end of its terminal, if it has one.
    Started,
    /// The command has ended, with a code unless a signal ended it.
    Exited { code: Option<i32>, signal: Option<i32> },
    /// The payload was printed, at some time in microseconds since 1970.
    Output {
        is_error: bool,
        #[serde(default)]
        time: u64,
        #[serde(default, flatten)]
        printer: Printer,
    },
    /// What was asked for is complete.
    Done,
    /// It cannot be done.
    Failed { message: String, hint: Option<String> },
}

/// What can go wrong with a running container.
#[derive(Debug, thiserror::Error)]
pub enum ContainersError {
    /// No container has this id.
    #[error("there is no running container `{target}`: `modal container list` shows what there is{meant}")]
    Unknown {
        /// What was asked for.
        target: String,
        /// What may have been meant.
        meant: String,
    },
    /// Several containers match an abbreviated id.
    #[error("`{prefix}` is ambiguous: it matches {matches}; type more of the id")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The matching ids.
        matches: String,
    },
    /// The process that runs it says why not.
    #[error("{message}")]
    Refused {
        /// What it says.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The process that runs it has ended, and the container with it.
    #[error("the container has ended, and the process that ran it")]
    Gone,
    /// The process that runs it is of another version.
    #[error("the process that runs the container cannot be understood: {0}")]
    Protocol(String),
    /// The connection with that process failed.
    #[error(transparent)]
    Connection(#[from] WireError),
    /// The sockets of such processes cannot be looked up.
    #[error(transparent)]
    Apps(#[from] AppsError),
    /// The store cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A descriptor cannot be had.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Hint for ContainersError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Refused { hint, .. } => hint.as_deref().map(Cow::Borrowed),
            Self::Apps(error) => error.hint(),
            Self::Engine(error) => error.hint(),
            _ => None,
        }
    }
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// `ta-…`.
    pub container_id: String,
    /// `ap-…`; nothing of a shell, which belongs to no app.
    pub app_id: String,
    /// The name of the app, if it has one.
    pub app_name: Option<String>,
    /// The function or class that it serves; nothing of a shell.
    pub function: String,
    /// When it started, in seconds since 1970.
    pub started: u64,
}

impl ContainerRecord {
    /// Whether a shell runs in it, and no function.
    #[must_use]
    pub fn is_shell(&self) -> bool {
        self.function.is_empty()
    }
}

impl Answer {
    fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), hint: None }
    }
}

/// Sends a message without anything else.
fn tell<M: Serialize>(sender: &Sender, message: &M) -> Result<(), WireError> {
    sender.send(&encode(message), &[], &[])
}

fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    // Plain data without maps whose keys are no texts.
    serde_json::to_vec(message).unwrap_or_default()
}

fn size((rows, columns): (u16, u16)) -> TerminalSize {
    TerminalSize { rows, columns }
}
