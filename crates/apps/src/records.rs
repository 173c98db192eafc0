//! The records of detached apps in the store.

use std::cmp::Reverse;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lamina_events::CancelToken;
use lamina_ground::random_name;
use lamina_store::{Layout, Lock};
use serde::{Deserialize, Serialize};

use crate::files::{private_file, read_file};
use crate::state::StateFile;
use crate::{AppState, AppsError, LogReader, LogWriter};

/// Version of the records.
const VERSION: u32 = 1;

/// Apps that have ended and whose records are kept when another one starts.
pub(crate) const KEPT_APPS: usize = 100;

/// Bytes of records after which older ones go when another app starts.
pub(crate) const KEPT_BYTES: u64 = 1 << 30;

/// What is known of a detached app from its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRecord {
    /// Its id, `ap-…`.
    pub id: String,
    /// Its name, once the program has said it.
    pub name: Option<String>,
    /// What was run.
    pub reference: String,
    /// The arguments that followed.
    pub arguments: Vec<String>,
    /// The working directory.
    pub directory: String,
    /// When it started, in seconds since 1970.
    pub started: u64,
    /// Its place in the order in which apps were started, whatever the clock said: [`DetachedApps::create`] gives it.
    #[serde(default)]
    pub number: u64,
}

impl AppRecord {
    /// What is known of any app: one without a name and arguments.
    #[must_use]
    pub fn new(
        id: impl Into<String>,
        reference: impl Into<String>,
        directory: impl Into<String>,
        started: u64,
    ) -> Self {
        Self {
            id: id.into(),
            name: None,
            reference: reference.into(),
            arguments: Vec::new(),
            directory: directory.into(),
            started,
            number: 0,
        }
    }
}

/// A record as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored<R> {
    version: u32,
    #[serde(flatten)]
    record: R,
}

/// A detached app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachedApp {
    /// What is known of it.
    pub record: AppRecord,
    /// Whether it runs.
    pub state: AppState,
}

/// The detached apps of a store.
#[derive(Debug, Clone)]
pub struct DetachedApps {
    pub(crate) layout: Layout,
}

impl DetachedApps {
    /// Those of the store with this layout.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// Records an app that is about to run, and removes old records. Whoever holds the answer counts as the running
    /// app; it is for the background process, as its standard input, to [`DetachedApps::adopt`].
    ///
    /// # Errors
    /// When the record cannot be written, or `cancel` comes before it is this one's turn; as to `waiting` see
    /// [`DetachedApps::forbid_starts`].
    pub fn create(
        &self,
        record: &AppRecord,
        cancel: &CancelToken,
        waiting: impl FnOnce(),
    ) -> Result<OwnedFd, AppsError> {
        check_id(&record.id)?;
        make_private(&self.layout.apps())?;
        // Nobody takes a record that is being made for one that was left behind.
        let _alone = self.forbid_starts(cancel, waiting)?;
        let last = self.list()?.first().map_or(0, |app| app.record.number);
        let record = &AppRecord { number: last.saturating_add(1), ..record.clone() };
        // The next app's start tries again. First, so that a command that is killed meanwhile leaves no record.
        let _ = self.remove_old(KEPT_APPS, KEPT_BYTES);
        let directory = self.directory(&record.id);
        make_private(&directory)?;
        let made = fill(&directory, record);
        if made.is_err() {
            // The error that matters is the first one.
            let _ = fs_err::remove_dir_all(&directory);
        }
        made
    }

    /// Keeps apps from being started until the answer is dropped. `waiting` is called once if somebody else does so for
    /// a while.
    ///
    /// # Errors
    /// When the lock cannot be taken, or `cancel` comes first.
    pub fn forbid_starts(&self, cancel: &CancelToken, waiting: impl FnOnce()) -> Result<Lock, AppsError> {
        Ok(Lock::take_soon(&self.layout.locks().join("apps"), cancel, waiting)?.keep_file())
    }

