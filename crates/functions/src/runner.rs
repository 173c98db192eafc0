//! The conversation with the runner inside a container. `docs/protocol.md` describes it.

use serde::{Deserialize, Serialize};

/// How the runner finds a function's module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Module {
    /// A file, executed under a module name.
    Script {
        /// The module's name.
        name: String,
        /// The file's path inside the container.
        path: String,
    },
    /// A module that the container's interpreter imports by name.
    Module {
        /// The dotted name.
        name: String,
    },
}

/// What the engine tells a runner.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToRunner<'a> {
    /// The first message: import the module that holds the function.
    Start {
        /// Where the function is.
        module: &'a Module,
        /// The function's name.
        function: &'a str,
    },
    /// Run an input; the payload holds the pickled arguments.
    Call {
        /// The input's number, given back with the result.
        call: u64,
        /// The function's name.
        function: &'a str,
    },
    /// No further inputs come: leave.
    Stop,
}

impl ToRunner<'_> {
    /// The control part of the message's frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Strings and numbers always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What a runner tells the engine.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromRunner {
    /// The module is imported; inputs may come.
    Ready,
    /// The module cannot be imported; the payload holds the exception.
    Failed,
    /// An input's result; the payload holds the value or the exception.
    Result {
        /// The input's number.
        call: u64,
        /// Which of the two.
        status: ResultStatus,
    },
}

/// How an input ended inside the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultStatus {
    /// With a value.
    Ok,
    /// With an exception.
    Exception,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_to_the_runner_are_pinned() {
        let script = Module::Script { name: "app".into(), path: "/root/app.py".into() };
        let module = Module::Module { name: "pkg.mod".into() };
        let cases = [
            (
                ToRunner::Start { module: &script, function: "f" },
                r#"{"type":"start","module":{"kind":"script","name":"app","path":"/root/app.py"},"function":"f"}"#,
            ),
            (
                ToRunner::Start { module: &module, function: "f" },
                r#"{"type":"start","module":{"kind":"module","name":"pkg.mod"},"function":"f"}"#,
            ),
            (ToRunner::Call { call: 7, function: "f" }, r#"{"type":"call","call":7,"function":"f"}"#),
            (ToRunner::Stop, r#"{"type":"stop"}"#),
        ];
        for (message, text) in cases {
            assert_eq!(String::from_utf8(message.encode()).unwrap(), text);
        }
    }

    #[test]
    fn messages_from_the_runner_are_pinned() {
        let cases = [
            (r#"{"type":"ready"}"#, FromRunner::Ready),
            (r#"{"type":"failed"}"#, FromRunner::Failed),
            (r#"{"type":"result","call":7,"status":"ok"}"#, FromRunner::Result { call: 7, status: ResultStatus::Ok }),
            (
                r#"{"type":"result","call":7,"status":"exception"}"#,
                FromRunner::Result { call: 7, status: ResultStatus::Exception },
            ),
        ];
        for (text, message) in cases {
            assert_eq!(serde_json::from_str::<FromRunner>(text).unwrap(), message);
        }
        for rubbish in ["", "{}", r#"{"type":"exec"}"#, r#"{"type":"result","call":-1,"status":"ok"}"#] {
            assert!(serde_json::from_str::<FromRunner>(rubbish).is_err(), "{rubbish}");
        }
    }
}
