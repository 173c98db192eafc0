//! Texts that are shown or kept: credentials in addresses are not.

use std::borrow::Cow;

use serde_json::Value;

/// What stands in the place of credentials.
pub const MASK: &str = "***";

/// Characters that end an address' authority, or the address.
const ENDS: &[char] = &['/', '?', '#', '"', '\'', '<', '>', '`', '|'];

/// The text with the credentials of every address in it masked: `https://***@host/`. The user name of SSH, as in
/// `git+ssh://git@host`, is none.
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    if !text.contains("://") || !text.contains('@') {
        return Cow::Borrowed(text);
    }
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        redacted.push_str(before);
        let end = after.find(|one: char| one.is_whitespace() || ENDS.contains(&one)).unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(at) => {
                let credentials = &after[..at];
                let is_name = before.to_ascii_lowercase().ends_with("ssh://") && !credentials.contains(':');
                redacted.push_str(if is_name { credentials } else { MASK });
                rest = &after[at..];
            }
            None => rest = after,
        }
    }
    redacted.push_str(rest);
    Cow::Owned(redacted)
}

/// A value with every text in it redacted.
#[must_use]
pub fn redact_value(value: &Value) -> Value {
    match value {
        Value::String(text) => redact(text).into(),
        Value::Array(values) => values.iter().map(redact_value).collect(),
        Value::Object(values) => {
            values.iter().map(|(name, value)| (redact(name).into_owned(), redact_value(value))).collect()
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_that_python_is_held_to_as_well() {
        let table = include_str!("../../../tests/data/redactions.json");
        for case in serde_json::from_str::<Vec<Value>>(table).unwrap() {
            let text = |name: &str| case[name].as_str().unwrap();
            assert_eq!(redact(text("text")), text("shown"));
        }
    }

    #[test]
    fn every_text_of_a_value_is_redacted() {
        let value = json!({"a": ["https://u:p@h/x", 1, null], "https://t@h": {"b": "https://t@h"}});
        assert_eq!(
            redact_value(&value),
            json!({"a": ["https://***@h/x", 1, null], "https://***@h": {"b": "https://***@h"}})
        );
    }
}
