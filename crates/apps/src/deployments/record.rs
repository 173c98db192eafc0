//! What is known of a deployed app: its record, and what each of its versions is.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use lamina_ground::{is_app_id, is_object_name, random_name};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::AppsError;
use crate::files::{private_file, read_file};

/// Version of the records.
const FORMAT: u32 = 1;

/// What a deployed app is called: a name within an environment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeploymentName {
    pub(crate) environment: String,
    pub(crate) name: String,
}

impl DeploymentName {
    /// The name, if it can be one: at most 64 letters, digits, dots, dashes and underscores, and not as an app's id.
    ///
    /// # Errors
    /// When it cannot, or the environment's cannot.
    pub fn new(environment: &str, name: &str) -> Result<Self, AppsError> {
        if !is_object_name(environment) {
            return Err(AppsError::EnvironmentName(environment.to_owned()));
        }
        if !is_object_name(name) || is_app_id(name) {
            return Err(AppsError::DeploymentName(name.to_owned()));
        }
        Ok(Self { environment: environment.to_owned(), name: name.to_owned() })
    }

    /// The environment.
    #[must_use]
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// The name within it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Display for DeploymentName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "`{}`", self.name)?;
        if self.environment == "main" {
            Ok(())
        } else {
            write!(formatter, " in the environment `{}`", self.environment)
        }
    }
}

/// A deployed app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id, `ap-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The environment that it belongs to.
    pub environment: String,
    /// When it was deployed first, in seconds since 1970.
    pub created: u64,
    /// When it was stopped, which is final.
    pub stopped: Option<u64>,
    /// The number of the version that calls get.
    pub current: u32,
    /// What its user has noted of it.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// The versions that there are, oldest first.
    pub versions: Vec<Version>,
}

/// A version of a deployed app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number, from 1.
    pub number: u32,
    /// When it was deployed, in seconds since 1970.
    pub deployed: u64,
    /// The version of the `modal` package that it was deployed with.
    pub client: String,
    /// Who deployed it.
    pub by: String,
    /// The commit of the source, with `*` behind it if there were changes beside it.
    pub commit: Option<String>,
    /// What its deployer has called it.
    pub tag: String,
    /// The version that it is the same as.
    #[serde(default)]
    pub rollback_of: Option<u32>,
}

/// Something as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored<T> {
    version: u32,
    #[serde(flatten)]
    value: T,
}

/// What a version consists of, as it is stored; what is in it is the engine's business.
#[derive(Serialize, Deserialize)]
struct Content<T> {
    content: T,
}

impl Deployment {
    /// Reads a record; nothing where there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, AppsError> {
        read(path)
    }

    /// Replaces the record as a whole.
    pub(super) fn write(&self, path: &Path) -> Result<(), AppsError> {
        write(path, self)
    }

    /// Its name.
    #[must_use]
    pub fn full_name(&self) -> DeploymentName {
        DeploymentName { environment: self.environment.clone(), name: self.name.clone() }
    }

    /// Whether it can be called.
    #[must_use]
    pub fn is_deployed(&self) -> bool {
        self.stopped.is_none()
    }
}

/// Reads what a version consists of; nothing where there is no such version.
pub(super) fn read_content(path: &Path) -> Result<Option<Value>, AppsError> {
    Ok(read::<Content<Value>>(path)?.map(|content| content.content))
}

/// Writes what a version consists of.
pub(super) fn write_content(path: &Path, content: &Value) -> Result<(), AppsError> {
    write(path, &Content { content })
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, AppsError> {
    let Some(bytes) = read_file(path)? else { return Ok(None) };
    let damaged = |reason: String| AppsError::Damaged { path: path.to_owned(), reason };
    let stored: Stored<Value> = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if stored.version != FORMAT {
        return Err(damaged(format!("it has the version `{}`, and this program reads `{FORMAT}`", stored.version)));
    }
    serde_json::from_value(stored.value).map(Some).map_err(|error| damaged(error.to_string()))
}

/// Writes a file that outlives a fall of the machine, whole or not at all, and that only its owner may read.
fn write(path: &Path, value: &impl Serialize) -> Result<(), AppsError> {
    let mut text = serde_json::to_vec(&Stored { version: FORMAT, value }).map_err(std::io::Error::from)?;
    text.push(b'\n');
    let temporary = path.with_extension(format!("tmp-{}", random_name()));
    let written = private_file()
        .open(&temporary)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .and_then(|()| fs_err::rename(&temporary, path));
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs_err::remove_file(&temporary);
    }
    written?;
    sync_directory(path)
}

/// Makes sure that the name of a file is on the disk.
pub(super) fn sync_directory(path: &Path) -> Result<(), AppsError> {
    let Some(directory) = path.parent() else { return Ok(()) };
    Ok(fs_err::File::open(directory)?.sync_all()?)
}
