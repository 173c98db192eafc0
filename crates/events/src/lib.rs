//! What happens while images are built and functions run: typed events and the token that cancels it all.
//!
//! The engine reports through a [`Sink`]; renderers turn events into live rows, plain lines or JSON. Events are data:
//! their JSON form is versioned ([`SCHEMA_VERSION`]) and documented in `docs/protocol.md`.

mod cancel;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use cancel::{CancelGuard, CancelToken, Cancelled, Watched};

/// Version of the JSON form of [`Event`].
pub const SCHEMA_VERSION: u32 = 1;

/// Why a step was not taken from the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Miss {
    /// No layer with this title was ever built here.
    New,
    /// A former build of the same step exists; this is what differs.
    Changed {
        /// Names of the parts of the key material that differ, for example `packages` or `parent`.
        parts: Vec<String>,
    },
    /// The layer of a former build cannot be used: it is gone, or was recorded by another version of Lamina.
    Lost,
    /// The step, or the run, asks to be rebuilt.
    Forced,
    /// It is looked at what an image of elsewhere is now, as it is wished.
    CheckedAgain,
}

impl fmt::Display for Miss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => formatter.write_str("new"),
            Self::Changed { parts } => write!(formatter, "{} changed", parts.join(", ")),
            Self::Lost => formatter.write_str("no longer usable"),
            Self::Forced => formatter.write_str("forced"),
            Self::CheckedAgain => formatter.write_str("checked again"),
        }
    }
}

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Which part of an app prints something, as far as that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Printer {
    /// The function or class; `Class.method` where the method is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The function call, `fc-…`, while an input of it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<String>,
    /// The input that runs, `in-…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

/// Something that happened. Steps are told apart by `step`, a number that is unique within one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A step is known and waits for its parent.
    StepQueued {
        /// The step's number.
        step: u64,
        /// The method call as the user wrote it.
        title: String,
    },
    /// A step's layer was found in the store.
    StepCached {
        /// The step's number.
        step: u64,
        /// Bytes of the layer.
        bytes: u64,
    },
    /// Another process is making the same layer; this one waits for it.
    StepWaiting {
        /// The step's number.
        step: u64,
    },
    /// A step runs.
    StepStarted {
        /// The step's number.
        step: u64,
        /// Why the cache did not have it.
        miss: Miss,
    },
    /// A line of a step's output, without its line end.
    StepLog {
        /// The step's number.
        step: u64,
        /// The line.
        line: String,
    },
    /// How far a step is.
    StepProgress {
        /// The step's number.
        step: u64,
        /// What is being done, for example `downloading`.
        what: String,
        /// Units done.
        done: u64,
        /// Units in all, 0 when unknown.
        total: u64,
    },
    /// A step's layer is in the store.
    StepFinished {
        /// The step's number.
        step: u64,
        /// Seconds it took.
        seconds: f64,
        /// Bytes the store grew by.
        bytes_new: u64,
        /// Bytes that the store already had.
        bytes_shared: u64,
    },
    /// A step failed; nothing of it is published.
    StepFailed {
        /// The step's number.
        step: u64,
        /// What went wrong.
        message: String,
        /// The last lines of its output.
        tail: Vec<String>,
        /// Where the full log is.
        log: Option<String>,
        /// The command that opens a shell in the state before the step.
        shell: Option<String>,
        /// What the user can do, when it is known.
        hint: Option<String>,
    },
    /// A step was ended before it had a result; nothing of it is published.
    StepStopped {
        /// The step's number.
        step: u64,
        /// Why.
        cause: Stop,
    },
    /// An image is complete.
    ImageBuilt {
        /// The image id, `im-…`.
        image: String,
        /// Seconds since its build began.
        seconds: f64,
        /// Whether every step was cached.
        cached: bool,
        /// How many images of the same build are not complete yet.
        remaining: usize,
    },
    /// A container started.
    ContainerStarted {
        /// The container's id, `ta-…`.
        container: String,
        /// The function it executes.
        function: String,
    },
    /// Output of a container, as it came.
    ContainerOutput {
        /// The container's id.
        container: String,
        /// Which stream.
        stream: Stream,
        /// The bytes.
        #[serde(with = "lossy")]
        data: Vec<u8>,
        /// What of it printed them.
        #[serde(default, flatten)]
        printer: Printer,
    },
    /// An input failed and will run again.
    CallRetried {
        /// The function.
        function: String,
        /// The number of the attempt that failed, from 1.
        attempt: u32,
        /// How many attempts there are at most.
        of: u32,
        /// Seconds until the next one.
        seconds: f64,
        /// Why it failed, in words.
        cause: String,
    },
    /// A call ended without a value or an exception of its own, and no container with it: its time was up, or no container could
    /// be started.
    CallFailed {
        /// The function.
        function: String,
        /// The container that ran it, if one did.
        container: Option<String>,
        /// Why, in words.
        cause: String,
    },
    /// A container ended.
    ContainerFinished {
        /// The container's id.
        container: String,
        /// The function that it executed.
        #[serde(default)]
        function: String,
        /// How it ended, in words; empty for an ordinary end.
        cause: String,
    },
    /// A call waits for itself: unless a function gives up waiting, it can only time out.
    CallStuck {
        /// The functions from the one that is called, over those that it waits for, to one that was named before.
        path: Vec<String>,
        /// How many containers the first of them may have.
        max_containers: usize,
    },
    /// Something the user should know.
    Warning {
        /// The sentence.
        message: String,
    },
}

/// Why a step was ended that is not at fault itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The build was cancelled, or another step of it has failed.
    Cancelled,
    /// A layer beneath it turned out to be damaged. The build begins anew and makes that layer again.
    Damaged,
}

impl fmt::Display for Stop {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Cancelled => "stopped",
            Self::Damaged => "a layer below is damaged",
        })
    }
}

/// Output of programs as JSON text; bytes that are no UTF-8 are replaced.
mod lossy {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(data))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Ok(String::deserialize(deserializer)?.into_bytes())
    }
}

/// Where events go. Cheap to clone; called from any thread.
#[derive(Clone)]
pub struct Sink {
    consumer: Arc<dyn Fn(Event) + Send + Sync>,
}

impl Sink {
    /// Sends events to `consumer`.
    pub fn new(consumer: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { consumer: Arc::new(consumer) }
    }

    /// Drops every event.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| ())
    }

    /// Reports an event.
    pub fn emit(&self, event: Event) {
        (self.consumer)(event);
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sink")
    }
}
