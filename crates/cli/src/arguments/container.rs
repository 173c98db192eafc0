//! Arguments of `modal container`.

use clap::{Args, Subcommand};

use super::{LogOptions, OfEnvironment};

/// `modal container`.
#[derive(Debug, Subcommand)]
pub(crate) enum Container {
    /// List the containers that run, the oldest first
    List {
        /// One JSON array for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        of: OfEnvironment,
    },
    /// Print what a container has written to standard output and standard error
    #[command(after_help = "\
The last 256 KiB are kept while a container runs. What the containers of deployed and detached apps
have written is in the logs of these (`modal app logs`): it is shown after the end of a container
as well, with what became of it.")]
    Logs {
        /// The id of a container, or a beginning of it
        #[arg(value_name = "CONTAINER")]
        container: String,
        #[command(flatten)]
        options: LogOptions,
        /// All that is kept
        #[arg(long, conflicts_with_all = ["tail", "since", "until"])]
        all: bool,
        #[command(flatten)]
        of: OfEnvironment,
    },
    /// Run a command in a running container
    #[command(after_help = "\
Examples:
  modal container exec ta-0a1b2c ps aux
  modal container exec ta-0a1b2c bash             a shell on a terminal of its own, if this is one
  echo 1 | modal container exec ta-0a1b2c cat     standard input, too
  modal container exec ta-0a1b2c -- ls -l         what follows -- is the command, whatever it looks like

The command has the environment, directory, user and limits of the container, but not its entrypoint. Its exit code
is passed on. It ends with this one, and with the container.")]
    Exec(Exec),
    /// Stop a running container: its inputs run in others
    #[command(after_help = "\
Exit hooks of a class have 30 seconds. An input that runs begins anew in another container, without counting as
failed; one that has yielded values ends with an error.")]
    Stop {
        /// The id of a container, or a beginning of it
        #[arg(value_name = "CONTAINER")]
        container: String,
        /// Let it end the inputs that it runs; it gets no further ones
        #[arg(long)]
        graceful: bool,
        #[command(flatten)]
        of: OfEnvironment,
    },
}

/// `modal container exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Give the command a terminal of its own (default: if this is one)
    #[arg(long, overrides_with = "no_pty")]
    pub(crate) pty: bool,

    /// Connect the command to standard input and output as they are
    #[arg(long)]
    pub(crate) no_pty: bool,

    #[command(flatten)]
    pub(crate) of: OfEnvironment,

    /// The id of a container, or a beginning of it
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,

    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true, num_args = 1..)]
    pub(crate) command: Vec<String>,
}
