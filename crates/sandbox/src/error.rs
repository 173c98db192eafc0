//! What can go wrong with sandboxes.

use std::borrow::Cow;
use std::io;

use lamina_ground::{EnvVars, Hint, Refusal, Subject};
use lamina_wire::WireError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The command was not found in the image.
    #[error("the command `{command}` was not found in the image (PATH: `{path}`): install it or give its full path")]
    CommandNotFound {
        /// The first word of the command.
        command: String,
        /// The `PATH` it was looked for in.
        path: String,
    },
    /// The command is there but cannot be executed.
    #[error("the command `{command}` of the image cannot be executed: {source}")]
    NotExecutable {
        /// The first word of the command.
        command: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The working directory cannot be entered.
    #[error("the working directory `{path}` cannot be entered in the image: {source}")]
    WorkingDirectory {
        /// The directory.
        path: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The image does not have the user that the command is to run as.
    #[error("the image has no {what} for `{name}`: make it before it is used (`{path}` does not name it)")]
    UnknownUser {
        /// What was asked for.
        name: String,
        /// Whether the user or the group is missing.
        what: String,
        /// Where it was looked for.
        path: String,
    },
    /// The image has more layers than an overlay takes.
    #[error(
        "the image has {count} layers, and Linux lays {most} over one another at most: make fewer of them, with several commands or \
         files in one step"
    )]
    Layers {
        /// How many it has.
        count: usize,
        /// The most.
        most: usize,
    },
    /// Something else failed while the sandbox was set up.
    #[error("the sandbox could not be set up: {what} `{path}`: {source}")]
    Setup {
        /// What was being done.
        what: String,
        /// The path or name it was done to.
        path: String,
        /// What that belongs to.
        subject: Subject,
        /// What the kernel says.
        source: io::Error,
    },
    /// What was to be mounted is not there any more.
    #[error("the sandbox could not be set up: `{path}` of the store was removed meanwhile")]
    Gone {
        /// What it was.
        path: String,
    },
    /// The kernel refuses user namespaces.
    #[error("this machine refuses user namespaces: {source}. `modal doctor` says how to allow them")]
    UserNamespace {
        /// What the kernel says.
        source: io::Error,
    },
    /// A part of the host that sandboxes were to be given cannot be reached.
    #[error("the host resource `{name}` cannot be reached at `{path}`: {source}. Make it, or correct the path")]
    Resource {
        /// Its name.
        name: String,
        /// Where it was looked for.
        path: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// A sandbox asks for a part of the host that was not handed over.
    #[error("there is no host resource `{name}` for the sandbox: name it when the engine is opened")]
    UnknownResource {
        /// The name.
        name: String,
    },
    /// The id map could not be written.
    #[error("the user ids of the store cannot be mapped: {reason}")]
    IdMap {
        /// What went wrong: what the kernel or a program says, in its words.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// What is to stay free of the disk is no number.
    #[error("`{}` is `{value}`, which is no number of MiB", EnvVars::MODAL_STORE_RESERVE)]
    Reserve {
        /// What the variable is.
        value: String,
    },
    /// A request that cannot be meant.
    #[error("invalid sandbox: {0}")]
    Invalid(String),
    /// The launcher or a sandbox's pid 1 is gone.
    #[error("the process that starts sandboxes has ended unexpectedly: start the command again")]
    Lost,
    /// The connection with a helper process failed.
    #[error("the connection with the helper processes failed: {0}")]
    Wire(#[from] WireError),
    /// A message of a helper process is not understood.
    #[error("a message of the helper processes is not understood: {0}")]
    Message(#[from] serde_json::Error),
    /// A file or process operation of the engine failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl SandboxError {
    /// The kernel's answer behind a connection's failure.
    pub(crate) fn errno(&self) -> rustix::io::Errno {
        let error = match self {
            Self::Io(error) | Self::Wire(WireError::Io(error)) => rustix::io::Errno::from_io_error(error),
            _ => None,
        };
        error.unwrap_or(rustix::io::Errno::IO)
    }
}

impl Hint for SandboxError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        let refusal = match self {
            Self::Setup { subject, source, .. } => Refusal::of(*subject, source),
            Self::NotExecutable { source, .. } | Self::WorkingDirectory { source, .. } => {
                Refusal::of(Subject::Image, source)
            }
            Self::Io(error) | Self::Wire(WireError::Io(error)) => Refusal::of(Subject::Machine, error),
            Self::Gone { .. } => {
                return Some("a volume that is deleted is gone for whoever has it: run the app again".into());
            }
            Self::IdMap { hint, .. } => return Some(hint.into()),
            Self::Reserve { .. } => return Some("set it to a whole number such as `1024`, or unset it".into()),
            _ => None,
        };
        refusal?.hint().map(Cow::Borrowed)
    }
}

impl From<rustix::io::Errno> for SandboxError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}
