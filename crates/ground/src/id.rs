//! Random identifiers.

/// The digits of base 62, in their order.
pub const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Digits of an identifier after its prefix: 130 bits.
const ID_LENGTH: usize = 22;
/// Digits of a name: 65 bits, enough within one store.
const NAME_LENGTH: usize = 11;

/// Makes an identifier such as `ta-4gQ…`: `prefix`, a hyphen and 22 random digits of base 62.
#[must_use]
pub fn random_id(prefix: &str) -> String {
    format!("{prefix}-{}", digits(ID_LENGTH))
}

/// Makes a name that no other process or thread of the machine uses.
#[must_use]
pub fn random_name() -> String {
    digits(NAME_LENGTH)
}

/// Random digits of base 62.
fn digits(count: usize) -> String {
    let mut text = String::with_capacity(count);
    while text.len() < count {
        let mut bytes = [0_u8; 32];
        // The kernel gives so few bytes at once and without interruption, as soon as it has started; it never refuses them.
        if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
            continue;
        }
        // Bytes from 248 up are dropped, so that every digit is equally likely.
        let digits = bytes.iter().filter(|byte| **byte < 248).map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        text.extend(digits.take(count - text.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_form_and_differ() {
        let (one, other) = (random_id("ta"), random_id("ta"));
        assert_ne!(one, other);
        let rest = one.strip_prefix("ta-").unwrap();
        assert_eq!((rest.len(), random_name().len()), (22, 11));
        assert!(rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
