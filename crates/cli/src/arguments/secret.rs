//! `modal secret`: its commands and options.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::{Environment, Removal};

/// `modal secret`.
#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// List the secrets that are kept; their values are not shown
    List {
        /// One JSON array for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Keep environment variables as a secret
    Create(CreateSecret),
    /// Remove a secret
    Delete(Removal),
}

/// `modal secret create`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  modal secret create hf HF_TOKEN=-              type or paste the value in your editor
  modal secret create db USER=ada HOST=db.lan    values in the command's words, which the shell may remember
  modal secret create all --from-dotenv .env     the variables of a dotenv file
  modal secret create all --from-json s.json     those of a JSON object of strings

Programs get them with `secrets=[modal.Secret.from_name(\"hf\")]`.
The file is below the store, and only you may read it.")]
pub(crate) struct CreateSecret {
    /// The secret's name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// Variables; with `-` as its value, your editor asks for it
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) variables: Vec<String>,

    /// A dotenv file with variables
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) from_dotenv: Option<PathBuf>,

    /// A JSON file with an object of strings
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) from_json: Option<PathBuf>,

    /// Replace a secret of that name
    #[arg(long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) environment: Environment,
}
