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
/// Characters of a text, its prefix included.
const LENGTH: usize = 3 + PROCESS_DIGITS + CONNECTION_DIGITS + LABEL_DIGITS;

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

    /// What the texts of all calls of this process begin with, and of no other.
    #[must_use]
    pub(crate) fn of_this_process() -> String {
        Self(0).text().as_str()[..3 + PROCESS_DIGITS].to_owned()
    }

    fn text(self) -> Text {
        let mut text = Text::new(*b"in-");
        text.write(self.0, LENGTH);
        text
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text().as_str())
    }
}

impl Serialize for CallId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text().as_str())
    }
}

/// The engine's name of a function call, which is one input or all inputs of a `.map`: the text `fc-…`. It follows from the
/// label of the first of them, so that nobody has to keep which inputs belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionCallId {
    connection: u64,
    label: u64,
}

impl FunctionCallId {
    /// Whether a text has the form of such an id, of whichever process.
    #[must_use]
    pub fn is_text(text: &str) -> bool {
        let digits = text.strip_prefix("fc-");
        text.len() == LENGTH && digits.is_some_and(|digits| digits.bytes().all(|byte| ALPHABET.contains(&byte)))
    }

    /// The id that has this text, if it is one of this process.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        let numbers = text.strip_prefix("fc-")?.strip_prefix(process())?;
        let (connection, label) = numbers.split_at_checked(CONNECTION_DIGITS)?;
        let id = Self { connection: number(connection)?, label: number(label)? };
        (id.text().as_str() == text).then_some(id)
    }

    fn text(self) -> Text {
        let mut text = Text::new(*b"fc-");
        text.write(self.connection, LENGTH - LABEL_DIGITS);
        text.write(self.label, LENGTH);
        text
    }
}

impl fmt::Display for FunctionCallId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text().as_str())
    }
}

impl Serialize for FunctionCallId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text().as_str())
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

/// The number that these digits stand for.
fn number(digits: &str) -> Option<u64> {
    digits.bytes().try_fold(0_u64, |number, digit| {
        let value = ALPHABET.iter().position(|known| *known == digit)?;
        number.checked_mul(62)?.checked_add(u64::try_from(value).ok()?)
    })
}

/// The digits that name this process.
fn process() -> &'static str {
    static PROCESS: OnceLock<String> = OnceLock::new();
    let id = PROCESS.get_or_init(|| random_id("fc"));
    &id[id.len() - PROCESS_DIGITS..]
}

/// The text of an id, made in place: every input has two of them.
struct Text {
    characters: [u8; LENGTH],
    length: usize,
}

impl Text {
    /// The prefix and the digits of this process.
    fn new(prefix: [u8; 3]) -> Self {
        let mut characters = [ALPHABET[0]; LENGTH];
        let length = prefix.len() + PROCESS_DIGITS;
        characters[..prefix.len()].copy_from_slice(&prefix);
        characters[prefix.len()..length].copy_from_slice(process().as_bytes());
        Self { characters, length }
    }

    /// Fills up to this length with the last digits of a number.
    fn write(&mut self, number: u64, length: usize) {
        let mut left = number;
        for character in self.characters[self.length..length].iter_mut().rev() {
            *character = ALPHABET[usize::try_from(left % 62).unwrap_or(0)];
            left /= 62;
        }
        self.length = length;
    }

    fn as_str(&self) -> &str {
        str::from_utf8(&self.characters).unwrap_or_default()
    }
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

    #[test]
    fn a_function_call_of_this_process_is_found_by_its_text() {
        let id = ConnectionId::new().function_call(63);
        let text = id.to_string();
        assert_eq!(FunctionCallId::of_text(&text), Some(id));
        let elsewhere = format!("fc-{}{}", "0".repeat(PROCESS_DIGITS), &text[3 + PROCESS_DIGITS..]);
        let (short, path) = (&text[..LENGTH - 1], format!("fc-{}", "/".repeat(LENGTH - 3)));
        assert!(FunctionCallId::is_text(&text) && FunctionCallId::is_text(&elsewhere));
        for other in [&*elsewhere, short, &path, "", "fc-", &format!("{text}-1")] {
            assert_eq!(FunctionCallId::of_text(other), None, "{other}");
        }
        for other in [short, &path, "", &format!("{text}-1")] {
            assert!(!FunctionCallId::is_text(other), "{other}");
        }
    }
}
