//! The index: which layer a key stands for, and which images were built.
//!
//! Records are rows with the columns that are searched, and JSON for the rest. The index holds nothing that a build
//! could not make again; a row is written only after what it names is on the disk.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lamina_image::{Digest, LayerKey};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, Params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ArchiveRecord, ImageName, ImageRecord, LayerRecord, NamedImage};
use crate::StoreError;

/// Version of the schema, kept in the database's `user_version`.
pub(super) const SCHEMA_VERSION: u32 = 1;
/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(20);

/// Bytes in the write-ahead log, a hundred pages, after which it is copied into the database and begins anew.
const LOG_BYTES: u64 = 100 * 4120;

/// Records are long, so the tables are not `WITHOUT ROWID`: their keys would lie among the records then, and each comparison
/// of a search would read a whole one. Indexes that earlier versions made are like that, and no less right.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS layers (
        key TEXT PRIMARY KEY NOT NULL,
        title TEXT NOT NULL,
        created INTEGER NOT NULL,
        record TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS images (
        id TEXT PRIMARY KEY NOT NULL,
        last_used INTEGER NOT NULL,
        record TEXT NOT NULL
    );
";

/// Finds the newest layers of a kind among thousands; whoever does not know of it keeps it right all the same. A damaged
/// record has no kind, so that it can still be removed.
const LAYERS_BY_KIND: &str = "
    CREATE INDEX IF NOT EXISTS layers_by_kind ON layers (
        CASE WHEN json_valid(record) THEN json_extract(record, '$.material.kind') END, created
    )";
/// Names the kind as that index does, or it is not used.
const RECENT_LAYERS: &str = "
    SELECT record FROM layers
    WHERE CASE WHEN json_valid(record) THEN json_extract(record, '$.material.kind') END = ?1
    ORDER BY created DESC LIMIT ?2";

/// Names of images. Made by whoever gives the first name, so that the index stays as earlier versions know it.
const NAMES: &str =
    "CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY NOT NULL, image TEXT NOT NULL, record TEXT NOT NULL)";

/// Archives of layers. Made by whoever notes the first one.
const ARCHIVES: &str = "
    CREATE TABLE IF NOT EXISTS archives (
        layer TEXT NOT NULL, form TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (layer, form)
    )";

/// In two steps, because a search that sorts reads all that it selects of every row.
const NEWEST_IMAGE: &str =
    "SELECT record FROM images WHERE id = (SELECT id FROM images ORDER BY last_used DESC LIMIT 1)";

