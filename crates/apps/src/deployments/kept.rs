//! Calls of a deployed app that were spawned: their inputs until they have ended, and then their results.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lamina_ground::random_name;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::record::sync_directory;
use super::{DeploymentName, Deployments, names_in};
use crate::files::{private_file, read_file};
use crate::records::make_private;
use crate::{AppsError, Deployment};

/// How long results are kept.
const KEPT_FOR: Duration = Duration::from_hours(7 * 24);

/// Bytes of results of one app after which the oldest go.
const KEPT_BYTES: u64 = 1 << 30;

/// A call that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingCall {
    /// The function or class.
    pub function: String,
    /// The method of a class.
    #[serde(default)]
    pub method: Option<String>,
    /// What it is of, where that is a class with parameters or has options of its own; null otherwise.
    #[serde(default)]
    pub variant: Value,
    /// When it was spawned, in seconds since 1970.
    pub spawned: u64,
    /// How many processes of the app have begun to run it.
    pub runs: u32,
    /// The id of its input in the process that has begun last; empty where a former version did not write it down.
    #[serde(default)]
    pub input: String,
    /// The module of its function.
    #[serde(default)]
    pub module: String,
}

/// The calls of one app that are kept, by the ids of their function calls.
#[derive(Debug, Clone)]
pub struct KeptCalls {
    directory: PathBuf,
}

impl Deployments {
    /// The calls of an app that are kept.
    ///
    /// # Errors
    /// When their directory cannot be made.
    pub fn kept_calls(&self, name: &DeploymentName) -> Result<KeptCalls, AppsError> {
        let directory = self.directory(name).join("calls");
        make_private(&directory)?;
        Ok(KeptCalls { directory })
    }

    /// The app that keeps a call.
    ///
    /// # Errors
    /// When there is none, or its record is damaged.
    pub fn app_of_call(&self, id: &str) -> Result<DeploymentName, AppsError> {
        let keeps = |name: &DeploymentName| {
            let calls = KeptCalls { directory: self.directory(name).join("calls") };
            calls.has(id)
        };
        let is_id = id.starts_with("fc-") && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let unknown = || AppsError::UnknownCall(id.to_owned());
        if !is_id {
            return Err(unknown());
        }
        let all = self.survey()?;
        let mut names = all.sound.iter().filter(|app| app.is_deployed()).map(Deployment::full_name);
        names.find(keeps).ok_or_else(|| {
            let damaged = all.damaged.into_iter().find(|(name, _)| keeps(name));
            damaged.map_or_else(unknown, |(_, error)| error)
        })
    }
}

