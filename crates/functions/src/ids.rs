//! Random identifiers.

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
}