    /// All of them, the one started last first. Records that make no sense to this version are left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<DetachedApp>, AppsError> {
        let mut apps = Vec::new();
        for name in self.names()? {
            apps.extend(self.get(&name)?);
        }
        let place = |app: &DetachedApp| (app.record.number, app.record.started, app.record.id.clone());
        apps.sort_by_cached_key(|app| Reverse(place(app)));
        Ok(apps)
    }

    /// The app with exactly this id, if its record makes sense.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, id: &str) -> Result<Option<DetachedApp>, AppsError> {
        if check_id(id).is_err() {
            return Ok(None);
        }
        let directory = self.directory(id);
        let Some(record) = read_record(&directory)? else { return Ok(None) };
        let state = StateFile::read(&state_file(&directory))?;
        Ok(Some(DetachedApp { record, state }))
    }

    /// What an app printed.
    ///
    /// # Errors
    /// When that is missing.
    pub fn log(&self, id: &str) -> Result<LogReader, AppsError> {
        let directory = self.directory(id);
        let log = LogReader::new(log_directory(&directory), output_file(&directory), Some(state_file(&directory)));
        if log.is_empty() {
            let reason = "it is missing, and with it what the app printed".to_owned();
            return Err(AppsError::Damaged { path: log_directory(&directory), reason });
        }
        Ok(log)
    }

    /// The running app, as its own process sees it; `held` is what [`DetachedApps::create`] answered.
    ///
    /// # Errors
    /// When `held` is something else, or the record cannot be read.
    pub fn adopt(&self, id: &str, held: OwnedFd) -> Result<RunningApp, AppsError> {
        check_id(id)?;
        let directory = self.directory(id);
        let state = StateFile::adopt(&state_file(&directory), held)?;
        let record = read_record(&directory)?.ok_or_else(|| AppsError::Unknown(id.to_owned()))?;
        Ok(RunningApp { id: id.to_owned(), directory, state, record: Mutex::new(record) })
    }

    /// Notes how an app ended that could not do so itself, because it was killed. One that runs, or has said how it
    /// ended, is left alone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note_death(&self, id: &str, code: u8) -> Result<(), AppsError> {
        StateFile::note_death(&state_file(&self.directory(id)), code)
    }

    /// Removes records of apps that have ended, but for the newest ones: so many, and until all records have so many
    /// bytes.
    pub(crate) fn remove_old(&self, kept_apps: usize, kept_bytes: u64) -> Result<(), AppsError> {
        let (mut count, mut bytes) = (0, 0);
        for app in self.list()? {
            let directory = self.directory(&app.record.id);
            if !app.state.is_running() {
                if count >= kept_apps || bytes > kept_bytes {
                    fs_err::remove_dir_all(&directory)?;
                    continue;
                }
                count += 1;
            }
            bytes += size_of(&directory);
        }
        for name in self.names()? {
            // Of a command that died while it made the record.
            let directory = self.directory(&name);
            let is_record = fs_err::symlink_metadata(directory.join(RECORD)).is_ok();
            let is_ours = check_id(&name).is_ok() && fs_err::symlink_metadata(&directory)?.is_dir();
            if is_ours && !is_record && !StateFile::read(&state_file(&directory))?.is_running() {
                fs_err::remove_dir_all(&directory)?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, AppsError> {
        let entries = match fs_err::read_dir(self.layout.apps()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                return Err(AppsError::NotADirectory(self.layout.apps()));
            }
            other => other?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    pub(crate) fn directory(&self, id: &str) -> PathBuf {
        self.layout.apps().join(id)
    }
}

/// A detached app in its own process. It counts as running until this is dropped.
#[derive(Debug)]
pub struct RunningApp {
    id: String,
    pub(crate) directory: PathBuf,
    state: StateFile,
    record: Mutex<AppRecord>,
}

impl RunningApp {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Records what the app is called.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_name(&self, name: &str) -> Result<(), AppsError> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if record.name.as_deref() != Some(name) {
            record.name = Some(name.to_owned());
            write_record(&self.directory, &record)?;
        }
        Ok(())
    }

    /// Where what it prints is recorded.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn log(&self) -> Result<LogWriter, AppsError> {
        LogWriter::open(&log_directory(&self.directory), &output_file(&self.directory))
    }

    /// Records that it has ended. It is running, for others, until its process is gone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(&self, code: u8) -> Result<(), AppsError> {
        self.state.end(code)
    }
}

/// Name of the file with the record.
const RECORD: &str = "record.json";

pub(crate) fn state_file(directory: &Path) -> PathBuf {
    directory.join("state")
}

/// What was printed, as it was recorded before there were logs.
pub(crate) fn output_file(directory: &Path) -> PathBuf {
    directory.join("output")
}

pub(crate) fn log_directory(directory: &Path) -> PathBuf {
    directory.join("log")
}

/// Writes the files of an app that is about to run; the answer holds its lock.
fn fill(directory: &Path, record: &AppRecord) -> Result<OwnedFd, AppsError> {
    let state = StateFile::create(&state_file(directory))?;
    LogWriter::prepare(&log_directory(directory), false)?;
    write_record(directory, record)?;
    Ok(state.into())
}

/// Makes a directory that only its owner may look into.
pub(crate) fn make_private(path: &Path) -> Result<(), AppsError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(AppsError::file("creating", path)(error)),
        Err(_) if !path.is_dir() => Err(AppsError::NotADirectory(path.to_owned())),
        _ => Ok(()),
    }
}

/// The record in a directory, if there is one that this version understands. One that is called otherwise than its
/// directory was copied there: what its id says is true of another.
fn read_record(directory: &Path) -> Result<Option<AppRecord>, AppsError> {
    let Some(bytes) = read_file(&directory.join(RECORD))? else { return Ok(None) };
    let stored: Result<Stored<AppRecord>, _> = serde_json::from_slice(&bytes);
    let is_sound = |stored: &Stored<AppRecord>| {
        stored.version == VERSION && directory.file_name().is_some_and(|name| *name == *stored.record.id)
    };
    Ok(stored.ok().filter(is_sound).map(|stored| stored.record))
}

/// Replaces the record as a whole.
fn write_record(directory: &Path, record: &AppRecord) -> Result<(), AppsError> {
    let mut text = serde_json::to_vec(&Stored { version: VERSION, record }).map_err(std::io::Error::from)?;
    text.push(b'\n');
    let temporary = directory.join(format!("{RECORD}-{}", random_name()));
    let written = private_file()
        .open(&temporary)
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| fs_err::rename(&temporary, directory.join(RECORD)));
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs_err::remove_file(&temporary);
    }
    Ok(written?)
}

/// Bytes on the disk of a record's directory; what cannot be read counts for nothing.
fn size_of(directory: &Path) -> u64 {
    let files = [directory.to_owned(), log_directory(directory)].into_iter().flat_map(fs_err::read_dir);
    files.flatten().flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

/// Refuses ids that are no plain file names.
fn check_id(id: &str) -> Result<(), AppsError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let usable = (1..=200).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(plain);
    if usable { Ok(()) } else { Err(AppsError::Name(id.to_owned())) }
}
