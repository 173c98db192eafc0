//! The files that named secrets are kept in: `ENVIRONMENT/NAME.json`.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fs_err::File;
use lamina_ground::{random_id, seconds_since_1970};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{SecretName, SecretsError, name};

/// Environment variables.
pub type Values = BTreeMap<String, String>;

/// What a file's name ends in.
const SUFFIX: &str = ".json";
/// What the names of files begin with that are still being written. No name of a secret does, because these end otherwise.
const UNFINISHED: &str = ".unfinished-";

/// Contents of a file.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// `st-…`.
    id: String,
    /// Seconds since 1970.
    created: u64,
    values: Values,
}

/// A secret as it is listed, without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSecret {
    /// Its id, `st-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Names of its variables.
    pub variables: Vec<String>,
}

/// The secrets of a user, by name.
#[derive(Debug, Clone)]
pub struct NamedSecrets {
    directory: PathBuf,
}

impl NamedSecrets {
    /// Those that are kept in `directory`, which need not be there.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The variables of a secret, which has to have those that are `required`.
    ///
    /// # Errors
    /// When there is no such secret, it lacks one of them, or it cannot be read.
    pub fn get(&self, name: &SecretName, required: &[String]) -> Result<Values, SecretsError> {
        Ok(self.require(name, required)?.values)
    }

    /// What is known about a secret, which has to have the variables that are `required`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn find(&self, name: &SecretName, required: &[String]) -> Result<ListedSecret, SecretsError> {
        Ok(listed(name.name.clone(), self.require(name, required)?))
    }

    fn require(&self, name: &SecretName, required: &[String]) -> Result<Kept, SecretsError> {
        let kept = self.read(name)?.ok_or_else(|| not_found(name, required))?;
        let missing: Vec<_> = required.iter().filter(|key| !kept.values.contains_key(*key)).cloned().collect();
        if missing.is_empty() {
            return Ok(kept);
        }
        let SecretName { name, environment } = name.clone();
        Err(SecretsError::MissingKeys { name, environment, missing, known: kept.values.into_keys().collect() })
    }

    /// Makes a secret. One of that name is replaced if `replace` says so.
    ///
    /// # Errors
    /// When there is one already, a variable cannot be one, or the file cannot be written.
    pub fn create(&self, name: &SecretName, values: Values, replace: bool) -> Result<(), SecretsError> {
        check(&values)?;
        let _alone = self.lock(name)?;
        if !replace && self.read(name)?.is_some() {
            return Err(SecretsError::Exists { name: name.name.clone(), environment: name.environment.clone() });
        }
        self.write(name, &Kept { id: random_id("st"), created: seconds_since_1970(), values })
    }

    /// Gives a secret further variables, and those that it has these values.
    ///
    /// # Errors
    /// When there is no such secret, a variable cannot be one, or the file cannot be written.
    pub fn update(&self, name: &SecretName, values: Values) -> Result<(), SecretsError> {
        check(&values)?;
        let _alone = self.lock(name)?;
        let mut kept = self.read(name)?.ok_or_else(|| not_found(name, &[]))?;
        kept.values.extend(values);
        self.write(name, &kept)
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot be removed.
    pub fn delete(&self, name: &SecretName) -> Result<(), SecretsError> {
        let file = self.file(name);
        if !file.exists() {
            return Err(not_found(name, &[]));
        }
        // Whoever updates it meanwhile would bring it back.
        let locked = self.lock(name)?;
        match fs_err::remove_file(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(not_found(name, &[])),
            other => Ok(other.and_then(|()| locked.sync_all())?),
        }
    }

    /// The secrets of an environment, by name.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn list(&self, environment: &str) -> Result<Vec<ListedSecret>, SecretsError> {
        name::check("environment", environment)?;
        let entries = match fs_err::read_dir(self.directory.join(environment)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut list = Vec::new();
        for entry in entries {
            let file = entry?.file_name();
            let Some(name) = file.to_str().and_then(|file| file.strip_suffix(SUFFIX)) else { continue };
            let Ok(name) = SecretName::new(environment, name) else { continue };
            // It may have been removed since.
            if let Some(kept) = self.read(&name)? {
                list.push(listed(name.name, kept));
            }
        }
        list.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(list)
    }

    fn file(&self, name: &SecretName) -> PathBuf {
        self.directory.join(&name.environment).join(format!("{}{SUFFIX}", name.name))
    }

    fn read(&self, name: &SecretName) -> Result<Option<Kept>, SecretsError> {
        let path = self.file(name);
        match fs_err::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
            // The error's own words may hold values.
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| SecretsError::Damaged { path, line: error.line() }),
        }
    }

    /// Whoever changes secrets of an environment does so alone, until the file is closed. What another one has left
    /// unfinished is removed.
    fn lock(&self, name: &SecretName) -> Result<File, SecretsError> {
        let directory = self.directory.join(&name.environment);
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&directory).map_err(|error| about(&directory, &error))?;
        let locked = File::open(&directory)?;
        flock(&locked, FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
        for entry in fs_err::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                fs_err::remove_file(entry.path())?;
            }
        }
        Ok(locked)
    }

    /// Replaces a file as a whole.
    fn write(&self, name: &SecretName, kept: &Kept) -> Result<(), SecretsError> {
        let directory = self.directory.join(&name.environment);
        // Made with mode 0600, and removed if anything fails.
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&directory)?;
        let bytes = serde_json::to_vec(kept).map_err(std::io::Error::from)?;
        let written = file.write_all(&bytes).and_then(|()| file.as_file().sync_all());
        written.map_err(|error| about(file.path(), &error))?;
        let path = self.file(name);
        file.persist(&path).map_err(|error| about(&path, &error.error))?;
        Ok(File::open(&directory)?.sync_all()?)
    }
}

