//! `modal dict` and `modal queue`: their commands and options.

use clap::{Args, Subcommand};

use super::{Environment, Removal};

/// `modal dict`.
#[derive(Debug, Subcommand)]
pub(crate) enum Dict {
    /// List the dicts that are kept
    List(ListOptions),
    /// Make a dict; one of that name stays as it is
    Create(Named),
    /// Print the value of a key, which is a text
    Get {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// The key
        #[arg(value_name = "KEY")]
        key: String,
        #[command(flatten)]
        environment: Environment,
    },
    /// Print keys and values
    Items {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// How many entries
        #[arg(value_name = "N", default_value_t = 20)]
        count: usize,
        /// All entries
        #[arg(short, long)]
        all: bool,
        /// Values as Python writes them (`repr`)
        #[arg(short, long)]
        repr: bool,
        /// One JSON array for programs, with the texts that are shown otherwise
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Remove all entries of a dict
    Clear {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Remove a dict with all that it holds
    Delete(Removal),
}

/// `modal queue`.
#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// List the queues that are kept
    List(ListOptions),
    /// Make a queue; one of that name stays as it is
    Create(Named),
    /// Print the first values of a queue, which stay there
    Peek {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// How many values
        #[arg(value_name = "N", default_value_t = 1)]
        count: usize,
        /// The partition
        #[arg(short, long, value_name = "KEY")]
        partition: Option<String>,
        #[command(flatten)]
        environment: Environment,
    },
    /// Print how many values a queue has
    Len {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// The partition
        #[arg(short, long, value_name = "KEY", conflicts_with = "total")]
        partition: Option<String>,
        /// Those of all partitions
        #[arg(short, long)]
        total: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Remove the values of a queue
    Clear {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// The partition
        #[arg(short, long, value_name = "KEY", conflicts_with = "all")]
        partition: Option<String>,
        /// Those of all partitions
        #[arg(short, long)]
        all: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Remove a queue with all that it holds
    Delete(Removal),
}

/// How what is kept is listed.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// One JSON array for programs
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) environment: Environment,
}

/// One that is named.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) environment: Environment,
}
