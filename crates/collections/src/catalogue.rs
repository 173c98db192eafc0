//! Which collections there are.

use std::fmt;

use fs_err::File;
use lamina_ground::{is_app_id, is_object_name, random_id, seconds_since_1970};
use rusqlite::{Connection, OptionalExtension, Row};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Deserialize;

use crate::{Collections, CollectionsError};

/// What a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Values by keys.
    Dict,
    /// Values in the order in which they came.
    Queue,
}

impl Kind {
    /// What its ids begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Dict => "di",
            Self::Queue => "qu",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Dict => "dict",
            Self::Queue => "queue",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// The name of a collection within an environment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CollectionName {
    /// The environment.
    pub environment: String,
    /// The name.
    pub name: String,
}

/// Which collection is meant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Reference {
    /// The one with an id.
    Id {
        /// The id.
        id: String,
    },
    /// The one of a name.
    Name {
        /// The name.
        #[serde(flatten)]
        name: CollectionName,
        /// Whether it is made where there is none.
        #[serde(default)]
        create: bool,
    },
}

/// A collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// Its id, `di-…` or `qu-…`.
    pub id: String,
    /// Its name; one that ends with the process that has made it has none.
    pub name: Option<CollectionName>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

const BY_ID: &str = "SELECT id, environment, name, created FROM collections WHERE kind = ?1 AND id = ?2";
const BY_NAME: &str =
    "SELECT id, environment, name, created FROM collections WHERE kind = ?1 AND environment = ?2 AND name = ?3";
const OF_ENVIRONMENT: &str =
    "SELECT id, environment, name, created FROM collections WHERE kind = ?1 AND environment = ?2 ORDER BY name";

impl Collections {
    /// Finds a collection, and makes it if the reference says so.
    ///
    /// # Errors
    /// When there is none, or it cannot be made.
    pub fn find(&self, kind: Kind, reference: &Reference) -> Result<Collection, CollectionsError> {
        match reference {
            Reference::Id { id } => self.by_id(kind, id),
            Reference::Name { name, create: true } => self.make(kind, name, true),
            Reference::Name { name, create: false } => {
                check(kind, name)?;
                let found = self.read(|connection| by_name(connection, kind, name))?;
                found.ok_or_else(|| not_found(kind, name))
            }
        }
    }

    /// Makes a collection. With `allow_existing` one of that name is fine, and stays as it is.
    ///
    /// # Errors
    /// When there is one already, or it cannot be made.
    pub fn make(
        &self,
        kind: Kind,
        name: &CollectionName,
        allow_existing: bool,
    ) -> Result<Collection, CollectionsError> {
        check(kind, name)?;
        let (made, is_new) = self.write(|connection| {
            if let Some(found) = by_name(connection, kind, name)? {
                return Ok((found, false));
            }
            Ok((insert(connection, kind, Some(name))?, true))
        })?;
        if is_new || allow_existing {
            return Ok(made);
        }
        Err(CollectionsError::Exists { kind, name: name.name.clone(), environment: name.environment.clone() })
    }

