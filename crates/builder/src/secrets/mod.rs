//! Secrets must not stay in a layer: the result of a step that had some is searched before it is committed: paths, link
//! targets, contents, extended attributes. Nor are they shown: output is masked.

mod forms;
mod masks;
mod packages;
mod plain;
mod search;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use lamina_image::SecretValues;
use lamina_store::{Job, JobError, JobTable, LayerPath, Store, StoreError, Work, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::BuildError;
use crate::steps::StepError;

pub(crate) use masks::{Masker, Masks};

use forms::{Form, forms};
use plain::{Nature, nature};
use search::{Needle, Search};

/// Shortest value that is searched for: shorter ones occur by accident.
const MINIMUM_LENGTH: usize = 8;
/// Shortest value that is masked in output.
const MASK_MINIMUM: usize = 6;

/// Adds this crate's work for the store worker.
#[must_use]
pub fn jobs(table: JobTable) -> JobTable {
    let table = table.register::<FindSecrets>().register::<crate::toolchain::Look>();
    crate::steps::jobs(table.register::<crate::steps::LookAtImage>())
}

/// Variables of a step's secrets whose values are to be kept; later secrets win. Those that the user allows, and those
/// that plainly are settings, are left out.
pub(crate) fn kept(secrets: &[SecretValues]) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    for secret in secrets {
        for (variable, value) in &secret.values {
            let is_open = secret.allowed.contains(variable) || nature(variable, value) == Nature::Setting;
            if is_open {
                kept.remove(variable)
            } else {
                kept.insert(variable.clone(), value.clone())
            };
        }
    }
    kept
}

/// Refuses what a step made if a secret stayed in it.
pub(crate) fn refuse_kept(work: &Work, secrets: &[SecretValues], store: &Store) -> Result<(), StepError> {
    let secrets = kept(secrets);
    if secrets.is_empty() {
        return Ok(());
    }
    let search = FindSecrets { work: work.id().to_owned(), secrets };
    let finding = store.job(&search, &[]).map_err(|error| BuildError::from(StoreError::from(error)))?;
    let Some(Finding { variable, path }) = finding else { return Ok(()) };
    Err(StepError::Failed {
        message: format!("its result contains the value of the secret `{variable}`, in `{path}`"),
        hint: Some(format!(
            "delete the file in the same step, or do not write the secret to disk; if `{variable}` is none, say so with \
             `secret.allow(\"{variable}\")`"
        )),
    })
}

/// What of the secrets enters keys: names, never values.
pub(crate) fn names(secrets: &[SecretValues]) -> serde_json::Value {
    let name = |secret: &SecretValues| serde_json::json!({ "name": secret.name, "variables": secret.values.keys().collect::<Vec<_>>() });
    secrets.iter().map(name).collect()
}

/// Looks for secret values in everything that a step changed.
#[derive(Debug, Serialize, Deserialize)]
struct FindSecrets {
    /// The work whose upper is searched.
    work: String,
    /// Variables and values.
    secrets: BTreeMap<String, String>,
}

/// A variable's value was found at a path.
#[derive(Debug, Serialize, Deserialize)]
struct Finding {
    /// The variable.
    variable: String,
    /// The path inside the image.
    path: String,
}

impl Job for FindSecrets {
    const NAME: &'static str = "build.find_secrets";
    type Output = Option<Finding>;

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Self::Output, JobError> {
        let mut needles: Vec<Needle> =
            self.secrets.iter().filter_map(|(variable, value)| needle(variable, value)).collect();
        if needles.is_empty() {
            return Ok(None);
        }
        Search::new(LayerPath::upper(context, &self.work), &mut needles).run().map_err(JobError::from)
    }
}

