//! Why a call has no result.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use lamina_ground::{ErrorClass, Hint};
use lamina_sandbox::DiskShortage;
use lamina_wire::WireError;

use crate::starter::StartError;

/// Why a call ended without a value or an exception of its own.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The container's processes needed more memory than the function may use, or than the machine has.
    #[error("the container of function `{function}` ran out of memory{}", limit_text(*limit))]
    OutOfMemory {
        /// The function.
        function: String,
        /// The memory limit in bytes, where there is one.
        limit: Option<u64>,
        /// The last lines of the container's standard error.
        tail: String,
    },
    /// The container's files left too little room on the disk of the store.
    #[error("the container of function `{function}` was stopped because the disk of the store has {shortage}")]
    OutOfDisk {
        /// The function.
        function: String,
        /// What there is too little of.
        shortage: DiskShortage,
    },
    /// The container's process ended by itself.
    #[error("the container of function `{function}` exited with code `{code}` before it returned a result")]
    Exited {
        /// The function.
        function: String,
        /// The exit code.
        code: i32,
        /// The last lines of the container's standard error.
        tail: String,
    },
    /// The image's entrypoint ended before the runner said anything.
    #[error(
        "the entrypoint `{}` of the image of function `{function}` ended with code `{code}` before the function ran",
        entrypoint.join(" ")
    )]
    Entrypoint {
        /// The function.
        function: String,
        /// The program and its arguments.
        entrypoint: Vec<String>,
        /// The exit code.
        code: i32,
        /// The last lines of the container's standard error.
        tail: String,
    },
    /// The container's process was killed by a signal that Lamina did not send.
    #[error("the container of function `{function}` was killed by `{}`", signal_name(*signal))]
    Signaled {
        /// The function.
        function: String,
        /// The signal's number.
        signal: i32,
        /// The last lines of the container's standard error.
        tail: String,
    },
    /// The input took longer than the function's timeout.
    #[error("function `{function}` did not finish within its timeout of `{seconds}` seconds")]
    TimedOut {
        /// The function.
        function: String,
        /// The timeout.
        seconds: f64,
    },
    /// The container's module was not imported in time, or a hook of its class took longer.
    #[error("the container of function `{function}` was not ready within `{seconds}` seconds")]
    StartTimedOut {
        /// The function.
        function: String,
        /// The time it had.
        seconds: f64,
        /// The last lines of the container's standard error.
        tail: String,
    },
    /// The container could not be started.
    #[error("the container of function `{function}` did not start: {source}")]
    NotStarted {
        /// The function.
        function: String,
        /// What went wrong.
        source: StartError,
    },
    /// The container sent something that is not part of the protocol.
    #[error("the container of function `{function}` broke the connection to the engine: {reason}")]
    Broken {
        /// The function.
        function: String,
        /// What it did.
        reason: String,
        /// The last lines of the container's standard error.
        tail: String,
    },
    /// The engine could not do its part in the conversation with the container.
    #[error("a call of function `{function}` failed in the engine: {what}: {error}")]
    Engine {
        /// The function.
        function: String,
        /// What could not be done.
        what: &'static str,
        /// Why.
        error: Arc<std::io::Error>,
    },
    /// The input could not be handed to a container.
    #[error("the input of function `{function}` could not be handed over: {source}")]
    NotSent {
        /// The function.
        function: String,
        /// What went wrong.
        source: Arc<WireError>,
    },
    /// The caller cancelled the call.
    #[error("the call of function `{function}` was cancelled")]
    Cancelled {
        /// The function.
        function: String,
    },
    /// The app was stopped while the call waited or ran.
    #[error("the app was stopped before function `{function}` returned a result")]
    Stopped {
        /// The function.
        function: String,
    },
    /// The user stopped the container, and the input cannot run again.
    #[error(
        "the container of function `{function}` was stopped, and the input cannot run again in another one because some of \
         its values were taken already"
    )]
    Withdrawn {
        /// The function.
        function: String,
    },
    /// The process of another app said so, or could not be reached.
    #[error("{message}")]
    Elsewhere {
        /// What it is in Python.
        class: ErrorClass,
        /// What it said.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

impl CallError {
    /// The class of `modal.exception` that this becomes.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::TimedOut { .. } | Self::StartTimedOut { .. } => ErrorClass::FunctionTimeoutError,
            Self::OutOfMemory { .. }
            | Self::OutOfDisk { .. }
            | Self::Exited { .. }
            | Self::Entrypoint { .. }
            | Self::Signaled { .. }
            | Self::Withdrawn { .. } => ErrorClass::InternalFailure,
            Self::Cancelled { .. } => ErrorClass::RemoteError,
            Self::NotStarted { .. }
            | Self::Broken { .. }
            | Self::Engine { .. }
            | Self::NotSent { .. }
            | Self::Stopped { .. } => ErrorClass::ExecutionError,
            Self::Elsewhere { class, .. } => *class,
        }
    }

    /// Whether the machinery failed: neither the function, nor by anybody's wish.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        matches!(self, Self::NotStarted { .. } | Self::Broken { .. } | Self::Engine { .. } | Self::NotSent { .. })
    }
}

