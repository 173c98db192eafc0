//! The arguments of `modal image build`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{Environment, Output};

/// `modal image build`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  modal image build . -t trainer           ./Dockerfile; the image is `trainer:latest` then
  modal image build . -t trainer:v2 -f docker/train.Dockerfile --build-arg CUDA=12
  modal image build .                      no name: its id is printed

Programs take it as `modal.Image.from_name(\"trainer\")`; `modal image names` lists names.")]
pub(crate) struct ImageBuild {
    /// The directory that COPY and ADD take files from
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) context: PathBuf,

    /// The name that the image gets
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Option<String>,

    /// The Dockerfile (default: `Dockerfile` in CONTEXT)
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,

    /// The value of an ARG; without one that of the environment variable (may be repeated)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,

    /// The stage to build (default: the last one)
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,

    /// The platform, which has to be this machine's
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,

    /// A named secret that RUN has, as environment variables and by `--mount=type=secret` (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub(crate) secret: Vec<String>,

    /// A named secret with the login for the registry of its images, instead of the host's
    #[arg(long, value_name = "NAME", conflicts_with = "registry_secret_from_env")]
    pub(crate) registry_secret: Option<String>,

    /// Environment variables with that login, such as `REGISTRY_USERNAME,REGISTRY_PASSWORD`
    #[arg(long, value_name = "NAME,…")]
    pub(crate) registry_secret_from_env: Option<String>,

    /// Execute all instructions, also those that are cached
    #[arg(long)]
    pub(crate) force_build: bool,

    #[command(flatten)]
    pub(crate) environment: Environment,

    #[command(flatten)]
    pub(crate) output: Output,
}
