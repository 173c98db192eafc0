//! Queues: values in partitions, each in the order in which they came.

use std::time::Instant;

use lamina_events::CancelToken;
use rusqlite::{Connection, OptionalExtension};

use crate::database::counted;
use crate::dictionary::{exists, now};
use crate::{Collections, CollectionsError, Kind};

/// The most bytes of a value.
pub const MOST_BYTES_OF_ITEM: usize = 1 << 20;
/// The most values of a partition.
pub const MOST_ITEMS: usize = 5_000;
/// The most partitions of a queue.
const MOST_PARTITIONS: usize = 100_000;

/// How long somebody waits.
#[derive(Debug, Clone)]
pub struct Until {
    /// Until then at the latest; nothing is for ever.
    pub time: Option<Instant>,
    /// And not beyond this.
    pub cancel: CancelToken,
}

impl Until {
    fn is_over(&self) -> bool {
        self.cancel.is_cancelled() || self.time.is_some_and(|time| Instant::now() >= time)
    }
}

/// What an attempt has come to.
enum Attempt<T> {
    Done(T),
    /// Nothing is there, or there is no room.
    NotYet,
    Gone,
}

impl Collections {
    /// Puts values behind those of a partition, all or none, as soon as there is room; says whether there was. The
    /// partition is cleared `lifetime` seconds after the last put.
    ///
    /// # Errors
    /// When a value is too large, there are too many, the queue is gone, or the database cannot be written.
    pub fn push(
        &self,
        queue: &str,
        partition: &[u8],
        values: &[&[u8]],
        lifetime: u64,
        until: &Until,
    ) -> Result<bool, CollectionsError> {
        check(values)?;
        let lifetime = i64::try_from(lifetime).unwrap_or(i64::MAX);
        let pushed = self.attempt(queue, until, |connection| {
            clear_old(connection)?;
            let number = match find(connection, queue, partition)? {
                Some(number) => number,
                None if partitions(connection, queue)? >= MOST_PARTITIONS => return Ok(Attempt::NotYet),
                None => connection
                    .prepare_cached(
                        "INSERT INTO partitions (collection, key, expires) VALUES (?1, ?2, 0) RETURNING number",
                    )?
                    .query_row((queue, partition), |row| row.get(0))?,
            };
            let count: usize = connection
                .prepare_cached("SELECT count(*) FROM items WHERE partition = ?1")?
                .query_row([number], counted)?;
            if count + values.len() > MOST_ITEMS {
                return Ok(Attempt::NotYet);
            }
            connection
                .prepare_cached("UPDATE partitions SET expires = ?1 WHERE number = ?2")?
                .execute((now().saturating_add(lifetime), number))?;
            let mut statement = connection.prepare_cached("INSERT INTO items (partition, value) VALUES (?1, ?2)")?;
            for value in values {
                statement.execute((number, value))?;
            }
            Ok(Attempt::Done(()))
        })?;
        Ok(pushed.is_some())
    }

