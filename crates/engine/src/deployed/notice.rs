//! Telling the process of a deployed app that there is a new version.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use lamina_wire::{Receiver, Sender, WireError};
use serde_json::{Value, json};

use crate::EngineError;
use crate::protocol::PROTOCOL;

/// How long the process may take. It makes the version ready, for which nothing has to be built.
const PATIENCE: Duration = Duration::from_secs(40);

/// How the process of an app takes a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// It uses it, or is about to end.
    Taken,
    /// It cannot be told: it runs with a `modal` that speaks another protocol.
    NotUnderstood,
}

/// Has the process behind `socket` use the version that is the current one now. One that is about to end needs not be told.
pub(super) fn update(socket: UnixStream, recreate: bool) -> Result<Notice, EngineError> {
    let failed = |error: &dyn std::fmt::Display| EngineError::NotTakenOver(error.to_string());
    socket.set_read_timeout(Some(PATIENCE)).map_err(|error| failed(&error))?;
    let sender = Sender::new(socket.try_clone().map_err(|error| failed(&error))?);
    let mut receiver = Receiver::new(socket);
    let hello = json!({
        "type": "hello", "protocol": PROTOCOL, "package": env!("CARGO_PKG_VERSION"), "package_directory": "",
    });
    let update = json!({ "type": "app.update", "request": 1, "recreate": recreate });
    for message in [hello, update] {
        // One that is gone has nothing to take over.
        let _ = sender.send(message.to_string().as_bytes(), &[], &[]);
    }
    loop {
        let frame = match receiver.receive() {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(WireError::Truncated) => return Ok(Notice::Taken),
            Err(WireError::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Ok(Notice::Taken);
            }
            Err(error) => return Err(failed(&error)),
        };
        let answer: Value = serde_json::from_slice(&frame.control).map_err(|error| failed(&error))?;
        match answer["type"].as_str() {
            Some("welcome") => {}
            Some("error") if answer["error"] == "VersionError" && answer["request"].is_null() => {
                return Ok(Notice::NotUnderstood);
            }
            Some("error") => return Err(failed(&answer["message"].as_str().unwrap_or("it did not say why"))),
            _ => return Ok(Notice::Taken),
        }
    }
}