    /// Makes a collection that ends with this value, or with the process.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_ephemeral(&self, kind: Kind) -> Result<Collection, CollectionsError> {
        self.sweep()?;
        let id = random_id(kind.prefix());
        // Held before the collection is there, so that nobody takes it for one that was left behind.
        let lock = File::create(self.lock_file(&id))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(std::io::Error::from)?;
        let made = Collection { id, name: None, created: seconds_since_1970() };
        self.write(|connection| insert_row(connection, kind, &made))?;
        self.own().push((made.id.clone(), lock));
        Ok(made)
    }

    /// Removes a collection that would end with this value.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn delete_ephemeral(&self, id: &str) -> Result<(), CollectionsError> {
        let is_own = |(own, _): &(String, File)| own == id;
        let found = self.own().iter().position(is_own);
        if found.is_none() {
            // It has a name, or is another process's.
            return Ok(());
        }
        self.remove(id)?;
        self.own().retain(|own| !is_own(own));
        Ok(())
    }

    /// Removes those whose process was killed.
    fn sweep(&self) -> Result<(), CollectionsError> {
        let unnamed: Vec<String> = self.read(|connection| {
            connection
                .prepare_cached("SELECT id FROM collections WHERE name IS NULL")?
                .query_map([], |row| row.get(0))?
                .collect()
        })?;
        for id in unnamed {
            let left_behind = match File::open(self.lock_file(&id)) {
                Err(error) => error.kind() == std::io::ErrorKind::NotFound,
                Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK),
            };
            if left_behind {
                self.remove(&id)?;
            }
        }
        Ok(())
    }

    /// Removes an unnamed collection with its lock.
    pub(crate) fn remove(&self, id: &str) -> Result<(), CollectionsError> {
        self.write(|connection| connection.execute("DELETE FROM collections WHERE id = ?1", [id]))?;
        match fs_err::remove_file(self.lock_file(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The collections of an environment, by name.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn list(&self, kind: Kind, environment: &str) -> Result<Vec<Collection>, CollectionsError> {
        check_environment(environment)?;
        self.read(|connection| {
            connection.prepare_cached(OF_ENVIRONMENT)?.query_map((kind.word(), environment), collection)?.collect()
        })
    }

    /// Removes a collection with all that it holds.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot be removed.
    pub fn delete(&self, kind: Kind, name: &CollectionName) -> Result<(), CollectionsError> {
        check(kind, name)?;
        let statement = "DELETE FROM collections WHERE kind = ?1 AND environment = ?2 AND name = ?3";
        let count =
            self.write(|connection| connection.execute(statement, (kind.word(), &name.environment, &name.name)))?;
        if count == 0 { Err(not_found(kind, name)) } else { Ok(()) }
    }

    fn by_id(&self, kind: Kind, id: &str) -> Result<Collection, CollectionsError> {
        let found = self
            .read(|connection| connection.prepare_cached(BY_ID)?.query_row((kind.word(), id), collection).optional())?;
        found.ok_or_else(|| CollectionsError::Gone { kind, id: id.to_owned() })
    }
}

fn by_name(connection: &Connection, kind: Kind, name: &CollectionName) -> rusqlite::Result<Option<Collection>> {
    let mut statement = connection.prepare_cached(BY_NAME)?;
    statement.query_row((kind.word(), &name.environment, &name.name), collection).optional()
}

fn insert(connection: &Connection, kind: Kind, name: Option<&CollectionName>) -> rusqlite::Result<Collection> {
    let made = Collection { id: random_id(kind.prefix()), name: name.cloned(), created: seconds_since_1970() };
    insert_row(connection, kind, &made)?;
    Ok(made)
}

fn insert_row(connection: &Connection, kind: Kind, made: &Collection) -> rusqlite::Result<()> {
    let (environment, name) = made.name.as_ref().map(|name| (&name.environment, &name.name)).unzip();
    let created = i64::try_from(made.created).unwrap_or(i64::MAX);
    connection
        .prepare_cached("INSERT INTO collections (id, kind, environment, name, created) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((&made.id, kind.word(), environment, name, created))?;
    Ok(())
}

fn collection(row: &Row<'_>) -> rusqlite::Result<Collection> {
    let (environment, name): (Option<String>, Option<String>) = (row.get(1)?, row.get(2)?);
    let name = environment.zip(name).map(|(environment, name)| CollectionName { environment, name });
    Ok(Collection { id: row.get(0)?, name, created: u64::try_from(row.get::<_, i64>(3)?).unwrap_or_default() })
}

fn not_found(kind: Kind, name: &CollectionName) -> CollectionsError {
    CollectionsError::NotFound { kind, name: name.name.clone(), environment: name.environment.clone() }
}

fn check(kind: Kind, name: &CollectionName) -> Result<(), CollectionsError> {
    check_environment(&name.environment)?;
    let what = match kind {
        Kind::Dict => "a dict",
        Kind::Queue => "a queue",
    };
    if !is_object_name(&name.name) || is_app_id(&name.name) {
        return Err(CollectionsError::Name { what, name: name.name.clone() });
    }
    Ok(())
}

fn check_environment(environment: &str) -> Result<(), CollectionsError> {
    if is_object_name(environment) {
        return Ok(());
    }
    Err(CollectionsError::Name { what: "an environment", name: environment.to_owned() })
}
