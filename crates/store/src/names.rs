//! Names that become file names in the store.

use crate::StoreError;

/// Refuses names that are no plain file names.
pub(crate) fn check_name(name: &str) -> Result<(), StoreError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let usable = (1..=200).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain);
    if usable { Ok(()) } else { Err(StoreError::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_pass() {
        for name in ["a", "apt-lists.1_2", &"x".repeat(200)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", ".hidden", "a/b", "a b", "a\0", "\u{e4}", &"x".repeat(201)] {
            assert!(matches!(check_name(name), Err(StoreError::Name(_))), "{name}");
        }
    }
}
