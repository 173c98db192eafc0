//! Secrets must not stay in a layer: the result of a step that had some is searched before it is committed: paths, link
//! targets, contents, extended attributes.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fs_err as fs;
use lamina_image::SecretValues;
use lamina_store::{Job, JobError, JobTable, WorkerContext};
use memchr::memmem;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Shortest value that is searched for: shorter ones occur by accident.
const MINIMUM_LENGTH: usize = 8;
/// Shortest value that is masked in output.
const MASK_MINIMUM: usize = 6;

/// Adds this crate's work for the store worker.
#[must_use]
pub fn jobs(table: JobTable) -> JobTable {
    table.register::<FindSecrets>()
}

/// Environment of a step's secrets, later ones winning.
pub(crate) fn environment(secrets: &[SecretValues]) -> Vec<(String, String)> {
    let mut merged = std::collections::BTreeMap::new();
    for secret in secrets {
        merged.extend(secret.values.clone());
    }
    merged.into_iter().collect()
}

/// What of the secrets enters keys: names, never values.
pub(crate) fn names(secrets: &[SecretValues]) -> serde_json::Value {
    let name = |secret: &SecretValues| serde_json::json!({ "name": secret.name, "variables": secret.values.keys().collect::<Vec<_>>() });
    secrets.iter().map(name).collect()
}

/// Texts that must not be printed: the values, their lines, and the forms in which they may be written down.
pub(crate) fn masks(secrets: &[SecretValues]) -> Vec<String> {
    let values = secrets.iter().flat_map(|secret| secret.values.values());
    let mut masks: Vec<String> = values
        .flat_map(|value| {
            let lines = value.lines().filter(|line| line.len() >= MASK_MINIMUM).map(str::to_owned);
            let long_enough = value.len() >= MINIMUM_LENGTH;
            let forms = if long_enough { encodings(value.as_bytes()) } else { Vec::new() };
            lines.chain(forms.into_iter().filter_map(|form| String::from_utf8(form).ok())).collect::<Vec<_>>()
        })
        .collect();
    // The longest first: a shorter one may be a part of it.
    masks.sort_by_key(|mask| std::cmp::Reverse(mask.len()));
    masks.dedup();
    masks
}

/// Looks for secret values in everything that a step changed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FindSecrets {
    /// The work whose upper is searched.
    pub(crate) work: String,
    /// Variables and values.
    pub(crate) secrets: Vec<(String, String)>,
}

/// A variable's value was found at a path.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// The variable.
    pub(crate) variable: String,
    /// The path inside the image.
    pub(crate) path: String,
}

impl Job for FindSecrets {
    const NAME: &'static str = "build.find_secrets";
    type Output = Option<Finding>;

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Self::Output, JobError> {
        let needles: Vec<(String, Vec<Vec<u8>>)> = self
            .secrets
            .into_iter()
            .filter(|(_, value)| value.len() >= MINIMUM_LENGTH)
            .map(|(variable, value)| (variable, encodings(value.as_bytes())))
            .collect();
        if needles.is_empty() {
            return Ok(None);
        }
        let upper = context.upper(&self.work);
        Search { root: &upper, needles: &needles }
            .directory(&upper)
            .map_err(|error| JobError::new(JobError::STORE, error.to_string()))
    }
}

/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// The kernel's limit for an extended attribute's value, and for all names of a file together.
const ATTRIBUTE_SIZE: usize = 64 << 10;

/// A variable and the forms of its value.
type Needle = (String, Vec<Vec<u8>>);

/// A walk through everything that a step changed.
struct Search<'a> {
    root: &'a Path,
    needles: &'a [Needle],
}

impl Search<'_> {
    fn directory(&self, directory: &Path) -> io::Result<Option<Finding>> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let path = entry.path();
            let inside = Path::new("/").join(path.strip_prefix(self.root).unwrap_or(&path));
            let kind = entry.file_type()?;
            let mut found = self.variable_in(inside.as_os_str().as_bytes());
            if found.is_none() && kind.is_symlink() {
                found = self.variable_in(fs::read_link(&path)?.as_os_str().as_bytes());
            } else if found.is_none() && kind.is_file() {
                found = self.variable_in_file(&path)?;
            }
            if found.is_none() {
                found = self.variable_in_attributes(&path)?;
            }
            if let Some(variable) = found {
                return Ok(Some(Finding { variable: variable.to_owned(), path: inside.display().to_string() }));
            }
            if kind.is_dir()
                && let Some(finding) = self.directory(&path)?
            {
                return Ok(Some(finding));
            }
        }
        Ok(None)
    }

    /// Searches a file piece by piece; the pieces overlap by the longest needle.
    fn variable_in_file(&self, path: &Path) -> io::Result<Option<&str>> {
        let overlap = self.needles.iter().flat_map(|(_, forms)| forms).map(Vec::len).max().unwrap_or(1) - 1;
        let mut file = fs::File::open(path)?;
        let mut buffer = vec![0; CHUNK + overlap];
        let mut kept = 0;
        loop {
            let count = file.read(&mut buffer[kept..])?;
            if count == 0 {
                return Ok(None);
            }
            let filled = kept + count;
            if let Some(variable) = self.variable_in(&buffer[..filled]) {
                return Ok(Some(variable));
            }
            kept = filled.min(overlap);
            buffer.copy_within(filled - kept..filled, 0);
        }
    }

    /// Searches the names and values of extended attributes.
    fn variable_in_attributes(&self, path: &Path) -> io::Result<Option<&str>> {
        let mut names = vec![0; ATTRIBUTE_SIZE];
        let length = match rustix::fs::llistxattr(path, &mut names) {
            Err(Errno::NOTSUP) => return Ok(None),
            result => result?,
        };
        let mut value = Vec::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            value.resize(ATTRIBUTE_SIZE, 0);
            let length = rustix::fs::lgetxattr(path, name, &mut value)?;
            if let Some(variable) = self.variable_in(name).or_else(|| self.variable_in(&value[..length])) {
                return Ok(Some(variable));
            }
        }
        Ok(None)
    }

    fn variable_in(&self, content: &[u8]) -> Option<&str> {
        let found = |(_, forms): &&Needle| forms.iter().any(|form| memmem::find(content, form).is_some());
        self.needles.iter().find(found).map(|(variable, _)| variable.as_str())
    }
}

