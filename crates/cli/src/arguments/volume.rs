//! `modal volume`: its commands and options.

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};

use super::{Environment, Removal};

/// `modal volume`.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List the volumes
    List {
        /// One JSON array for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Make a volume
    Create {
        /// The volume's name
        #[arg(value_name = "NAME")]
        name: String,
        /// Modal's business: here both are the same
        #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u8).range(1..=2), hide = true)]
        version: Option<u8>,
        #[command(flatten)]
        environment: Environment,
    },
    /// List files of a volume
    Ls {
        /// The volume's name
        #[arg(value_name = "NAME")]
        name: String,
        /// A directory or file of the volume
        #[arg(value_name = "PATH", default_value = "/")]
        path: String,
        /// One JSON array for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Copy files of a volume to this machine
    #[command(after_help = "\
Examples:
  modal volume get models weights.bin           to ./weights.bin
  modal volume get models weights.bin -         to standard output
  modal volume get models checkpoints results   the directory, to results/checkpoints")]
    Get {
        /// The volume's name
        #[arg(value_name = "NAME")]
        name: String,
        /// A file or directory of the volume
        #[arg(value_name = "REMOTE")]
        remote: String,
        /// Where to: a file, a directory, or `-` for standard output
        #[arg(value_name = "LOCAL", default_value = ".", value_hint = ValueHint::AnyPath)]
        local: String,
        /// Replace local files that are there
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Copy local files into a volume
    #[command(after_help = "\
Examples:
  modal volume put models weights.bin             to /weights.bin
  modal volume put models weights.bin old/        to /old/weights.bin
  modal volume put models checkpoints /latest     the directory's files, to /latest

The files come into the volume when all have been read: a command that is interrupted
before changes nothing.")]
    Put {
        /// The volume's name
        #[arg(value_name = "NAME")]
        name: String,
        /// A local file or directory
        #[arg(value_name = "LOCAL", value_hint = ValueHint::AnyPath)]
        local: PathBuf,
        /// Where to; with `/` at its end, the local name is kept
        #[arg(value_name = "REMOTE", default_value = "/")]
        remote: String,
        /// Replace files that are there
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Copy within a volume
    Cp {
        /// The volume's name
        #[arg(value_name = "NAME")]
        name: String,
        /// What is copied, and last where to
        #[arg(value_name = "PATH", num_args = 2.., required = true)]
        paths: Vec<String>,
        /// Copy directories with all that they hold
        #[arg(short, long)]
        recursive: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Remove a file of a volume
    Rm {
        /// The volume's name
        #[arg(value_name = "NAME")]
        name: String,
        /// The file or directory
        #[arg(value_name = "PATH")]
        path: String,
        /// Remove a directory with all that it holds
        #[arg(short, long)]
        recursive: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Give a volume another name
    Rename {
        /// The volume's name
        #[arg(value_name = "OLD")]
        old: String,
        /// Its new name
        #[arg(value_name = "NEW")]
        new: String,
        /// Nothing is asked anyway
        #[arg(short, long, hide = true)]
        yes: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Remove a volume with all that it holds
    Delete(Removal),
}
