//! Identifiers.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

/// Characters of an identifier after its prefix.
const LENGTH: usize = 22;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Makes an identifier such as `ta-4gQ…`: `prefix`, a hyphen and 22 random characters of base 62.
#[must_use]
pub fn random_id(prefix: &str) -> String {
    let mut id = String::with_capacity(prefix.len() + 1 + LENGTH);
    id.push_str(prefix);
    id.push('-');
    let wanted = id.len() + LENGTH;
    while id.len() < wanted {
        let mut bytes = [0_u8; 32];
        if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
            continue;
        }
        // Bytes from 248 up are dropped, so that every character is equally likely.
        let characters =
            bytes.iter().filter(|byte| **byte < 248).map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        id.extend(characters.take(wanted - id.len()));
    }
    id
}

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
    fn ids_have_their_form_and_differ() {
        let (one, other) = (random_id("ta"), random_id("ta"));
        assert_ne!(one, other);
        let rest = one.strip_prefix("ta-").unwrap();
        assert_eq!(rest.len(), 22);
        assert!(rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }

    #[test]
    fn calls_have_ids_of_the_same_form_that_differ() {
        let (one, other) = (CallId::new(), CallId::new());
        assert_ne!(one.to_string(), other.to_string());
        let text = CallId::from_number(62).to_string();
        assert!(text.starts_with("fc-") && text.ends_with("00000010") && text.len() == 25, "{text}");
    }
}