/// The forms in which a value may have been written down: plain, base64, hexadecimal, URL-encoded.
fn encodings(value: &[u8]) -> Vec<Vec<u8>> {
    let hexadecimal = value.iter().fold(String::new(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    let url = value.iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    });
    let mut forms = vec![value.to_vec(), url.into_bytes()];
    forms.extend(windows(hexadecimal.to_uppercase().into_bytes()));
    forms.extend(windows(hexadecimal.into_bytes()));
    for window in (0..3).flat_map(|offset| windows(base64_core(value, offset))) {
        forms.push(window.iter().map(|digit| url_safe(*digit)).collect());
        forms.push(window);
    }
    forms.retain(|form| form.len() >= MINIMUM_LENGTH);
    forms.dedup();
    forms
}

/// Two neighbouring parts of a long text. Encoders break lines every 60 to 76 digits: whichever line a text falls into, one
/// of the two is whole.
fn windows(text: Vec<u8>) -> Vec<Vec<u8>> {
    const LENGTH: usize = 28;
    if text.len() > 2 * LENGTH { vec![text[..LENGTH].to_vec(), text[LENGTH..2 * LENGTH].to_vec()] } else { vec![text] }
}

/// A base64 digit in the alphabet for addresses.
fn url_safe(digit: u8) -> u8 {
    match digit {
        b'+' => b'-',
        b'/' => b'_',
        other => other,
    }
}

/// The part of a base64 text that only depends on `value`, when it starts `offset` bytes after a group's start.
fn base64_core(value: &[u8], offset: usize) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let skipped = (3 - offset) % 3;
    value
        .get(skipped..)
        .unwrap_or_default()
        .chunks_exact(3)
        .flat_map(|group| {
            let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
            [18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_in_every_form() {
        let directory = tempfile::tempdir().unwrap();
        let needles = vec![("TOKEN".to_owned(), encodings(b"s3cr3t/value+1"))];
        let forms = [
            "x s3cr3t/value+1 y",
            "7333637233742F76616C75652B31",
            "7333637233742f76616c75652b31",
            "s3cr3t%2Fvalue%2B1",
            "czNjcjN0L3ZhbHVlKzE=",
            "eHMzY3IzdC92YWx1ZSsx",
            "eHhzM2NyM3QvdmFsdWUrMQ==",
        ];
        for form in forms {
            let file = directory.path().join("file");
            fs::write(&file, form).unwrap();
            let finding = Search { root: directory.path(), needles: &needles }.directory(directory.path()).unwrap();
            assert_eq!(finding.map(|finding| finding.path).as_deref(), Some("/file"), "{form}");
            fs::remove_file(&file).unwrap();
        }
        fs::write(directory.path().join("innocent"), "nothing here").unwrap();
        let search = Search { root: directory.path(), needles: &needles };
        assert!(search.directory(directory.path()).unwrap().is_none());

        // A long value in lines of 76 digits, as `base64` writes it, wherever it starts in its line.
        let value: Vec<u8> = (0..100_u8).map(|index| b'a' + index % 23).collect();
        let needles = vec![("LONG".to_owned(), encodings(&value))];
        for padding in 0..40 {
            let text = base64_core(&[vec![b'x'; padding], value.clone(), vec![b'x'; 6]].concat(), 0);
            let lines = text.chunks(76).collect::<Vec<_>>().join(&b"\n"[..]);
            fs::write(directory.path().join("lines"), lines).unwrap();
            let search = Search { root: directory.path(), needles: &needles };
            assert!(search.directory(directory.path()).unwrap().is_some(), "{padding}");
        }
        fs::remove_file(directory.path().join("lines")).unwrap();

        let (name, value) = ("user.note", b"has s3cr3t/value+1 in it");
        let attributed = directory.path().join("attributed");
        fs::write(&attributed, "").unwrap();
        rustix::fs::setxattr(&attributed, name, value, rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(search.directory(directory.path()).unwrap().unwrap().path, "/attributed");
        fs::remove_file(&attributed).unwrap();

        // Across the boundary of two pieces, and spread over a path.
        let mut long = vec![b'x'; CHUNK - 3];
        long.extend_from_slice(b"s3cr3t/value+1");
        fs::write(directory.path().join("long"), long).unwrap();
        assert_eq!(search.directory(directory.path()).unwrap().unwrap().path, "/long");
        fs::remove_file(directory.path().join("long")).unwrap();
        fs::create_dir_all(directory.path().join("s3cr3t/value+1")).unwrap();
        assert_eq!(search.directory(directory.path()).unwrap().unwrap().path, "/s3cr3t/value+1");
    }

    #[test]
    fn every_line_and_form_of_a_value_is_masked() {
        let values = [("KEY".to_owned(), "first line\nsecond line\nx".to_owned())].into();
        let masks = masks(&[SecretValues { name: String::new(), values }]);
        for part in ["first line", "second line", "Zmlyc3QgbGluZQpzZWNvbmQgbGlu"] {
            assert!(masks.iter().any(|mask| mask == part || mask.starts_with(part)), "{part}: {masks:?}");
        }
        assert!(!masks.contains(&"x".to_owned()));
    }
}
