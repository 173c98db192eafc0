//! `modal config` and `modal profile`: their commands and options.

use clap::Subcommand;

/// `modal config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print the settings that a profile can have, and where each value is from
    Show {
        /// One JSON object for programs
        #[arg(long)]
        json: bool,
    },
    /// Give the profile in use another environment
    SetEnvironment {
        /// Name of the environment
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// `modal profile`.
#[derive(Debug, Subcommand)]
pub(crate) enum Profile {
    /// List the profiles, with a mark at the one in use
    List {
        /// One JSON array for programs
        #[arg(long)]
        json: bool,
    },
    /// Print the name of the profile in use
    Current,
    /// Make a profile the active one
    Activate {
        /// Name of the profile
        #[arg(value_name = "PROFILE")]
        name: String,
    },
}
