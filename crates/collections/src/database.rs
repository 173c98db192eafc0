//! The database that all collections lie in.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use fs_err::File;
use fs_err::os::unix::fs::OpenOptionsExt;
use rusqlite::{Connection, Row, TransactionBehavior};

use crate::CollectionsError;
use crate::changes::Changes;

/// Version of the schema, kept in the database's `user_version`.
pub(crate) const SCHEMA_VERSION: u32 = 1;
/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(20);
/// The most connections that are kept for the next request.
const MOST_IDLE: usize = 8;
/// Pages of 4 KiB that stay in the file for what comes next, though nothing is in them.
const MOST_FREE_PAGES: u64 = 4096;

/// Keys and values are long, so that the tables have rows with numbers, and indexes for what is searched.
const SCHEMA: &str = "
    CREATE TABLE collections (
        id TEXT PRIMARY KEY NOT NULL,
        kind TEXT NOT NULL,
        environment TEXT,
        name TEXT,
        created INTEGER NOT NULL,
        UNIQUE (kind, environment, name)
    );
    CREATE TABLE entries (
        number INTEGER PRIMARY KEY,
        collection TEXT NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
        key BLOB NOT NULL,
        value BLOB NOT NULL,
        used INTEGER NOT NULL,
        UNIQUE (collection, key)
    );
    CREATE INDEX entries_by_use ON entries (used);
    CREATE TABLE partitions (
        number INTEGER PRIMARY KEY,
        collection TEXT NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
        key BLOB NOT NULL,
        expires INTEGER NOT NULL,
        UNIQUE (collection, key)
    );
    CREATE INDEX partitions_by_end ON partitions (expires);
    CREATE TABLE items (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        partition INTEGER NOT NULL REFERENCES partitions (number) ON DELETE CASCADE,
        value BLOB NOT NULL
    );
    CREATE INDEX items_by_partition ON items (partition, number);
";

/// The dictionaries and queues of a store. What is ephemeral ends with this value.
#[derive(Debug)]
pub struct Collections {
    directory: PathBuf,
    idle: Mutex<Vec<Connection>>,
    /// The ephemeral ones that were made here, with the locks that keep them.
    own: Mutex<Vec<(String, File)>>,
    changes: OnceLock<Changes>,
}

impl Collections {
    /// Those that are kept in `directory`, which need not be there. Nothing is opened before something is asked for.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, idle: Mutex::default(), own: Mutex::default(), changes: OnceLock::new() }
    }

    /// Does something that changes nothing.
    pub(crate) fn read<T>(
        &self,
        action: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CollectionsError> {
        let connection = self.connection()?;
        let done = action(&connection).map_err(|source| self.failed(source))?;
        self.put_back(connection);
        Ok(done)
    }

    /// Does something in one transaction, before or after those of all others.
    pub(crate) fn write<T>(
        &self,
        action: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CollectionsError> {
        let mut connection = self.connection()?;
        let outcome = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
            let done = action(&transaction)?;
            transaction.commit().map(|()| done)
        });
        let done = outcome.map_err(|source| self.failed(source))?;
        // What was asked for is done; the next write tries again.
        if let Err(error) = shrink(&connection) {
            tracing::debug!(%error, "the database of collections keeps its size");
        }
        self.put_back(connection);
        Ok(done)
    }

    fn connection(&self) -> Result<Connection, CollectionsError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.open(), Ok)
    }

    fn put_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(connection);
        }
    }

    fn open(&self) -> Result<Connection, CollectionsError> {
        let path = self.file();
        if !path.exists() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
            made.map_err(|error| {
                std::io::Error::new(error.kind(), format!("`{}`: {error}", self.directory.display()))
            })?;
            // What its library adds to it later has the same mode.
            let mut options = fs_err::OpenOptions::new();
            options.create(true).append(true).mode(0o600);
            options.open(&path)?;
        }
        Self::prepare(&path).map_err(|source| self.failed(source))?.map_err(|found| CollectionsError::NewerFormat {
            path,
            found,
            known: SCHEMA_VERSION,
        })
    }

    /// Opens the database, and makes its tables where there are none; gives the version of one that is too new.
    fn prepare(path: &Path) -> rusqlite::Result<Result<Connection, u32>> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        // A power failure may cost what was written last, and nothing else; the end of any process costs nothing.
        connection.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;",
        )?;
        if version(&connection)? == 0 {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Another process may have been faster.
            if version(&transaction)? == 0 {
                transaction.execute_batch(SCHEMA)?;
                transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            }
            transaction.commit()?;
        }
        let version = version(&connection)?;
        Ok(if version > SCHEMA_VERSION { Err(version) } else { Ok(connection) })
    }

    fn failed(&self, source: rusqlite::Error) -> CollectionsError {
        CollectionsError::Database { path: self.file(), source }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("collections.sqlite")
    }

    /// The file whose lock keeps an ephemeral collection.
    pub(crate) fn lock_file(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.lock"))
    }

    pub(crate) fn own(&self) -> MutexGuard<'_, Vec<(String, File)>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What says that some process has written.
    pub(crate) fn changes(&self) -> &Changes {
        self.changes.get_or_init(|| Changes::watch(&self.directory))
    }
}

impl Drop for Collections {
    fn drop(&mut self) {
        let own = std::mem::take(&mut *self.own());
        for (id, _lock) in own {
            // Where that fails, whoever makes the next ephemeral collection sweeps.
            if let Err(error) = self.remove(&id) {
                tracing::debug!(id, %error, "an ephemeral collection stays");
            }
        }
    }
}

/// Gives the disk back what nothing is in any more, where that is much.
fn shrink(connection: &Connection) -> rusqlite::Result<()> {
    let free: u64 = connection.prepare_cached("PRAGMA freelist_count")?.query_row([], counted)?;
    if free > MOST_FREE_PAGES {
        let mut statement = connection.prepare_cached("PRAGMA incremental_vacuum")?;
        let mut pages = statement.query([])?;
        // Each step gives one page back.
        while pages.next()?.is_some() {}
    }
    Ok(())
}

/// A count as the database gives it.
pub(crate) fn counted<N: TryFrom<i64> + Default>(row: &Row<'_>) -> rusqlite::Result<N> {
    row.get(0).map(|count: i64| N::try_from(count).unwrap_or_default())
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}
