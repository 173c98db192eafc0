//! Secrets must not stay in a layer: the result of a step that had some is searched before it is committed.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use lamina_image::SecretValues;
use lamina_store::{Job, JobError, JobTable, WorkerContext};
use serde::{Deserialize, Serialize};

/// Shortest value that is searched for: shorter ones occur by accident.
const MINIMUM_LENGTH: usize = 8;

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
        search(&upper, &upper, &needles).map_err(|error| JobError::new("io", error.to_string()))
    }
}

fn search(directory: &Path, root: &Path, needles: &[(String, Vec<Vec<u8>>)]) -> std::io::Result<Option<Finding>> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        let mut content = entry.file_name().as_bytes().to_vec();
        if kind.is_file() {
            content.push(0);
            content.extend(fs::read(&path)?);
        } else if kind.is_symlink() {
            content.push(0);
            content.extend(fs::read_link(&path)?.as_os_str().as_bytes());
        }
        if let Some((variable, _)) = needles.iter().find(|(_, forms)| forms.iter().any(|form| contains(&content, form)))
        {
            let inside = PathBuf::from("/").join(path.strip_prefix(root).unwrap_or(&path));
            return Ok(Some(Finding { variable: variable.clone(), path: inside.display().to_string() }));
        }
        if kind.is_dir()
            && let Some(finding) = search(&path, root, needles)?
        {
            return Ok(Some(finding));
        }
    }
    Ok(None)
}

fn contains(content: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut rest = content;
    while let Some(position) = rest.iter().position(|byte| byte == first) {
        if rest[position..].starts_with(needle) {
            return true;
        }
        rest = &rest[position + 1..];
    }
    false
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
    let mut forms =
        vec![value.to_vec(), hexadecimal.to_uppercase().into_bytes(), hexadecimal.into_bytes(), url.into_bytes()];
    forms.extend((0..3).map(|offset| base64_core(value, offset)).filter(|form| form.len() >= MINIMUM_LENGTH));
    forms.dedup();
    forms
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
            let finding = search(directory.path(), directory.path(), &needles).unwrap();
            assert_eq!(finding.map(|finding| finding.path).as_deref(), Some("/file"), "{form}");
            fs::remove_file(&file).unwrap();
        }
        fs::write(directory.path().join("innocent"), "nothing here").unwrap();
        assert!(search(directory.path(), directory.path(), &needles).unwrap().is_none());
    }
}
