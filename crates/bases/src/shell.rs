//! Words for the shell.

use std::borrow::Cow;

/// A text as one word. The byte zero stays, and whoever runs the command says that it cannot be there.
#[must_use]
pub fn quote(word: &str) -> Cow<'_, str> {
    // Nothing but that byte is an error.
    shlex::Quoter::new().allow_nul(true).quote(word).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        for word in ["git", "a b", "x'y", "", "$(id)", "a\"b", "!x", "^y", "a\\'b", "line\nline", "é~*?[x]&;|<>"] {
            let command = format!("printf %s {}", quote(word));
            let said = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&said.stdout), word, "{command}");
        }
        assert!(quote("a\0b").contains('\0'));
    }
}
