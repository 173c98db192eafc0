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

/// Whether a name looks like the id of an app, which neither an app nor what apps use can be called.
#[must_use]
pub fn is_app_id(name: &str) -> bool {
    name.strip_prefix("ap-")
        .is_some_and(|rest| rest.len() == 22 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_apps_are_told_from_names() {
        assert!(is_app_id("ap-1234567890abcdefABCDEF"));
        for name in ["ap-1234567890abcdefABCDE", "ap-1234567890abcdefABCDE-", "im-1234567890abcdefABCDEF", "ap"] {
            assert!(!is_app_id(name), "{name}");
        }
    }

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
