//! Errors of the engine.

use std::borrow::Cow;
use std::path::PathBuf;

use lamina_apps::{AppsError, DeploymentName};
use lamina_cache::CacheError;
use lamina_devices::DevicesError;
use lamina_ground::{Hint, Refusal, Subject};
use lamina_registry::RegistryError;
use lamina_sandbox::SandboxError;
use lamina_secrets::SecretsError;
use lamina_store::{ImageName, StoreError};
use lamina_volumes::VolumeError;
use lamina_wire::WireError;

/// What can go wrong when the engine is opened or asked something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no place for the store.
    #[error("there is no place for the store: set `MODAL_STORE` to an absolute path, or `HOME`")]
    NoStoreDirectory,
    /// `MODAL_STORE` is a relative path.
    #[error("`MODAL_STORE` is the relative path `{0}`: set it to an absolute one")]
    RelativeStore(PathBuf),
    /// No image has this id.
    #[error("there is no image `{0}` in the store: `modal image list` shows what there is")]
    UnknownImage(String),
    /// This cannot be an image's id.
    #[error("`{0}` is no image id: give `im-` and at least four characters of what `modal image list` shows")]
    NoImageId(String),
    /// An image is known, but its layers were removed.
    #[error("the layers of the image `{0}` are gone: run what it was built for again, which rebuilds it")]
    ImageGone(String),
    /// A local path cannot be taken along into a shell.
    #[error("local path `{path}` cannot be taken along: {reason}")]
    LocalPath {
        /// The path as it was given.
        path: PathBuf,
        /// Why not, and what to do.
        reason: &'static str,
    },
    /// There is no id map that makes sense, and the present user's may not be the one that the store was made with.
    #[error(
        "`{path}` {reason}, and the files of the store belong to the user id `{owner}`: put back the file that \
         was there when they were made, or set `MODAL_STORE` to another directory"
    )]
    IdMap {
        /// The file.
        path: PathBuf,
        /// What is wrong with it: `is missing`.
        reason: String,
        /// Who owns the files.
        owner: u32,
    },
    /// The store's files have other owners than its id map says.
    #[error(
        "the files of the store belong to the user id `{found}`, and not to `{recorded}`, as `{path}` has it: put back the \
         file that was there when they were made, or set `MODAL_STORE` to another directory"
    )]
    OtherOwner {
        /// The id map.
        path: PathBuf,
        /// The host's id of container root in it.
        recorded: u32,
        /// Who owns the files.
        found: u32,
    },
    /// The store was made with ids that the user does not have now.
    #[error(
        "the store was made with the user ids {recorded}, as `{path}` has it, and yours are {present} now: have the former \
         given back in `/etc/subuid` and `/etc/subgid`, or set `MODAL_STORE` to another directory"
    )]
    OtherIds {
        /// The id map.
        path: PathBuf,
        /// The ranges in it.
        recorded: String,
        /// The ranges that the user has.
        present: String,
    },
    /// The store of an ordinary user is of the time when the user was root in containers.
    #[error(
        "`{path}` is of a former version, with which containers ran under your own user id and could use up what the \
         kernel allows your other programs: remove the store with `modal store remove`; it is built anew"
    )]
    UserAsRoot {
        /// The file.
        path: PathBuf,
    },
    /// The Python side ended the conversation in a way that it should not.
    #[error("the connection with Python failed: {0}")]
    Connection(#[from] WireError),
    /// An app's process cannot be found, started or spoken with.
    #[error(transparent)]
    Apps(#[from] AppsError),
    /// The process of a deployed app was started in vain: it cannot use the app's present version.
    #[error("the app {app} cannot run: {reason}")]
    NotUsable {
        /// The app.
        app: DeploymentName,
        /// Why not.
        reason: String,
    },
    /// The process of a deployed app did not take over a version.
    #[error("the version was recorded, but the app's process did not take it over: {0}")]
    NotTakenOver(String),
    /// The Python side broke the protocol.
    #[error("the Python side broke the protocol: {0}")]
    Protocol(String),
    /// A sandbox or the helper processes failed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A named secret cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretsError),
    /// GPUs cannot be had.
    #[error(transparent)]
    Devices(#[from] DevicesError),
    /// A volume cannot be had.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// No image has this name.
    #[error("no image has the name `{0}` in the environment `{environment}`", environment = .0.environment)]
    NoSuchName(ImageName),
    /// An image cannot leave the store.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What was noted for shared caches cannot be uploaded.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file cannot be read or written; the message names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Hint for EngineError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Sandbox(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Secret(error) => error.hint(),
            Self::Devices(error) => error.hint(),
            Self::Volume(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::Cache(error) => error.hint(),
            Self::Apps(error) => error.hint(),
            Self::NoSuchName(_) => Some("`modal image names list` shows what there is; an id begins with `im-`".into()),
            Self::Io(error) => Refusal::of(Subject::Store, error)?.hint().map(Cow::Borrowed),
            _ => None,
        }
    }
}
