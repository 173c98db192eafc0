//! The arguments of the commands with which images come into the store.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{Environment, Output};

/// `modal image pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  modal image pull python:3.11-slim
  modal image pull registry.example/team/trainer:v1 --name trainer:v1

The registry is asked what the tag is now; layers that are in the store are not fetched again. Programs take
the image as `modal.Image.from_registry(REF)`, or by its name as `modal.Image.from_name(NAME)`.")]
pub(crate) struct ImagePull {
    /// The image's name in its registry, with a tag or a digest
    #[arg(value_name = "REF")]
    pub(crate) reference: String,

    /// The name that the image gets here
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,

    /// A named secret with the login, instead of the host's
    #[arg(long, value_name = "NAME")]
    pub(crate) secret: Option<String>,

    #[command(flatten)]
    pub(crate) environment: Environment,

    #[command(flatten)]
    pub(crate) output: Output,
}

/// `modal image import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  modal image import trainer.tar --name trainer:v1
  docker save trainer | modal image import - --name trainer
  modal image import rootfs.tar.zst            an image of these files, without settings

FILE is what `podman save`, `docker save`, skopeo or `modal image export` make: an OCI layout as an archive
or a directory, a Docker archive, or an archive of files; all of them may be compressed with gzip or zstd.
Of several images, programs name one: `modal.Image.from_registry(\"oci-archive:FILE:NAME\")`.")]
pub(crate) struct ImageImport {
    /// The file or directory; `-` is standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub(crate) file: PathBuf,

    /// The name that the image gets here
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,

    #[command(flatten)]
    pub(crate) environment: Environment,

    #[command(flatten)]
    pub(crate) output: Output,
}