/// What gives a value away, if it is long enough.
fn needle(variable: &str, value: &str) -> Option<Needle> {
    (value.len() >= MINIMUM_LENGTH).then(|| Needle {
        variable: variable.to_owned(),
        texts: forms(value.as_bytes()).into_iter().flat_map(Form::needles).collect(),
        is_word: nature(variable, value) != Nature::Random,
    })
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;

    #[test]
    fn values_are_found_in_every_form() {
        let directory = tempfile::tempdir().unwrap();
        let find = |variable: &str, value: &str| {
            let mut needles = vec![needle(variable, value).unwrap()];
            Search::new(LayerPath::view(directory.path(), &".".into()), &mut needles)
                .run()
                .unwrap()
                .map(|finding| finding.path)
        };
        let search = || find("TOKEN", "s3cr3t/value+1");
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
            assert_eq!(search().as_deref(), Some("/file"), "{form}");
            fs::remove_file(&file).unwrap();
        }
        fs::write(directory.path().join("innocent"), "nothing here").unwrap();
        assert_eq!(search(), None);

        // A long value in lines of 76 digits, as `base64` writes it, wherever it starts in its line.
        let value: Vec<u8> = (0..100_u8).map(|index| b'a' + index % 23).collect();
        for padding in 0..40 {
            let text = data_encoding::BASE64.encode(&[vec![b'x'; padding], value.clone(), vec![b'x'; 6]].concat());
            let lines = text.as_bytes().chunks(76).collect::<Vec<_>>().join(&b"\n"[..]);
            fs::write(directory.path().join("lines"), lines).unwrap();
            assert!(find("LONG", std::str::from_utf8(&value).unwrap()).is_some(), "{padding}");
        }
        fs::remove_file(directory.path().join("lines")).unwrap();

        let (name, value) = ("user.note", b"has s3cr3t/value+1 in it");
        let attributed = directory.path().join("attributed");
        fs::write(&attributed, "").unwrap();
        rustix::fs::setxattr(&attributed, name, value, rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(search().unwrap(), "/attributed");
        fs::remove_file(&attributed).unwrap();
        rustix::fs::setxattr(directory.path(), name, value, rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(search().unwrap(), "/");
        rustix::fs::removexattr(directory.path(), name).unwrap();

        // Across the boundary of two pieces, and spread over a path.
        let mut long = vec![b'x'; (1 << 20) - 3];
        long.extend_from_slice(b"s3cr3t/value+1");
        fs::write(directory.path().join("long"), long).unwrap();
        assert_eq!(search().unwrap(), "/long");
        fs::remove_file(directory.path().join("long")).unwrap();
        fs::create_dir_all(directory.path().join("s3cr3t/value+1")).unwrap();
        assert_eq!(search().unwrap(), "/s3cr3t/value+1");
    }

    #[test]
    fn words_count_only_in_what_the_step_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let find = || {
            let values = [("PASSWORD", "postgres"), ("API_TOKEN", "a1b2c3d4e5f6a7b8")];
            let mut needles: Vec<Needle> =
                values.iter().filter_map(|(variable, value)| needle(variable, value)).collect();
            Search::new(LayerPath::view(directory.path(), &".".into()), &mut needles)
                .run()
                .unwrap()
                .map(|finding| (finding.variable, finding.path))
        };
        write("site/postgres/data", "postgres is a word");
        let digest = "CblU8af_VFYVgJ57O2aW12O-0JUrKGw3cBMcS2nm7ok";
        write("site/x-1.dist-info/RECORD", &format!("postgres/data,sha256={digest},18\n"));
        assert_eq!(find(), None);
        write("site/postgres/own", "");
        assert_eq!(find(), Some(("PASSWORD".to_owned(), "/site/postgres/own".to_owned())));
        fs::remove_file(directory.path().join("site/postgres/own")).unwrap();
        write("site/postgres/data", "postgres is a word, changed");
        assert_eq!(find(), Some(("PASSWORD".to_owned(), "/site/postgres/data".to_owned())));
        // Nothing contains a key by accident.
        write("site/postgres/data", "postgres a1b2c3d4e5f6a7b8");
        let digest = "9QdTdIAmtkBG9MbkK5QELCHbuBJ5x2NyvtlmRdDkV8c";
        write("site/x-1.dist-info/RECORD", &format!("postgres/data,sha256={digest},26\n"));
        assert_eq!(find(), Some(("API_TOKEN".to_owned(), "/site/postgres/data".to_owned())));
    }

    #[test]
    fn what_is_allowed_or_plainly_a_setting_is_not_kept() {
        let secret = |values: &[(&str, &str)], allowed: &[&str]| SecretValues {
            name: String::new(),
            values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            allowed: allowed.iter().map(|name| (*name).to_owned()).collect(),
            is_login: false,
            kept: None,
        };
        let secrets = [
            secret(&[("TOKEN", "one-two-three"), ("AWS_REGION", "eu-central-1"), ("A", "four-five-six")], &["A"]),
            secret(&[("TOKEN", "seven-eight-nine")], &[]),
        ];
        assert_eq!(
            kept(&secrets).into_iter().collect::<Vec<_>>(),
            [("TOKEN".to_owned(), "seven-eight-nine".to_owned())]
        );
    }
}