/// The opened index.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Index {
    /// Opens the index. The caller holds a lock, so that only one process makes the schema.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |reason| StoreError::index(path, reason);
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if version > SCHEMA_VERSION {
            return Err(StoreError::NewerFormat { path: path.to_owned(), found: version, known: SCHEMA_VERSION });
        }
        // Closing would wait for the disk, at the end of every command; so the log stays, and is kept short instead. The
        // library would copy it and leave it as it is: it begins anew with the next write, but that is another process's,
        // which has to read the log first and cannot know what of it was copied.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0;")
            .map_err(failed)?;
        if version < SCHEMA_VERSION {
            let schema = format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;");
            connection.execute_batch(&schema).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    pub(super) fn layer(&self, key: &LayerKey) -> Result<Option<LayerRecord>, StoreError> {
        self.get("SELECT record FROM layers WHERE key = ?1", [key.to_string()])
    }

    pub(super) fn recent_layers(&self, kind: &str, count: u32) -> Result<Vec<LayerRecord>, StoreError> {
        // Only who asks makes it, also where an earlier version made the index. Without it all rows are read.
        let _ = self.lock().execute_batch(LAYERS_BY_KIND);
        self.get_all(RECENT_LAYERS, (kind, count))
    }

    pub(super) fn put_layer(&self, record: &LayerRecord) -> Result<(), StoreError> {
        self.put(
            "INSERT OR REPLACE INTO layers (key, title, created, record) VALUES (?1, ?2, ?3, ?4)",
            (record.key.to_string(), &record.title, signed(record.created), json(record)),
        )
    }

    pub(super) fn put_image(&self, record: &ImageRecord) -> Result<(), StoreError> {
        let earlier: Option<ImageRecord> = self.get("SELECT record FROM images WHERE id = ?1", [&record.id])?;
        let created = earlier.map_or(record.created, |earlier| earlier.created);
        let record = ImageRecord { created, ..record.clone() };
        self.put(
            "INSERT OR REPLACE INTO images (id, last_used, record) VALUES (?1, ?2, ?3)",
            (&record.id, signed(record.last_used), json(&record)),
        )
    }

    pub(super) fn layers(&self) -> Result<Vec<LayerRecord>, StoreError> {
        self.get_all("SELECT record FROM layers ORDER BY created, key", [])
    }

    /// The image with exactly this id.
    pub(super) fn image(&self, id: &str) -> Result<Option<ImageRecord>, StoreError> {
        self.get("SELECT record FROM images WHERE id = ?1", [id])
    }

    /// Gives an image a name, which another one may have had.
    pub(super) fn put_name(&self, named: &NamedImage) -> Result<(), StoreError> {
        self.lock().execute_batch(NAMES).map_err(|reason| self.failed(reason))?;
        self.put(
            "INSERT OR REPLACE INTO names (name, image, record) VALUES (?1, ?2, ?3)",
            (name_key(&named.name), &named.image, json(named)),
        )
    }

    /// All names, in their order.
    pub(super) fn names(&self) -> Result<Vec<NamedImage>, StoreError> {
        if !self.has_names()? {
            return Ok(Vec::new());
        }
        self.get_all("SELECT record FROM names ORDER BY name", [])
    }

    /// What a name stands for.
    pub(super) fn name(&self, name: &ImageName) -> Result<Option<NamedImage>, StoreError> {
        if !self.has_names()? {
            return Ok(None);
        }
        self.get("SELECT record FROM names WHERE name = ?1", [name_key(name)])
    }

    /// Takes a name away from its image.
    pub(super) fn remove_name(&self, name: &ImageName) -> Result<(), StoreError> {
        if !self.has_names()? {
            return Ok(());
        }
        self.put("DELETE FROM names WHERE name = ?1", [name_key(name)])
    }

    /// Notes an archive, in the place of an earlier one of its layer and form.
    pub(super) fn put_archive(&self, record: &ArchiveRecord) -> Result<(), StoreError> {
        self.lock().execute_batch(ARCHIVES).map_err(|reason| self.failed(reason))?;
        self.put(
            "INSERT OR REPLACE INTO archives (layer, form, record) VALUES (?1, ?2, ?3)",
            (record.layer.hex(), &record.form, json(record)),
        )
    }

    /// The archive of this form of a layer.
    pub(super) fn archive(&self, layer: &Digest, form: &str) -> Result<Option<ArchiveRecord>, StoreError> {
        if !self.has_table("archives")? {
            return Ok(None);
        }
        self.get("SELECT record FROM archives WHERE layer = ?1 AND form = ?2", [&layer.hex(), form])
    }

    fn has_names(&self) -> Result<bool, StoreError> {
        self.has_table("names")
    }

    fn has_table(&self, name: &str) -> Result<bool, StoreError> {
        let query = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1)";
        self.lock().query_row(query, [name], |row| row.get(0)).map_err(|reason| self.failed(reason))
    }

    /// Forgets images and layers, all at once; a layer that was made anew meanwhile is another one.
    pub(super) fn forget(&self, images: &[&str], layers: &[LayerRecord]) -> Result<(), StoreError> {
        let has_archives = self.has_table("archives")?;
        let mut connection = self.lock();
        let forgotten = connection.transaction().and_then(|transaction| {
            for id in images {
                transaction.execute("DELETE FROM images WHERE id = ?1", [id])?;
            }
            for layer in layers {
                transaction.execute(
                    "DELETE FROM layers WHERE key = ?1 AND json_extract(record, '$.digest') = ?2",
                    (layer.key.to_string(), layer.digest.hex()),
                )?;
                if has_archives {
                    transaction.execute("DELETE FROM archives WHERE layer = ?1", [layer.digest.hex()])?;
                }
            }
            transaction.commit()
        });
        forgotten.map_err(|reason| self.failed(reason))?;
        self.shorten_log(&connection);
        Ok(())
    }

    /// Forgets everything.
    pub(super) fn clear(&self) -> Result<(), StoreError> {
        let connection = self.lock();
        let cleared = connection.execute_batch("BEGIN IMMEDIATE; DELETE FROM layers; DELETE FROM images; COMMIT;");
        cleared.map_err(|reason| self.failed(reason))?;
        self.shorten_log(&connection);
        Ok(())
    }

    pub(super) fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.get_all("SELECT record FROM images ORDER BY last_used DESC, id", [])
    }

    /// The image that was used last.
    pub(super) fn newest_image(&self) -> Result<Option<ImageRecord>, StoreError> {
        self.get(NEWEST_IMAGE, [])
    }

    /// Images whose ids start with `prefix`; only the one with exactly this id, if there is one.
    pub(super) fn images_starting_with(&self, prefix: &str) -> Result<Vec<ImageRecord>, StoreError> {
        let mut images: Vec<ImageRecord> =
            self.get_all("SELECT record FROM images WHERE substr(id, 1, length(?1)) = ?1 ORDER BY id", [prefix])?;
        if let Some(exact) = images.iter().position(|image| image.id == prefix) {
            images = vec![images.swap_remove(exact)];
        }
        Ok(images)
    }

    fn get<T: DeserializeOwned>(&self, query: &str, parameters: impl Params) -> Result<Option<T>, StoreError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(query).map_err(|reason| self.failed(reason))?;
        let text: Option<String> =
            statement.query_row(parameters, |row| row.get(0)).optional().map_err(|reason| self.failed(reason))?;
        text.map_or(Ok(None), |text| self.parse(&text))
    }

    fn get_all<T: DeserializeOwned>(&self, query: &str, parameters: impl Params) -> Result<Vec<T>, StoreError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(query).map_err(|reason| self.failed(reason))?;
        let texts: Vec<String> = statement
            .query_map(parameters, |row| row.get(0))
            .and_then(Iterator::collect)
            .map_err(|reason| self.failed(reason))?;
        texts.iter().filter_map(|text| self.parse(text).transpose()).collect()
    }

    fn put(&self, statement: &str, parameters: impl Params) -> Result<(), StoreError> {
        let connection = self.lock();
        connection.execute(statement, parameters).map_err(|reason| self.failed(reason))?;
        self.shorten_log(&connection);
        Ok(())
    }

    /// Copies a long log into the database, unless somebody is reading it: whoever writes next does it then.
    fn shorten_log(&self, connection: &Connection) {
        let log = self.path.with_extension("db-wal");
        if fs_err::metadata(log).is_ok_and(|log| log.len() > LOG_BYTES) {
            let _ = connection.busy_timeout(Duration::ZERO);
            let shortened = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            let _ = connection.busy_timeout(BUSY);
            tracing::debug!(?shortened, "the index's log was long");
        }
    }

    /// Reads a record. One that another version wrote, and that means nothing to this one, is as good as none: what it
    /// stands for is built again.
    fn parse<T: DeserializeOwned>(&self, text: &str) -> Result<Option<T>, StoreError> {
        match serde_json::from_str(text) {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.is_data() => Ok(None),
            Err(error) => Err(StoreError::DamagedIndex { path: self.path.clone(), reason: error.to_string() }),
        }
    }

    fn failed(&self, reason: rusqlite::Error) -> StoreError {
        StoreError::index(&self.path, reason)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a name stands in its column: no part of it has these characters.
fn name_key(name: &ImageName) -> String {
    format!("{}/{}:{}", name.environment, name.name, name.tag)
}

/// The database's integers are signed.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Records are plain data, whose JSON form always exists.
fn json(record: &impl Serialize) -> String {
    serde_json::to_value(record).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_stays_short_however_many_processes_write_one_record() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.db");
        let log = || fs_err::metadata(path.with_extension("db-wal")).unwrap().len();
        let mut longest = 0;
        for number in 0..300 {
            let index = Index::open(&path).unwrap();
            let record = "x".repeat(5000);
            index.put("INSERT INTO layers VALUES (?1, '', 1, ?2)", (number.to_string(), record)).unwrap();
            longest = longest.max(log());
        }
        assert!(longest > 0 && longest <= LOG_BYTES + 10 * 4120, "{longest}");
        let reader = Connection::open(&path).unwrap();
        let count: i64 = reader.query_row("SELECT count(*) FROM layers", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 300);
    }

    #[test]
    fn the_newest_layers_of_a_kind_are_found_without_reading_all() {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(&directory.path().join("index.db")).unwrap();
        let insert = |key: &str, record: &str| {
            index.put("INSERT INTO layers VALUES (?1, '', 1, ?2)", (key, record)).unwrap();
        };
        insert("before", "no record");
        assert_eq!(index.recent_layers("apt_install", 1).unwrap(), []);
        insert("after", "no record either");
        let plan = format!("EXPLAIN QUERY PLAN {RECENT_LAYERS}");
        let plan: String = index.lock().query_row(&plan, ("apt_install", 1), |row| row.get("detail")).unwrap();
        assert!(plan.starts_with("SEARCH layers USING INDEX layers_by_kind"), "{plan}");
    }
}
