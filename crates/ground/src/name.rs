//! Names that users give to what is kept.

/// Most characters of a name.
const LONGEST: usize = 64;

/// Whether a secret, a volume or an environment can have this name: 1 to 64 letters, digits, `-`, `_` and `.`. No such name
/// means anything in a path.
#[must_use]
pub fn is_object_name(name: &str) -> bool {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    name.len() <= LONGEST && name.chars().all(is_plain) && !name.trim_matches('.').is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for name in ["huggingface-secret", "a", "A.b_c-1", ".env", &"x".repeat(64)] {
            assert!(is_object_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert!(!is_object_name(name), "{name}");
        }
    }
}
