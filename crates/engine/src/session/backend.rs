//! What a conversation needs done.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use lamina_events::{CancelToken, Sink};
use lamina_functions::{ContainerSpec, Errands};
use serde_json::Value;

use crate::host::{Host, Hosts};
use crate::protocol::{
    AppRequest, DeployRequest, DeploymentErrand, Failure, Hello, ImageErrand, SecretErrand, VolumeErrand,
};

/// What the conversation needs done. A trait, so that the protocol is tested without a store.
pub(crate) trait Backend: Sync {
    /// Builds an app's images and makes its functions' pools.
    fn start(&self, hello: &Hello, app: &AppRequest, sink: &Sink, cancel: &CancelToken) -> Result<Started, Failure>;

    /// Builds the image of one function.
    fn describe(
        &self,
        hello: &Hello,
        app: &AppRequest,
        sink: &Sink,
        cancel: &CancelToken,
    ) -> Result<Described, Failure>;

    /// Does something with secrets that are kept under names; gives what was asked for.
    fn secret(&self, errand: SecretErrand) -> Result<Value, Failure>;

    /// What does errands with dictionaries and queues.
    fn errands(&self) -> Arc<dyn Errands>;

    /// Does something with volumes, with the descriptors that came along; gives what was asked for.
    fn volume(&self, errand: VolumeErrand, fds: Vec<OwnedFd>) -> Result<Value, Failure>;

    /// Builds one image; gives its id.
    fn build(&self, hello: &Hello, app: &AppRequest, sink: &Sink, cancel: &CancelToken) -> Result<Value, Failure>;

    /// Does something with images that were built.
    fn image(&self, errand: ImageErrand) -> Result<Value, Failure>;

    /// The apps that run in this process.
    fn hosts(&self) -> &Hosts;

    /// Connects with the process in which another app runs; gives that app's id.
    fn connect(&self, app: &str) -> Result<(String, UnixStream), Failure>;

    /// Builds an app's images and records it as a version of a deployed app; `request` is the message as it came.
    fn deploy(
        &self,
        hello: &Hello,
        request: &[u8],
        wanted: &DeployRequest,
        sink: &Sink,
        cancel: &CancelToken,
    ) -> Result<Value, Failure>;

    /// Connects with the process of a deployed app; gives the app's id.
    fn connect_deployed(&self, environment: &str, app: &str) -> Result<(String, UnixStream), Failure>;

    /// Does something with deployed apps.
    fn deployment(&self, errand: DeploymentErrand) -> Result<Value, Failure>;
}

/// An app that was started.
pub(crate) struct Started {
    /// The app.
    pub(crate) host: Arc<Host>,
    /// Image ids by node.
    pub(crate) images: BTreeMap<String, String>,
}

/// A function whose image was built for a shell.
#[derive(Debug, Clone)]
pub struct Described {
    /// The function's name.
    pub function: String,
    /// Its containers.
    pub container: ContainerSpec,
}
