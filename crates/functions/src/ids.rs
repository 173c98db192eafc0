//! Identifiers of calls.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use lamina_ground::{ALPHABET, random_id};
use serde::{Serialize, Serializer};

/// Characters of a call's id that count the calls of this process; the others are the process's own.
const COUNTED: usize = 8;

/// The engine's name of a call: a number within the process, as the runner gets it, and the text `fc-…`, which no other
/// process uses. Making one costs no system call and no memory.
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
        static PROCESS: OnceLock<String> = OnceLock::new();
        let process = PROCESS.get_or_init(|| random_id("fc"));
        formatter.write_str(&process[..process.len() - COUNTED])?;
        let mut digits = [ALPHABET[0]; COUNTED];
        let mut left = self.0;
        for digit in digits.iter_mut().rev() {
            *digit = ALPHABET[usize::try_from(left % 62).unwrap_or(0)];
            left /= 62;
        }
        digits.iter().try_for_each(|digit| fmt::Write::write_char(formatter, char::from(*digit)))
    }
}

impl Serialize for CallId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
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
        assert!(text.starts_with("fc-") && text.ends_with("00000010") && text.len() == 25, "{text}");
    }
}
