//! `RECORD`: the list of a distribution's files with their digests.

use std::collections::HashMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// The digest of a file as `RECORD` writes it: `sha256=<base64>`.
pub(crate) fn digest(bytes: &[u8]) -> String {
    encode(&Sha256::digest(bytes))
}

/// A SHA-256 as `RECORD` writes it.
pub(crate) fn encode(sha256: &[u8]) -> String {
    format!("sha256={}", base64(sha256))
}

/// URL-safe base64 without padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().chain([&0, &0]).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for position in 0..=chunk.len() {
            text.push(char::from(ALPHABET[bits >> (18 - 6 * position) & 63]));
        }
    }
    text
}

/// Reads the digests of a `RECORD`, by path. Rows without a digest (`RECORD` itself, signatures) are left out.
pub(crate) fn parse(text: &str) -> Result<HashMap<String, String>, String> {
    let mut digests = HashMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let fields = fields(line);
        let [path, digest, _size] = fields.as_slice() else {
            return Err(format!("the RECORD line `{}` does not have three fields", line.escape_debug()));
        };
        // Nothing is put at paths of RECORD, but they say what will be removed some day.
        if crate::archive::check_path(path).is_err() {
            return Err(format!("in RECORD, the path `{}` is not a plain relative path", path.escape_debug()));
        }
        if !digest.is_empty() && digests.insert(path.clone(), digest.clone()).is_some_and(|other| other != *digest) {
            return Err(format!("RECORD lists `{path}` twice with different digests"));
        }
    }
    Ok(digests)
}

/// Splits one line of comma-separated values.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.trim_end_matches('\r').chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                push(&mut fields, '"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => fields.push(String::new()),
            _ => push(&mut fields, character),
        }
    }
    fields
}

fn push(fields: &mut [String], character: char) {
    if let Some(last) = fields.last_mut() {
        last.push(character);
    }
}

/// Builds the `RECORD` of an installed distribution.
#[derive(Default)]
pub(crate) struct Record {
    rows: Vec<(String, String)>,
}

impl Record {
    /// Adds a file; `path` is relative to the site directory.
    pub(crate) fn add(&mut self, path: String, digest: &str, size: u64) {
        self.rows.push((path, format!("{digest},{size}")));
    }

    /// The text, sorted, with the row of `RECORD` itself.
    pub(crate) fn finish(mut self, own_path: String) -> String {
        self.rows.push((own_path, ",".to_owned()));
        self.rows.sort();
        self.rows.dedup_by(|one, other| one.0 == other.0);
        self.rows.iter().fold(String::new(), |mut text, (path, rest)| {
            // Writing into a string cannot fail.
            let _ = if path.contains([',', '"', '\n', '\r']) {
                writeln!(text, "\"{}\",{rest}", path.replace('"', "\"\""))
            } else {
                writeln!(text, "{path},{rest}")
            };
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_written_like_the_standard_says() {
        assert_eq!(digest(b""), "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
        assert_eq!(base64(b"fo"), "Zm8");
        assert_eq!(base64(b"f"), "Zg");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut record = Record::default();
        record.add("b,\"c\".py".to_owned(), "sha256=x", 3);
        record.add("../../../bin/a".to_owned(), "sha256=y", 4);
        let text = record.finish("a-1.dist-info/RECORD".to_owned());
        insta::assert_snapshot!(text, @r#"
        ../../../bin/a,sha256=y,4
        a-1.dist-info/RECORD,,
        "b,""c"".py",sha256=x,3
        "#);
        let inside = text.lines().skip(1).collect::<Vec<_>>().join("\r\n");
        assert_eq!(parse(&inside).unwrap(), HashMap::from([("b,\"c\".py".to_owned(), "sha256=x".to_owned())]));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        assert!(parse("../x,sha256=x,1\n").unwrap_err().contains("../x"));
        assert!(parse("/x,sha256=x,1\n").is_err());
        assert!(parse("a,b\n").is_err());
    }
}
