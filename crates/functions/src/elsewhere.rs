//! Calls of other apps, which containers make.

use std::sync::Arc;

use lamina_wire::Payload;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::answer::CallStatus;
use crate::call::Caller;
use crate::ids::CallId;
use crate::question::PoolQuestion;
use crate::runner::VariantRequest;

/// Another app, as a runner names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AppReference {
    /// Its name.
    pub name: String,
    /// The environment that it belongs to.
    pub environment: String,
    /// The number of the version that is meant, if it is a certain one.
    #[serde(default)]
    pub version: Option<u32>,
}

/// Whoever runs inputs.
pub trait Callee: Send + Sync {
    /// Cancels a call: its caller hears so. False when there is no such call any more.
    fn cancel(&self, call: CallId) -> bool;

    /// As [`Callee::cancel`], and kills the container that runs it.
    fn terminate(&self, call: CallId) -> bool;

    /// The caller has consumed items of a generator's call. False when nobody runs it any more.
    fn more(&self, call: CallId, count: u64) -> bool;
}

/// A function, or a method of a class.
#[derive(Debug, Clone)]
pub struct Service<'a> {
    /// The function or class.
    pub name: &'a str,
    /// The method of the class.
    pub method: Option<&'a str>,
    /// The parameters and options, if it has others than it was declared with.
    pub variant: Option<Arc<VariantRequest>>,
}

/// What becomes of a call when whoever made it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// It ends, too: its result is waited for.
    Awaited,
    /// It goes on.
    Spawned,
    /// It goes on, and is a further input of a call that was spawned earlier.
    Further {
        /// The id of that call at the other app.
        of: &'a str,
        /// Which input of it this is.
        index: u64,
    },
}

/// What can be asked about a call that somebody has spawned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptQuestion {
    /// How many inputs it has.
    Inputs,
    /// What it has called.
    Graph,
}

impl KeptQuestion {
    /// The type of the message that asks it.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::Inputs => "call.inputs",
            Self::Graph => "call.graph",
        }
    }
}

/// Hears what an app is asked for.
pub type ElsewhereAnswer = Box<dyn FnOnce(Result<Value, CallStatus>) + Send>;

/// An app that runs in another process.
pub trait OtherApp: Callee {
    /// Hands on an input; `caller` hears how it ends. Does not wait for anything.
    fn submit(
        &self,
        service: Service<'_>,
        call: CallId,
        purpose: Purpose<'_>,
        payload: Payload,
        caller: Arc<dyn Caller>,
    );

    /// Asks for the result of a call that somebody has spawned, known as `name`; `caller` hears whether it is pending, and how
    /// it ends. Here it is known as `call`, and goes on when nobody asks any more. Does not wait for anything.
    fn await_kept(&self, name: &str, call: CallId, caller: Arc<dyn Caller>);

    /// Tells `answer` of a call that somebody has spawned, known as `name`. Does not wait for anything.
    fn about_kept(&self, question: KeptQuestion, name: &str, answer: ElsewhereAnswer);

    /// Tells `answer` of the app's functions, as `app.attached` has them. Does not wait for anything.
    fn functions(&self, answer: ElsewhereAnswer);

    /// Tells `answer` of the containers of a service, or of this variant of it. Does not wait for anything.
    fn pool(&self, question: PoolQuestion, variant: Option<Arc<VariantRequest>>, answer: ElsewhereAnswer);
}

/// What reaches other apps.
pub trait Elsewhere: Send + Sync {
    /// The app, whether there is one or not. It lives as long as this does.
    fn app(&self, app: &AppReference) -> Arc<dyn OtherApp>;

    /// The deployed app that keeps a call, this one included.
    ///
    /// # Errors
    /// When there is none.
    fn app_of_call(&self, name: &str) -> Result<Arc<dyn OtherApp>, CallStatus>;
}