/// The advice comes with the container's last words where it left any.
impl Hint for CallError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::OutOfDisk { .. } => Some(Cow::Borrowed(
                "free some space, have the function write less, or set MODAL_STORE to a directory on a larger disk",
            )),
            Self::OutOfMemory { limit: Some(_), tail, .. } => {
                Some(with_tail("raise `memory=` (in MiB) of the function", tail))
            }
            Self::OutOfMemory { limit: None, tail, .. } => {
                Some(with_tail("the machine has too little memory for this function", tail))
            }
            Self::Signaled { signal: SIGKILL, tail, .. } => {
                Some(with_tail("the kernel kills like this when the whole machine is out of memory", tail))
            }
            Self::Exited { tail, .. } | Self::Signaled { tail, .. } | Self::Broken { tail, .. } => {
                (!tail.is_empty()).then(|| with_tail("", tail))
            }
            Self::Entrypoint { tail, .. } => Some(with_tail(
                "an entrypoint has to execute its arguments, as in `exec \"$@\"`; `.entrypoint([])` takes it away",
                tail,
            )),
            Self::StartTimedOut { tail, .. } => Some(with_tail(
                "importing its module and `@modal.enter()` take longer: raise `startup_timeout=` (in seconds)",
                tail,
            )),
            Self::TimedOut { .. } => Some(Cow::Borrowed("raise `timeout=` (in seconds) of the function")),
            Self::NotStarted { source, .. } => source.hint(),
            Self::Engine { error, .. } => error.hint(),
            Self::NotSent { source, .. } => match &**source {
                WireError::Io(error) => error.hint(),
                _ => None,
            },
            Self::Elsewhere { hint, .. } => hint.as_deref().map(Cow::Borrowed),
            Self::Cancelled { .. } | Self::Stopped { .. } | Self::Withdrawn { .. } => None,
        }
    }
}

/// Why the conversation with a container came to nothing.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// The container did what the protocol does not allow.
    Breach(String),
    /// The engine could not do its part.
    Engine {
        /// What could not be done.
        what: &'static str,
        /// Why.
        error: Arc<std::io::Error>,
    },
}

impl Trouble {
    /// An adapter for `map_err` that says what the engine could not do.
    pub(crate) fn engine<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Engine { what, error: Arc::new(error.into()) }
    }

    /// The same for a frame, which may also be none.
    pub(crate) fn wire(what: &'static str) -> impl FnOnce(WireError) -> Self {
        move |error| match error {
            WireError::Io(error) => Self::engine(what)(error),
            error => Self::Breach(error.to_string()),
        }
    }
}

impl From<String> for Trouble {
    fn from(breach: String) -> Self {
        Self::Breach(breach)
    }
}

impl From<&str> for Trouble {
    fn from(breach: &str) -> Self {
        Self::Breach(breach.to_owned())
    }
}

/// The signal that nothing survives.
const SIGKILL: i32 = 9;

fn limit_text(limit: Option<u64>) -> String {
    limit.map_or_else(String::new, |bytes| format!(" (limit: {} MiB)", bytes >> 20))
}

fn with_tail(advice: &str, tail: &str) -> Cow<'static, str> {
    let mut text = advice.to_owned();
    if !tail.is_empty() {
        if !text.is_empty() {
            text.push_str("; ");
        }
        let _ = write!(text, "its last output was:\n{tail}");
    }
    Cow::Owned(text)
}

/// The name of a signal, `SIG…`, or its number where it has none.
#[must_use]
pub fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let name = signal.checked_sub(1).and_then(|index| usize::try_from(index).ok()).and_then(|index| NAMES.get(index));
    name.map_or_else(|| format!("signal {signal}"), |name| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        for (signal, name) in [(1, "SIGHUP"), (9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM"), (31, "SIGSYS")] {
            assert_eq!(signal_name(signal), name);
        }
        assert_eq!(signal_name(34), "signal 34");
        assert_eq!(signal_name(0), "signal 0");
        assert_eq!(signal_name(i32::MIN), "signal -2147483648");
    }

    #[test]
    fn advice_follows_what_the_system_answered() {
        let full = || std::io::Error::from_raw_os_error(24);
        let function = || "f".to_owned();
        let not_sent = |source| CallError::NotSent { function: function(), source: Arc::new(source) };
        let error = not_sent(WireError::Io(full()));
        assert!(error.hint().is_some_and(|hint| hint.contains("ulimit -n")), "{error}");
        assert_eq!(not_sent(WireError::TooLong(1)).hint(), None);
        let Trouble::Engine { what, error } = Trouble::wire("its item was not passed on")(WireError::Io(full())) else {
            panic!("the system's answer is no breach")
        };
        let error = CallError::Engine { function: function(), what, error };
        assert!(error.hint().is_some_and(|hint| hint.contains("ulimit -n")), "{error}");
        assert!(matches!(Trouble::wire("")(WireError::Version(9)), Trouble::Breach(_)));
    }

    #[test]
    fn a_memory_error_names_the_limit_and_the_remedy() {
        let error = CallError::OutOfMemory { function: "f".into(), limit: Some(512 << 20), tail: "boom".into() };
        assert_eq!(error.to_string(), "the container of function `f` ran out of memory (limit: 512 MiB)");
        let hint = "raise `memory=` (in MiB) of the function; its last output was:\nboom";
        assert_eq!(error.hint().as_deref(), Some(hint));
        assert_eq!(error.class(), ErrorClass::InternalFailure);
    }
}
