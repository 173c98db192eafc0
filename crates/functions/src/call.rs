//! What a call is to those who make it.

use std::sync::Weak;

use lamina_wire::{Payload, WireError};

use crate::elsewhere::Callee;
use crate::error::CallError;

/// How a call ended.
#[derive(Debug)]
pub enum Outcome {
    /// With a value: the payload holds it, pickled.
    Value(Payload),
    /// With an exception of the function: the payload describes it.
    Exception(Payload),
    /// Without either.
    Error(CallError),
}

/// Whoever waits for a call. Told in whichever thread has something to tell.
pub trait Caller: Send + Sync {
    /// Takes the next value of a generator: in order, and before the outcome.
    ///
    /// # Errors
    /// When it cannot be handed on; the call then fails.
    fn item(&self, payload: Payload) -> Result<(), WireError>;

    /// Hears which container has got the call. It may hear of others later.
    fn given_to(&self, _task: &str) {}

    /// Hears under which id the process that has the call knows it, if that is another one.
    fn identified(&self, _id: &str) {}

    /// Hears that the call, which somebody has spawned earlier, has not ended yet.
    fn pending(&self) {}

    /// Hears that another callee has the call from now on.
    fn moved(&self, _callee: &Weak<dyn Callee>) {}

    /// Takes the outcome. Called exactly once.
    fn end(&self, outcome: Outcome);
}
