//! The arguments of `modal image logs`.

use clap::{Args, value_parser};

use super::Environment;

/// `modal image logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  modal image logs trainer:v1              the last layer's log
  modal image logs im-0a1b2c --layers 3    the logs of the last three layers
  modal image logs im-0a1b2c --all         the logs of all layers, the base's first")]
pub(crate) struct ImageLogs {
    /// An image id, a beginning of it, or a published name
    #[arg(value_name = "REF")]
    pub(crate) reference: String,

    /// How many layers, counted from the last
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..), conflicts_with = "all")]
    pub(crate) layers: u32,

    /// All layers
    #[arg(long)]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) environment: Environment,
}
