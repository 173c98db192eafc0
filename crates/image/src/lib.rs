//! What an image is: a base and a chain of steps, in canonical form, and the keys computed from it.
//!
//! This crate is pure: it reads no file and asks no clock. The Python package sends a [`Definition`]; the planner turns
//! each [`Step`] together with its parent's content and the digests of its local inputs into [`KeyMaterial`], whose
//! digest is the step's [`LayerKey`].

mod config;
pub mod container;
mod definition;
mod digest;
mod dockerfile;
mod facts;
mod files;
mod gpu;
mod key;
pub mod patterns;
mod redact;
mod step;
mod volumes;

pub use config::{Healthcheck, RuntimeConfig};
pub use definition::{Definition, DefinitionError, Graph, KeptSecret, Node, NodeId, SecretValues};
pub use digest::{Digest, DigestError, Hasher};
pub use dockerfile::{
    Action, Dockerfile, DockerfileContext, DockerfileCopy, DockerfileRun, DockerfileStep, Place as DockerfilePlace,
};
pub use facts::{Facts, ForeignPython, Libc, Package, PackageKind, Python, RecordedFacts, System};
pub use files::{FileEntry, FileKind, FileSet, Ignore, Name};
pub use gpu::{GpuRequest, GpuRequestError};
pub use key::{BUILDER_VERSION, KeyMaterial, LayerKey, image_id};
pub use redact::{MASK, redact, redact_value};
pub use step::{
    AddPython, AptInstall, AttachFiles, Cmd, CopyFiles, DebianSlim, Entrypoint, Env, ExistingImage, FromRegistry,
    FromScratch, FunctionCode, IndexOptions, Micromamba, MicromambaInstall, PipInstall, PipInstallPrivateRepos, Place,
    PoetryInstallFromFile, Pyproject, RegistryProvider, Release, RunCommands, RunFunction, Shell, Step, UvPipInstall,
    UvSync, Workdir,
};
pub use volumes::{VolumeMount, VolumeReference};
