//! Errors about GPUs.

use std::borrow::Cow;
use std::path::PathBuf;

use lamina_ground::{EnvVars, ErrorClass, Hint};
use lamina_image::GpuRequest;
use lamina_sandbox::SandboxError;
use lamina_store::{JobError, StoreError};

use crate::types;

/// Why a container cannot have the GPUs that it asks for.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// The setting is none.
    #[error("`{}` is `{_0}`: set it to `any` or `ignore`, or unset it", EnvVars::MODAL_GPU)]
    Setting(String),
    /// No GPU has such a name.
    #[error("`{0}` is no known type of GPU")]
    UnknownType(String),
    /// There is no GPU at all.
    #[error(
        "this machine has no GPU for `gpu=\"{}\"`: there is none in the CDI specifications of {}, and the NVIDIA driver has \
         none in `/proc/driver/nvidia/gpus`{}",
        wanted(asked),
        list(looked),
        and(problems)
    )]
    NoGpu {
        /// What was asked for.
        asked: Vec<GpuRequest>,
        /// The directories of specifications.
        looked: Vec<PathBuf>,
        /// What is wrong with specifications.
        problems: Vec<String>,
    },
    /// There are other GPUs, or too few of them.
    #[error("this machine does not have what `gpu=\"{}\"` asks for: it has {has}{}", wanted(asked), and(problems))]
    Absent {
        /// What was asked for.
        asked: Vec<GpuRequest>,
        /// What there is, in words.
        has: String,
        /// What is wrong with specifications.
        problems: Vec<String>,
    },
    /// A file of the host that a container has to have is missing.
    #[error("the GPU `{gpu}` cannot be used: {origin} names `{path}`, which is not there")]
    Gone {
        /// The name of the GPU.
        gpu: String,
        /// Where it is described.
        origin: String,
        /// What is missing.
        path: String,
    },
    /// The process that starts sandboxes with GPUs does not start.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The image cannot be looked at.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<JobError> for DevicesError {
    fn from(error: JobError) -> Self {
        Self::Store(error.into())
    }
}

impl DevicesError {
    /// The class that it is raised as in Python.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Setting(_) | Self::UnknownType(_) => ErrorClass::InvalidError,
            Self::NoGpu { .. } | Self::Absent { .. } => ErrorClass::NotFoundError,
            Self::Gone { .. } | Self::Sandbox(_) | Self::Store(_) => ErrorClass::ExecutionError,
        }
    }
}

impl Hint for DevicesError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        let text = match self {
            Self::Setting(_) => return None,
            Self::UnknownType(kind) => {
                let all = types::known().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                let nearest = types::nearest(kind).map(|name| format!("did you mean `{name}`? "));
                format!(
                    "{}known are {all}, `any`, and words of a model that this machine has",
                    nearest.unwrap_or_default()
                )
            }
            Self::NoGpu { .. } => format!("`{}=ignore` runs everything without GPUs", EnvVars::MODAL_GPU),
            Self::Absent { .. } => format!(
                "`{variable}=any` takes GPUs of any type, `{variable}=ignore` runs everything without GPUs",
                variable = EnvVars::MODAL_GPU
            ),
            Self::Gone { .. } => "the driver was changed since: write the specification anew \
                                  (`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`), or remove it"
                .to_owned(),
            Self::Sandbox(error) => return error.hint(),
            Self::Store(error) => return error.hint(),
        };
        Some(Cow::Owned(text))
    }
}

fn wanted(requests: &[GpuRequest]) -> String {
    requests.iter().map(ToString::to_string).collect::<Vec<_>>().join("\", \"")
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ")
}

fn and(problems: &[String]) -> String {
    if problems.is_empty() { String::new() } else { format!("; {}", problems.join("; ")) }
}