impl KeptCalls {
    /// Whether a call is kept, or its result.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.pending_file(id).is_file() || self.result_file(id).is_file()
    }

    /// Keeps the input of a call, so that it is not forgotten whatever happens.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&self, id: &str, call: &PendingCall, input: &[u8]) -> Result<(), AppsError> {
        write(&self.pending_file(id), call, input, !is_further(id))
    }

    /// Keeps the result of a call; `about` says what it is.
    ///
    /// # Errors
    /// When it cannot be written; the input is kept on then.
    pub fn end(&self, id: &str, about: &impl Serialize, result: &[u8]) -> Result<(), AppsError> {
        write(&self.result_file(id), about, result, !is_further(id))?;
        Ok(fs_err::remove_file(self.pending_file(id))?)
    }

    /// The result of a call that has ended.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn result<T: DeserializeOwned>(&self, id: &str) -> Result<Option<(T, Vec<u8>)>, AppsError> {
        read(&self.result_file(id))
    }

    /// The names of the inputs that a call has, in their order, of those that are kept.
    ///
    /// # Errors
    /// When they cannot be looked at.
    pub fn inputs(&self, id: &str) -> Result<Vec<String>, AppsError> {
        let files = names_in(&self.directory)?;
        let stems = files.iter().filter_map(|file| file.strip_suffix(".call").or_else(|| file.strip_suffix(".result")));
        let place = |stem: &str| match stem.strip_prefix(id)? {
            "" => Some(0),
            further => further.strip_prefix('-')?.parse::<u64>().ok(),
        };
        let inputs: BTreeSet<_> = stems.filter_map(|stem| Some((place(stem)?, stem))).collect();
        Ok(inputs.into_iter().map(|(_, stem)| stem.to_owned()).collect())
    }

    /// Keeps what an input has called.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_graph(&self, name: &str, graph: &Value) -> Result<(), AppsError> {
        write(&self.graph_file(name), graph, &[], false)
    }

    /// What an input has called; nothing where that is nothing, or is not kept.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn graph(&self, name: &str) -> Result<Option<Value>, AppsError> {
        match read(&self.graph_file(name)) {
            Ok(read) => Ok(read.map(|(graph, _)| graph)),
            // The machine stopped before it was on the disk.
            Err(AppsError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The calls that have not ended, with their inputs, as far as that can be known.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn pending(&self) -> Result<Vec<(String, PendingCall, Vec<u8>)>, AppsError> {
        let mut pending = Vec::new();
        for file in names_in(&self.directory)? {
            let Some(id) = file.strip_suffix(".call") else { continue };
            if self.result_file(id).is_file() {
                // Its process was killed in between.
                fs_err::remove_file(self.pending_file(id))?;
                continue;
            }
            match read(&self.pending_file(id)) {
                Ok(Some((call, input))) => pending.push((id.to_owned(), call, input)),
                Ok(None) => {}
                // The machine stopped before it was on the disk.
                Err(AppsError::Damaged { .. }) if is_further(id) => fs_err::remove_file(self.pending_file(id))?,
                Err(error) => return Err(error),
            }
        }
        pending.sort_by(|one: &(String, PendingCall, Vec<u8>), other| {
            (one.1.spawned, &one.0).cmp(&(other.1.spawned, &other.0))
        });
        Ok(pending)
    }

    /// Forgets results that are older than seven days, and the oldest of those that take more than a gibibyte together.
    ///
    /// # Errors
    /// When they cannot be looked at.
    pub fn forget_old(&self, now: SystemTime) -> Result<(), AppsError> {
        let mut results = Vec::new();
        for file in names_in(&self.directory)? {
            let path = self.directory.join(&file);
            let Ok(metadata) = fs_err::symlink_metadata(&path) else { continue };
            let written = metadata.modified().unwrap_or(now);
            let is_old = now.duration_since(written).is_ok_and(|age| age > KEPT_FOR);
            if path.extension().is_some_and(|kind| kind == "result" || kind == "graph") && !is_old {
                results.push((written, metadata.len(), path));
            } else if is_old && path.extension().is_none_or(|kind| kind != "call") {
                // Also what somebody left who was killed while writing. What cannot be removed now is the next time.
                let _ = fs_err::remove_file(&path);
            }
        }
        results.sort_unstable_by(|one, other| other.cmp(one));
        let mut bytes = 0;
        for (_, length, path) in results {
            bytes += length;
            if bytes > KEPT_BYTES {
                let _ = fs_err::remove_file(&path);
            }
        }
        Ok(())
    }

    fn pending_file(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.call"))
    }

    fn result_file(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.result"))
    }

    fn graph_file(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.graph"))
    }
}

/// Whether this is a further input of a call that has many: whoever has spawned them does not wait for the disk with each.
fn is_further(id: &str) -> bool {
    id.strip_prefix("fc-").is_some_and(|rest| rest.contains('-'))
}

/// Writes a line of JSON and bytes, whole or not at all, and as good as for ever if it is `durable`.
fn write(path: &Path, about: &impl Serialize, bytes: &[u8], durable: bool) -> Result<(), AppsError> {
    let mut line = serde_json::to_vec(about).map_err(std::io::Error::from)?;
    line.push(b'\n');
    let temporary = path.with_extension(format!("tmp-{}", random_name()));
    let fill = |mut file: fs_err::File| {
        file.write_all(&line)?;
        file.write_all(bytes)?;
        if durable { file.sync_data() } else { Ok(()) }
    };
    let written = private_file().open(&temporary).and_then(fill).and_then(|()| fs_err::rename(&temporary, path));
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs_err::remove_file(&temporary);
    }
    written?;
    if durable { sync_directory(path) } else { Ok(()) }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<(T, Vec<u8>)>, AppsError> {
    let Some(mut bytes) = read_file(path)? else { return Ok(None) };
    let damaged = |reason: String| AppsError::Damaged { path: path.to_owned(), reason };
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no first line".to_owned()))?;
    let about = serde_json::from_slice(&bytes[..end]).map_err(|error| damaged(error.to_string()))?;
    bytes.drain(..=end);
    Ok(Some((about, bytes)))
}
