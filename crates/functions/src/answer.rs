//! Answers to calls, in the form in which the Python package and runners get them. `docs/protocol.md` describes them.

use std::borrow::Cow;

use lamina_ground::{ErrorClass, Hint};
use serde::Serialize;
use serde_json::Value;

use crate::error::CallError;

/// An answer to a call.
#[derive(Debug, Serialize)]
#[serde(tag = "type")]
pub enum CallAnswer {
    /// The function call's id, for whoever asked for it; before everything else.
    #[serde(rename = "call.accepted")]
    Accepted {
        /// The caller's label.
        call: u64,
        /// The id.
        id: String,
    },
    /// The call whose result was asked for has not ended; not said for others.
    #[serde(rename = "call.pending")]
    Pending {
        /// The caller's label.
        call: u64,
    },
    /// A value of a generator, before the result; the payload holds it.
    #[serde(rename = "item")]
    Item {
        /// The caller's label.
        call: u64,
    },
    /// The end; the payload holds the value or the exception.
    #[serde(rename = "result")]
    Result {
        /// The caller's label.
        call: u64,
        /// How the call ended.
        #[serde(flatten)]
        status: CallStatus,
    },
    /// The end of an errand that succeeded; the payload holds what is no text.
    #[serde(rename = "result")]
    Done {
        /// The caller's label.
        call: u64,
        /// `ok`.
        status: &'static str,
        /// What was asked for.
        value: Value,
    },
}

impl From<CallStatus> for CallError {
    fn from(status: CallStatus) -> Self {
        match status {
            CallStatus::Error { error, message, hint } => Self::Elsewhere { class: error, message, hint },
            CallStatus::Ok | CallStatus::Exception => Self::Elsewhere {
                class: ErrorClass::ExecutionError,
                message: "there is no such service".to_owned(),
                hint: None,
            },
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum CallStatus {
    /// With a value.
    Ok,
    /// With an exception of the function.
    Exception,
    /// Without either.
    Error {
        /// The exception's class, by name.
        error: ErrorClass,
        /// A sentence.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

impl CallStatus {
    /// An error without advice.
    #[must_use]
    pub fn error(class: ErrorClass, message: String) -> CallStatus {
        CallStatus::Error { error: class, message, hint: None }
    }
}

impl From<&CallError> for CallStatus {
    fn from(error: &CallError) -> Self {
        Self::Error { error: error.class(), message: error.to_string(), hint: error.hint().map(Cow::into_owned) }
    }
}

impl CallAnswer {
    /// The end of an errand that succeeded.
    #[must_use]
    pub fn done(call: u64, value: Value) -> Self {
        Self::Done { call, status: "ok", value }
    }

    /// The control part of the message's frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Strings and numbers always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnectionId;

    #[test]
    fn answers_are_pinned() {
        let late = CallStatus::error(ErrorClass::FunctionTimeoutError, "late".into());
        let cases = [
            (CallAnswer::Item { call: 7 }, r#"{"type":"item","call":7}"#),
            (CallAnswer::Result { call: 7, status: CallStatus::Ok }, r#"{"type":"result","call":7,"status":"ok"}"#),
            (CallAnswer::done(7, Value::Bool(true)), r#"{"type":"result","call":7,"status":"ok","value":true}"#),
            (
                CallAnswer::Result { call: 7, status: CallStatus::Exception },
                r#"{"type":"result","call":7,"status":"exception"}"#,
            ),
            (
                CallAnswer::Result { call: 7, status: late },
                r#"{"type":"result","call":7,"status":"error","error":"FunctionTimeoutError","message":"late","hint":null}"#,
            ),
        ];
        for (answer, text) in cases {
            assert_eq!(String::from_utf8(answer.encode()).unwrap(), text);
        }
        let id = ConnectionId::new().function_call(7).to_string();
        let accepted = format!(r#"{{"type":"call.accepted","call":7,"id":"{id}"}}"#);
        assert_eq!(String::from_utf8(CallAnswer::Accepted { call: 7, id }.encode()).unwrap(), accepted);
    }
}
