//! Dictionaries.

use lamina_ground::seconds_since_1970;
use rusqlite::{Connection, OptionalExtension};

use crate::database::counted;
use crate::{Collections, CollectionsError, Kind};

/// The most bytes of a key and its value together.
pub const MOST_BYTES_OF_VALUE: usize = 100 << 20;
/// The most entries that are put at once.
pub const MOST_ENTRIES_AT_ONCE: usize = 10_000;

/// How long an entry stays that nobody reads or writes, in seconds.
const UNUSED: i64 = 7 * 24 * 3600;
/// How much older than its use an entry's note of it may be, so that not every read writes, in seconds.
const PRECISION: i64 = 3600;

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A number that grows with each new entry, for reading on.
    pub number: i64,
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

impl Collections {
    /// The value of a key.
    ///
    /// # Errors
    /// When the dictionary is gone, or the database cannot be read.
    pub fn get(&self, dict: &str, key: &[u8]) -> Result<Option<Vec<u8>>, CollectionsError> {
        let found: Option<Option<(i64, Vec<u8>, i64)>> = self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT number, value, used FROM entries WHERE collection = ?1 AND key = ?2 AND used > ?3",
            )?;
            let found = statement
                .query_row((dict, key, oldest()), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            Ok((found.is_some() || exists(connection, dict)?).then_some(found))
        })?;
        let Some((number, value, used)) = found.ok_or_else(|| gone(dict))? else { return Ok(None) };
        if used < now() - PRECISION {
            self.write(|connection| {
                connection.execute("UPDATE entries SET used = ?1 WHERE number = ?2", (now(), number))
            })?;
        }
        Ok(Some(value))
    }

    /// Whether there is a value for a key.
    ///
    /// # Errors
    /// When the dictionary is gone, or the database cannot be read.
    pub fn contains(&self, dict: &str, key: &[u8]) -> Result<bool, CollectionsError> {
        let contains = self.read(|connection| {
            let contains = connection
                .prepare_cached("SELECT 1 FROM entries WHERE collection = ?1 AND key = ?2 AND used > ?3")?
                .exists((dict, key, oldest()))?;
            Ok((contains || exists(connection, dict)?).then_some(contains))
        })?;
        contains.ok_or_else(|| gone(dict))
    }

    /// Puts entries, all or none; with `if_missing`, only keys that there are no values for. Says whether all were put.
    ///
    /// # Errors
    /// When there are too many, one is too large, the dictionary is gone, or the database cannot be written.
    pub fn put(&self, dict: &str, entries: &[(&[u8], &[u8])], if_missing: bool) -> Result<bool, CollectionsError> {
        check(entries)?;
        let put = self.write(|connection| {
            if !exists(connection, dict)? {
                return Ok(None);
            }
            let now = now();
            connection.prepare_cached("DELETE FROM entries WHERE used <= ?1")?.execute([oldest()])?;
            let mut statement = connection.prepare_cached(if if_missing {
                "INSERT INTO entries (collection, key, value, used) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING"
            } else {
                "INSERT INTO entries (collection, key, value, used) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (collection, key) DO UPDATE SET value = excluded.value, used = excluded.used"
            })?;
            let mut count = 0;
            for (key, value) in entries {
                count += statement.execute((dict, key, value, now))?;
            }
            Ok(Some(count == entries.len()))
        })?;
        put.ok_or_else(|| gone(dict))
    }

    /// Takes an entry out; gives its value.
    ///
    /// # Errors
    /// When the dictionary is gone, or the database cannot be written.
    pub fn pop(&self, dict: &str, key: &[u8]) -> Result<Option<Vec<u8>>, CollectionsError> {
        let popped = self.write(|connection| {
            let popped = connection
                .prepare_cached("DELETE FROM entries WHERE collection = ?1 AND key = ?2 AND used > ?3 RETURNING value")?
                .query_row((dict, key, oldest()), |row| row.get(0))
                .optional()?;
            Ok((popped.is_some() || exists(connection, dict)?).then_some(popped))
        })?;
        popped.ok_or_else(|| gone(dict))
    }

    /// How many entries there are.
    ///
    /// # Errors
    /// When the dictionary is gone, or the database cannot be read.
    pub fn count(&self, dict: &str) -> Result<u64, CollectionsError> {
        let count = self.read(|connection| {
            let count = connection
                .prepare_cached("SELECT count(*) FROM entries WHERE collection = ?1 AND used > ?2")?
                .query_row((dict, oldest()), counted)?;
            Ok(exists(connection, dict)?.then_some(count))
        })?;
        count.ok_or_else(|| gone(dict))
    }

    /// Removes all entries.
    ///
    /// # Errors
    /// When the dictionary is gone, or the database cannot be written.
    pub fn clear_dict(&self, dict: &str) -> Result<(), CollectionsError> {
        let is_there = self.write(|connection| {
            connection.execute("DELETE FROM entries WHERE collection = ?1", [dict])?;
            exists(connection, dict)
        })?;
        if is_there { Ok(()) } else { Err(gone(dict)) }
    }

    /// Entries behind that number, until they have so many bytes; none at the end. What is put meanwhile may be among them.
    ///
    /// # Errors
    /// When the dictionary is gone, or the database cannot be read.
    pub fn entries(&self, dict: &str, after: i64, bytes: usize) -> Result<Vec<Entry>, CollectionsError> {
        let entries = self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT number, key, value FROM entries WHERE collection = ?1 AND number > ?2 AND used > ?3 ORDER BY number",
            )?;
            let mut rows = statement.query((dict, after, oldest()))?;
            let (mut entries, mut size) = (Vec::new(), 0);
            while size < bytes
                && let Some(row) = rows.next()?
            {
                let entry = Entry { number: row.get(0)?, key: row.get(1)?, value: row.get(2)? };
                size += entry.key.len() + entry.value.len();
                entries.push(entry);
            }
            Ok((!entries.is_empty() || exists(connection, dict)?).then_some(entries))
        })?;
        entries.ok_or_else(|| gone(dict))
    }
}

/// Whether a collection is still there.
pub(crate) fn exists(connection: &Connection, id: &str) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM collections WHERE id = ?1")?.exists([id])
}

fn gone(dict: &str) -> CollectionsError {
    CollectionsError::Gone { kind: Kind::Dict, id: dict.to_owned() }
}

fn check(entries: &[(&[u8], &[u8])]) -> Result<(), CollectionsError> {
    let too_large = |what, unit, size, most| Err(CollectionsError::TooLarge { what, unit, size, most });
    if entries.len() > MOST_ENTRIES_AT_ONCE {
        return too_large("the update", "entries", entries.len(), MOST_ENTRIES_AT_ONCE);
    }
    match entries.iter().map(|(key, value)| key.len() + value.len()).find(|size| *size > MOST_BYTES_OF_VALUE) {
        Some(size) => too_large("an entry", "bytes", size, MOST_BYTES_OF_VALUE),
        None => Ok(()),
    }
}

pub(crate) fn now() -> i64 {
    i64::try_from(seconds_since_1970()).unwrap_or(i64::MAX)
}

/// Entries that were used then last are gone.
fn oldest() -> i64 {
    now() - UNUSED
}
