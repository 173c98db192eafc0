//! Which ids of the host the ids inside a store stand for.

use serde::{Deserialize, Serialize};

use crate::SandboxError;

/// A run of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id as seen inside.
    pub inside: u32,
    /// First id as seen on the host.
    pub outside: u32,
    /// How many ids follow each other.
    pub count: u32,
}

/// The id map of a store. It is recorded in the store, since files on disk carry the outside ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

impl IdMap {
    /// Chooses the map for a new store of the calling user.
    ///
    /// # Errors
    /// When no map is possible; the message names the remedy.
    pub fn for_current_user() -> Result<Self, SandboxError> {
        Ok(Self::single())
    }

    /// The map that needs no privilege: the calling user is root inside, and there is nobody else.
    #[must_use]
    pub fn single() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self {
            uids: vec![IdRange { inside: 0, outside: uid, count: 1 }],
            gids: vec![IdRange { inside: 0, outside: gid, count: 1 }],
        }
    }

    /// Whether there is only one id inside: files of other owners cannot be represented then.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.uids.iter().map(|range| range.count).sum::<u32>() <= 1
    }

    /// The host's user id of root inside.
    #[must_use]
    pub fn root_uid(&self) -> u32 {
        outside_of_root(&self.uids)
    }

    /// The host's group id of root inside.
    #[must_use]
    pub fn root_gid(&self) -> u32 {
        outside_of_root(&self.gids)
    }
}

/// The outside id of inside 0; maps of this crate always have one.
fn outside_of_root(ranges: &[IdRange]) -> u32 {
    ranges.iter().find(|range| range.inside == 0).map_or(u32::MAX, |range| range.outside)
}
