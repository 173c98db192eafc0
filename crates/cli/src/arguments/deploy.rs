//! Arguments of `modal deploy`.

use std::ffi::OsString;

use clap::{Args, ValueEnum, ValueHint};

use super::Output;

/// `modal deploy`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  modal deploy app.py                 the app `app` of a file, or its only one
  modal deploy app.py::other          the app `other` of a file that has several
  modal deploy -m package.app         the app of a module
  modal deploy --tag v2 app.py        a version with a name of yours: `modal app history` shows it

What the app needs is kept in the store: its source, its images, the values of its secrets. Its process starts
when it is called, and ends when it has nothing to do. `modal app list` shows deployed apps, `modal app stop`
ends one for good. Deploying again makes a new version, unless nothing has changed.")]
pub(crate) struct Deploy {
    /// A Python file or, with -m, a module, and which app of it
    #[arg(value_name = "REF", value_hint = ValueHint::FilePath)]
    pub(crate) reference: OsString,

    /// REF names a module, not a file
    #[arg(short, long)]
    pub(crate) module: bool,

    /// Name of the app, instead of its own
    #[arg(short, long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Name of the environment to deploy to
    #[arg(short, long, value_name = "NAME")]
    pub(crate) env: Option<String>,

    /// What to call this version
    #[arg(long, value_name = "TAG", default_value = "")]
    pub(crate) tag: String,

    /// What becomes of the inputs that the former version runs
    #[arg(long, value_enum, default_value_t)]
    pub(crate) strategy: Strategy,

    /// Then print what the app prints, until Ctrl-C or `modal app stop`
    #[arg(long)]
    pub(crate) stream_logs: bool,

    /// Put the time in front of what containers print
    #[arg(long, requires = "stream_logs")]
    pub(crate) timestamps: bool,

    #[command(flatten)]
    pub(crate) output: Output,
}

/// What becomes of the inputs of the former version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strategy {
    /// They end on it, and further ones get the new version
    #[default]
    Rolling,
    /// They begin anew on the new version, and the containers of the former one are ended
    Recreate,
}

impl Strategy {
    /// As it is written.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::Recreate => "recreate",
        }
    }
}
