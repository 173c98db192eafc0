//! Identifiers of inputs and of function calls.
//!
//! Their texts hold ten random digits of this process; what follows tells apart what the process names. Making one costs no
//! system call and no memory, and the texts are made only for those who ask.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use lamina_ground::{ALPHABET, random_id};
use serde::{Serialize, Serializer};

/// Digits after the prefix that name the process: 59 bits.
const PROCESS_DIGITS: usize = 10;
/// Digits that name a connection within the process.
const CONNECTION_DIGITS: usize = 5;
/// Digits that name a function call within its connection.
const LABEL_DIGITS: usize = 7;

/// The engine's name of a call, which is one input of a service: a number within the process, as the runner gets it, and
/// the text `in-…`, which no other process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(u64);

impl CallId {
    /// The id of a new call.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(1);
        Self(CALLS.fetch_add(1, Ordering::Relaxed))
    }

    /// The call that a runner means.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Its number within the process.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "in-{}", process())?;
        write_digits(formatter, self.0, CONNECTION_DIGITS + LABEL_DIGITS)
    }
}

impl Serialize for CallId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The engine's name of a function call, which is one input or all inputs of a `.map`: the text `fc-…`. It follows from the
/// label of the first of them, so that nobody has to keep which inputs belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionCallId {
    connection: u64,
    label: u64,
}

impl fmt::Display for FunctionCallId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "fc-{}", process())?;
        write_digits(formatter, self.connection, CONNECTION_DIGITS)?;
        write_digits(formatter, self.label, LABEL_DIGITS)
    }
}

impl Serialize for FunctionCallId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The number of a connection within the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionId(u64);

impl ConnectionId {
    /// That of a new connection.
    pub(crate) fn new() -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        Self(CONNECTIONS.fetch_add(1, Ordering::Relaxed))
    }

    /// The function call of the connection whose first input has this label.
    pub(crate) fn function_call(self, label: u64) -> FunctionCallId {
        FunctionCallId { connection: self.0, label }
    }
}

/// The digits that name this process.
fn process() -> &'static str {
    static PROCESS: OnceLock<String> = OnceLock::new();
    let id = PROCESS.get_or_init(|| random_id("fc"));
    &id[id.len() - PROCESS_DIGITS..]
}

/// The last `count` digits of a number.
fn write_digits(formatter: &mut fmt::Formatter<'_>, number: u64, count: usize) -> fmt::Result {
    let mut digits = [ALPHABET[0]; CONNECTION_DIGITS + LABEL_DIGITS];
    let mut left = number;
    for digit in digits[..count].iter_mut().rev() {
        *digit = ALPHABET[usize::try_from(left % 62).unwrap_or(0)];
        left /= 62;
    }
    digits[..count].iter().try_for_each(|digit| fmt::Write::write_char(formatter, char::from(*digit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_ids_of_the_same_form_that_differ() {
        let (one, other) = (CallId::new(), CallId::new());
        assert_ne!(one.to_string(), other.to_string());
        let text = CallId::from_number(62).to_string();
        assert!(text.starts_with("in-") && text.ends_with("000000000010") && text.len() == 25, "{text}");
    }

    #[test]
    fn a_function_call_is_named_by_its_connection_and_its_first_label() {
        let (one, other) = (ConnectionId::new(), ConnectionId::new());
        let text = one.function_call(62).to_string();
        assert!(text.starts_with("fc-") && text.ends_with("0000010") && text.len() == 25, "{text}");
        assert_eq!(one.function_call(62).to_string(), text);
        assert_ne!(one.function_call(63).to_string(), text);
        assert_ne!(other.function_call(62).to_string(), text);
    }
}
