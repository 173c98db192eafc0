//! `RECORD`: the list of a distribution's files with their digests.

use std::collections::HashMap;

use csv::{ReaderBuilder, StringRecord, Terminator, WriterBuilder};
use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest as _, Sha256};

use crate::archive::check_path;
use crate::request::Installer;

/// The digest of a file as `RECORD` writes it: `sha256=<base64>`.
pub(crate) fn digest(bytes: &[u8]) -> String {
    encode(&Sha256::digest(bytes))
}

/// A SHA-256 as `RECORD` writes it.
pub(crate) fn encode(sha256: &[u8]) -> String {
    format!("sha256={}", BASE64URL_NOPAD.encode(sha256))
}

/// Reads the digests of a `RECORD`, by path. Rows without a digest (`RECORD` itself, signatures) are left out.
pub(crate) fn parse(text: &str) -> Result<HashMap<String, String>, String> {
    let mut digests = HashMap::new();
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut row = StringRecord::new();
    while reader.read_record(&mut row).map_err(|error| format!("RECORD cannot be read: {error}"))? {
        if row.len() != 3 {
            let line = row.iter().collect::<Vec<_>>().join(",");
            return Err(format!("the RECORD line `{}` does not have three fields", line.escape_debug()));
        }
        let (path, digest) = (&row[0], &row[1]);
        // Nothing is put at paths of RECORD, but they say what will be removed some day.
        if check_path(path).is_err() {
            return Err(format!("in RECORD, the path `{}` is not a plain relative path", path.escape_debug()));
        }
        let other = if digest.is_empty() { None } else { digests.insert(path.to_owned(), digest.to_owned()) };
        if other.is_some_and(|other| other != digest) {
            return Err(format!("RECORD lists `{path}` twice with different digests"));
        }
    }
    Ok(digests)
}

/// Builds the `RECORD` of an installed distribution.
#[derive(Default)]
pub(crate) struct Record {
    rows: Vec<[String; 3]>,
}

impl Record {
    /// Adds a file; `path` is relative to the site directory.
    pub(crate) fn add(&mut self, path: String, digest: &str, size: u64) {
        self.rows.push([path, digest.to_owned(), size.to_string()]);
    }

    /// Adds a file without saying more about it.
    pub(crate) fn add_path(&mut self, path: String) {
        self.rows.push([path, String::new(), String::new()]);
    }

    /// The text as `installer` writes it, sorted, with the row of `RECORD` itself.
    pub(crate) fn finish(mut self, own_path: String, installer: Installer) -> Vec<u8> {
        self.add_path(own_path);
        self.rows.sort();
        self.rows.dedup_by(|one, other| one[0] == other[0]);
        let terminator = match installer {
            Installer::Pip => Terminator::CRLF,
            Installer::Uv => Terminator::Any(b'\n'),
        };
        let mut writer = WriterBuilder::new().terminator(terminator).from_writer(Vec::new());
        for row in &self.rows {
            // Writing into memory cannot fail.
            let _ = writer.write_record(row);
        }
        writer.into_inner().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_written_like_the_standard_says() {
        assert_eq!(digest(b""), "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
        assert_eq!(encode(b"fo"), "sha256=Zm8");
        assert_eq!(encode(&[0xff, 0xfe]), "sha256=__4");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut record = Record::default();
        record.add("b,\"c\".py".to_owned(), "sha256=x", 3);
        record.add("../../../bin/a".to_owned(), "sha256=y", 4);
        record.add_path("__pycache__/d.pyc".to_owned());
        let text = String::from_utf8(record.finish("a-1.dist-info/RECORD".to_owned(), Installer::Pip)).unwrap();
        assert_eq!(text.matches("\r\n").count(), 4);
        insta::assert_snapshot!(text.replace('\r', ""), @r#"
        ../../../bin/a,sha256=y,4
        __pycache__/d.pyc,,
        a-1.dist-info/RECORD,,
        "b,""c"".py",sha256=x,3
        "#);
        let inside = text.split_inclusive('\n').skip(1).collect::<String>();
        assert_eq!(parse(&inside).unwrap(), HashMap::from([("b,\"c\".py".to_owned(), "sha256=x".to_owned())]));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        assert!(parse("../x,sha256=x,1\n").unwrap_err().contains("../x"));
        assert!(parse("/x,sha256=x,1\n").is_err());
        assert!(parse("a,b\n").is_err());
        assert!(parse("\"a,sha256=x,1\nb,sha256=y,1\n").is_err(), "a quote that does not end");
    }
}