fn listed(name: String, Kept { id, created, values }: Kept) -> ListedSecret {
    ListedSecret { id, name, created, variables: values.into_keys().collect() }
}

fn not_found(name: &SecretName, required: &[String]) -> SecretsError {
    let SecretName { name, environment } = name.clone();
    SecretsError::NotFound { name, environment, required: required.to_vec() }
}

/// Refuses what no process can have in its environment.
fn check(values: &Values) -> Result<(), SecretsError> {
    for (name, value) in values {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(SecretsError::Variable(name.clone()));
        }
        if value.contains('\0') {
            return Err(SecretsError::Value(name.clone()));
        }
    }
    Ok(())
}

/// An error of the system that names the file.
fn about(path: &Path, error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("failed to write `{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use lamina_ground::{ErrorClass, Hint};

    use super::*;

    fn secrets() -> (tempfile::TempDir, NamedSecrets) {
        let directory = tempfile::tempdir().unwrap();
        let secrets = NamedSecrets::new(directory.path().join("secrets"));
        (directory, secrets)
    }

    fn named(name: &str) -> SecretName {
        SecretName::new("main", name).unwrap()
    }

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_secret_is_made_read_changed_and_removed() {
        let (_directory, secrets) = secrets();
        assert_eq!(secrets.list("main").unwrap(), []);
        secrets.create(&named("hf"), values(&[("TOKEN", "one")]), false).unwrap();
        assert_eq!(secrets.get(&named("hf"), &["TOKEN".into()]).unwrap(), values(&[("TOKEN", "one")]));
        let again = secrets.create(&named("hf"), values(&[("TOKEN", "two")]), false).unwrap_err();
        assert_eq!(again.class(), ErrorClass::AlreadyExistsError);
        secrets.update(&named("hf"), values(&[("USER", "ada")])).unwrap();
        assert_eq!(secrets.get(&named("hf"), &[]).unwrap(), values(&[("TOKEN", "one"), ("USER", "ada")]));
        secrets.create(&named("hf"), values(&[("TOKEN", "two")]), true).unwrap();
        assert_eq!(secrets.get(&named("hf"), &[]).unwrap(), values(&[("TOKEN", "two")]));
        let listed = secrets.list("main").unwrap();
        assert_eq!((listed.len(), &*listed[0].name, &listed[0].variables), (1, "hf", &vec!["TOKEN".to_owned()]));
        secrets.delete(&named("hf")).unwrap();
        assert_eq!(secrets.delete(&named("hf")).unwrap_err().class(), ErrorClass::NotFoundError);
    }

    #[test]
    fn environments_have_secrets_of_their_own() {
        let (_directory, secrets) = secrets();
        let staging = SecretName::new("staging", "hf").unwrap();
        secrets.create(&staging, values(&[("TOKEN", "one")]), false).unwrap();
        let error = secrets.get(&named("hf"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "there is no secret `hf`");
        assert_eq!(error.hint().unwrap(), "make it with `modal secret create hf NAME=VALUE`");
        secrets.delete(&staging).unwrap();
        let error = secrets.get(&staging, &["TOKEN".into(), "USER".into()]).unwrap_err();
        assert_eq!(error.to_string(), "there is no secret `hf` in the environment `staging`");
        assert_eq!(error.hint().unwrap(), "make it with `modal secret create --env staging hf TOKEN=VALUE USER=VALUE`");
    }

    #[test]
    fn missing_variables_are_named_and_values_are_not() {
        let (_directory, secrets) = secrets();
        secrets.create(&named("hf"), values(&[("TOKEN", "hunter2")]), false).unwrap();
        let error = secrets.get(&named("hf"), &["TOKEN".into(), "USER".into(), "URL".into()]).unwrap_err();
        assert_eq!(error.to_string(), "the secret `hf` has no variable `USER`, `URL`: it has `TOKEN`");
        assert!(error.hint().unwrap().contains("modal secret create --force hf USER=VALUE URL=VALUE …"));
        fs_err::write(secrets.file(&named("hf")), r#"{"values":{"TOKEN":"hunter2"#).unwrap();
        let damaged = secrets.get(&named("hf"), &[]).unwrap_err();
        assert!(damaged.to_string().contains("damaged") && !format!("{damaged} {damaged:?}").contains("hunter2"));
        secrets.create(&named("other"), values(&[]), false).unwrap();
    }

    #[test]
    fn only_the_owner_may_read() {
        let (directory, secrets) = secrets();
        secrets.create(&named("hf"), values(&[("TOKEN", "one")]), false).unwrap();
        let mode = |path: &Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&secrets.file(&named("hf"))), 0o600);
        assert_eq!(mode(&directory.path().join("secrets/main")), 0o700);
        assert_eq!(mode(&directory.path().join("secrets")), 0o700);
    }

    #[test]
    fn what_was_left_unfinished_goes_and_is_never_listed() {
        let (directory, secrets) = secrets();
        secrets.create(&named("a"), values(&[]), false).unwrap();
        let left = directory.path().join("secrets/main").join(format!("{UNFINISHED}x"));
        fs_err::write(&left, "hunter2").unwrap();
        assert_eq!(secrets.list("main").unwrap().len(), 1);
        secrets.create(&named("b"), values(&[]), false).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn changes_at_the_same_time_all_count() {
        let (_directory, secrets) = secrets();
        secrets.create(&named("a"), values(&[]), false).unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let secrets = &secrets;
                scope.spawn(move || secrets.update(&named("a"), values(&[(&format!("V{number}"), "x")])).unwrap());
            }
        });
        assert_eq!(secrets.get(&named("a"), &[]).unwrap().len(), 8);
    }

    #[test]
    fn what_was_removed_is_not_brought_back() {
        let (_directory, secrets) = secrets();
        for _ in 0..50 {
            secrets.create(&named("a"), values(&[]), false).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..3 {
                        let _ = secrets.update(&named("a"), values(&[("V", "x")]));
                    }
                });
                secrets.delete(&named("a")).unwrap();
            });
            assert_eq!(secrets.list("main").unwrap(), []);
        }
    }

    #[test]
    fn what_no_environment_can_hold_is_refused() {
        let (_directory, secrets) = secrets();
        for (variable, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0hunter2")] {
            let error = secrets.create(&named("a"), values(&[(variable, value)]), false).unwrap_err();
            assert_eq!(error.class(), ErrorClass::InvalidError);
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
