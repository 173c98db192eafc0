//! The arguments of the commands with which images leave the store.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::Environment;

/// Which image is meant.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// An image id, a beginning of it, or a published name; with --with-functions a program, as for `modal run`
    #[arg(value_name = "REF")]
    pub(crate) reference: String,

    /// The image of a program's functions, with their source and what runs them: one call from the command line
    #[arg(long)]
    pub(crate) with_functions: bool,

    /// REF is an importable module, not a file
    #[arg(short, long, requires = "with_functions")]
    pub(crate) module: bool,
}

/// How layers are packed.
#[derive(Debug, Args)]
pub(crate) struct Packing {
    /// How layers are compressed (default: zstd, and those that came from elsewhere as they came)
    #[arg(long, value_name = "HOW", value_enum)]
    pub(crate) compression: Option<PackedAs>,

    /// Let files of layers that were built here keep their times, which then decide on digests as well
    #[arg(long)]
    pub(crate) keep_times: bool,
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PackedAs {
    /// Small and fast; Docker takes it from version 23 on
    #[default]
    Zstd,
    /// For programs that know nothing else
    Gzip,
    /// Not at all
    None,
}

/// `modal image push`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  modal image push trainer registry.example/team/trainer:v1
  modal image push im-0a1b2c localhost:5000/trainer --compression gzip
  modal image push app.py registry.example/team/app:v1 --with-functions

Logins are those of `docker login` and `podman login`. Only what the registry lacks is sent, and the image
is there once all of it is. What is printed names it by its digest.")]
pub(crate) struct ImagePush {
    #[command(flatten)]
    pub(crate) chosen: Chosen,

    /// What it is called in the registry
    #[arg(value_name = "TAG")]
    pub(crate) target: String,

    #[command(flatten)]
    pub(crate) packing: Packing,

    #[command(flatten)]
    pub(crate) environment: Environment,
}

/// `modal image export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  modal image export trainer --format oci-archive -o trainer.tar    for skopeo, podman, buildah
  modal image export trainer:v2 --format docker-archive -o - | docker load
  modal image export im-0a1b2c --format rootfs-tar -o - | tar -x -C rootfs
  modal image export app.py --with-functions --format docker-archive -o - | docker load

The same image has the same bytes wherever it was built: files that were made here have the time
2000-01-01 unless --keep-times is given. Values of secrets are never in it.")]
pub(crate) struct ImageExport {
    #[command(flatten)]
    pub(crate) chosen: Chosen,

    /// What is written
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) format: ExportFormat,

    /// The file, or for oci-dir and dockerfile the directory; `-` is standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub(crate) output: PathBuf,

    /// Replace a file that is there
    #[arg(short, long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) packing: Packing,

    #[command(flatten)]
    pub(crate) environment: Environment,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// The OCI image layout as an archive
    OciArchive,
    /// The OCI image layout as a directory
    OciDir,
    /// What `docker save` makes
    DockerArchive,
    /// All files, without layers and settings
    RootfsTar,
    /// A directory with a Dockerfile that adds all files and has the settings
    Dockerfile,
}