    /// Takes up to `most` values of a partition, as soon as there is one; none if there was none in time.
    ///
    /// # Errors
    /// When the queue is gone, or the database cannot be written.
    pub fn take(
        &self,
        queue: &str,
        partition: &[u8],
        most: usize,
        until: &Until,
    ) -> Result<Vec<Vec<u8>>, CollectionsError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let taken = self.attempt(queue, until, |connection| {
            let Some(number) = find(connection, queue, partition)? else { return Ok(Attempt::NotYet) };
            let values = values_of(connection, number, 0, most)?;
            let Some((last, _)) = values.last() else { return Ok(Attempt::NotYet) };
            connection
                .prepare_cached("DELETE FROM items WHERE partition = ?1 AND number <= ?2")?
                .execute((number, last))?;
            Ok(Attempt::Done(values.into_iter().map(|(_, value)| value).collect()))
        })?;
        Ok(taken.unwrap_or_default())
    }

    /// Values of a partition behind that number, with their numbers, as soon as there is one; they stay. None if there was
    /// none in time.
    ///
    /// # Errors
    /// When the queue is gone, or the database cannot be read.
    pub fn peek(
        &self,
        queue: &str,
        partition: &[u8],
        after: i64,
        most: usize,
        until: &Until,
    ) -> Result<Vec<(i64, Vec<u8>)>, CollectionsError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let seen = self.attempt(queue, until, |connection| {
            let Some(number) = find(connection, queue, partition)? else { return Ok(Attempt::NotYet) };
            let values = values_of(connection, number, after, most)?;
            Ok(if values.is_empty() { Attempt::NotYet } else { Attempt::Done(values) })
        })?;
        Ok(seen.unwrap_or_default())
    }

    /// How many values a partition has, or all of them together.
    ///
    /// # Errors
    /// When the queue is gone, or the database cannot be read.
    pub fn length(&self, queue: &str, partition: Option<&[u8]>) -> Result<u64, CollectionsError> {
        let count = self.read(|connection| {
            let count = connection
                .prepare_cached(
                    "SELECT count(*) FROM items JOIN partitions ON items.partition = partitions.number
                     WHERE collection = ?1 AND expires > ?2 AND (?3 IS NULL OR key = ?3)",
                )?
                .query_row((queue, now(), partition), counted)?;
            Ok(exists(connection, queue)?.then_some(count))
        })?;
        count.ok_or_else(|| gone(queue))
    }

    /// Removes the values of a partition, or all.
    ///
    /// # Errors
    /// When the queue is gone, or the database cannot be written.
    pub fn clear_queue(&self, queue: &str, partition: Option<&[u8]>) -> Result<(), CollectionsError> {
        let statement = "DELETE FROM partitions WHERE collection = ?1 AND (?2 IS NULL OR key = ?2)";
        let is_there = self.write(|connection| {
            connection.execute(statement, (queue, partition))?;
            exists(connection, queue)
        })?;
        if is_there { Ok(()) } else { Err(gone(queue)) }
    }

    /// Tries until it is done, nothing if that takes too long. There is one attempt in any case.
    fn attempt<T>(
        &self,
        queue: &str,
        until: &Until,
        action: impl Fn(&Connection) -> rusqlite::Result<Attempt<T>>,
    ) -> Result<Option<T>, CollectionsError> {
        let mut woken = None;
        loop {
            // Counted first: what is written during the attempt is not missed.
            let count = woken.as_ref().map(|_| self.changes().count());
            let attempt = self
                .write(|connection| if exists(connection, queue)? { action(connection) } else { Ok(Attempt::Gone) })?;
            match attempt {
                Attempt::Done(done) => return Ok(Some(done)),
                Attempt::Gone => return Err(gone(queue)),
                Attempt::NotYet if until.is_over() => return Ok(None),
                Attempt::NotYet => {}
            }
            match count {
                Some(count) => self.changes().wait(count, until.time),
                // From now on it is listened to; what was written before that, the next attempt sees.
                None => woken = Some(until.cancel.on_cancel(self.changes().notifier())),
            }
        }
    }
}

/// The number of a partition that is not over.
fn find(connection: &Connection, queue: &str, partition: &[u8]) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT number FROM partitions WHERE collection = ?1 AND key = ?2 AND expires > ?3")?
        .query_row((queue, partition, now()), |row| row.get(0))
        .optional()
}

fn partitions(connection: &Connection, queue: &str) -> rusqlite::Result<usize> {
    connection.prepare_cached("SELECT count(*) FROM partitions WHERE collection = ?1")?.query_row([queue], counted)
}

fn clear_old(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM partitions WHERE expires <= ?1")?.execute([now()]).map(drop)
}

fn values_of(connection: &Connection, partition: i64, after: i64, most: i64) -> rusqlite::Result<Vec<(i64, Vec<u8>)>> {
    connection
        .prepare_cached(
            "SELECT number, value FROM items WHERE partition = ?1 AND number > ?2 ORDER BY number LIMIT ?3",
        )?
        .query_map((partition, after, most), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn check(values: &[&[u8]]) -> Result<(), CollectionsError> {
    let too_large = |what, unit, size, most| Err(CollectionsError::TooLarge { what, unit, size, most });
    if values.len() > MOST_ITEMS {
        return too_large("what is put at once", "values", values.len(), MOST_ITEMS);
    }
    match values.iter().map(|value| value.len()).find(|size| *size > MOST_BYTES_OF_ITEM) {
        Some(size) => too_large("a value", "bytes", size, MOST_BYTES_OF_ITEM),
        None => Ok(()),
    }
}

fn gone(queue: &str) -> CollectionsError {
    CollectionsError::Gone { kind: Kind::Queue, id: queue.to_owned() }
}
