//! Who keeps the app that a client has come to, and what the client may do.

use std::sync::{Arc, Weak};

use lamina_functions::{CallId, Callee, Caller, call_graph};
use lamina_ground::ErrorClass;
use serde_json::Value;

use crate::host::Host;
use crate::protocol::{Failure, Hello, PROTOCOL};

/// The process that a guest has come to.
pub(crate) trait Keeper: Sync {
    /// The app with this id, in this version or else the current one; nothing if the engine knows which it runs.
    fn host(&self, app: &str, version: Option<u32>) -> Result<Option<Arc<Host>>, Failure>;

    /// Takes over the version that is the current one now, at once or when the inputs of the former one have ended.
    fn update(&self, recreate: bool) -> Result<(), Failure>;

    /// What runs a call that is kept, if something does.
    fn kept_callee(&self, _name: &str) -> Option<(CallId, Weak<dyn Callee>)> {
        None
    }

    /// Has `caller` hear how a call ends, or has ended, that is kept; false if nothing is known of it.
    fn wait_for(&self, _name: &str, _caller: Arc<dyn Caller>) -> Result<bool, Failure> {
        Ok(false)
    }

    /// How many inputs a call has that is kept.
    fn inputs_of(&self, name: &str) -> Result<usize, Failure> {
        Err(Failure::new(ErrorClass::NotFoundError, format!("there is no call `{name}` here")))
    }

    /// What a call has called.
    fn graph_of(&self, name: &str) -> Result<Value, Failure> {
        Ok(call_graph(name)?)
    }

    /// Whether guests may stop the app.
    fn refuse_stop(&self) -> Result<(), Failure>;

    /// A guest has stopped the app: the process ends.
    fn stopped(&self);
}

/// The process of a detached app.
pub(crate) struct OnStop<'a>(pub(crate) &'a (dyn Fn() + Sync));

impl Keeper for OnStop<'_> {
    fn host(&self, _app: &str, _version: Option<u32>) -> Result<Option<Arc<Host>>, Failure> {
        Ok(None)
    }

    fn update(&self, _recreate: bool) -> Result<(), Failure> {
        Err(Failure::new(ErrorClass::ConflictError, "the app is not deployed: it has no versions"))
    }

    fn refuse_stop(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn stopped(&self) {
        (self.0)();
    }
}

/// What a client may do.
#[derive(Clone, Copy)]
pub(crate) enum Role<'a> {
    /// Anything.
    Owner,
    /// Attach to apps of the process that it has come to.
    Guest(&'a dyn Keeper),
}

impl Role<'_> {
    /// Why a client cannot be spoken with whose package is of another version.
    pub(crate) fn other_version(self, hello: &Hello) -> Failure {
        let (package, protocol, engine) = (&hello.package, hello.protocol, env!("CARGO_PKG_VERSION"));
        let (message, hint) = match self {
            Self::Owner => (
                format!(
                    "the `modal` package {package} speaks protocol `{protocol}`, the engine {engine} speaks `{PROTOCOL}`: \
                     install both from the same release"
                ),
                None,
            ),
            Self::Guest(_) => (
                format!(
                    "the app's process runs with `modal` {engine}, which speaks protocol `{PROTOCOL}`; the package here is \
                     {package} and speaks `{protocol}`"
                ),
                Some(format!(
                    "call it with `modal` {engine}, or deploy the app again with the version that you have here"
                )),
            ),
        };
        Failure { hint, ..Failure::new(ErrorClass::VersionError, message) }
    }
}
