//! Answers to the calls of a Python process.

use std::sync::Arc;

use lamina_functions::{CallAnswer, CallStatus, Caller, Calls, Outcome};
use lamina_ground::ErrorClass;
use lamina_wire::{Payload, Sender, WireError};

use crate::failure::{naming_record, of_call};

/// A call that Python waits for.
pub(super) struct PythonCall {
    pub(super) sender: Sender,
    pub(super) calls: Arc<Calls>,
    pub(super) call: u64,
}

impl PythonCall {
    /// Hands an answer on. A client that is attached and does not read is given up: the container has others to serve.
    fn forward(&self, answer: &CallAnswer, payload: &Payload) -> Result<(), WireError> {
        let sent = self.sender.forward(&answer.encode(), payload);
        if matches!(&sent, Err(WireError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock) {
            self.sender.shutdown();
            return Ok(());
        }
        sent
    }
}

impl Caller for PythonCall {
    fn item(&self, payload: Payload) -> Result<(), WireError> {
        self.forward(&CallAnswer::Item { call: self.call }, &payload)
    }

    fn end(&self, outcome: Outcome) {
        self.calls.close(self.call);
        let (status, payload) = match outcome {
            Outcome::Value(payload) => (CallStatus::Ok, payload),
            Outcome::Exception(payload) => (CallStatus::Exception, payload),
            Outcome::Error(error) => {
                // Not the message, which may have what the container printed last.
                tracing::info!(call = self.call, error = ?error.class(), "call");
                (of_call(&error), Payload::default())
            }
        };
        let Err(error) = self.forward(&CallAnswer::Result { call: self.call, status }, &payload) else {
            return;
        };
        // If only the payload was the trouble, the caller still learns of it; if Python is gone, this fails too.
        let message = naming_record(&format!("the result could not be handed over: {error}"));
        let status = CallStatus::error(ErrorClass::ExecutionError, message);
        let _ = self.forward(&CallAnswer::Result { call: self.call, status }, &Payload::default());
    }
}
