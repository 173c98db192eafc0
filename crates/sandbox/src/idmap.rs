//! Which ids of the host the ids inside a store stand for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{SandboxError, sys};

/// Ids inside a store: those of a conventional system, 0 to 65535.
const WANTED: u32 = 65_536;
/// Fewest ids that make a useful map; with fewer, one alone is as good.
const LEAST: u32 = 1000;
/// Where root's range is looked for first: above everything that systemd hands out (its containers end at 1878982656),
/// below the ids that some programs take for negative.
const FIRST_CANDIDATE: u32 = 0x7000_0000;
const LAST_CANDIDATE: u32 = 0x7fff_0000 - WANTED;

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

/// A run of ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) count: u32,
}

impl Span {
    fn end(self) -> u32 {
        self.start.saturating_add(self.count)
    }

    fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }
}

/// What a map is chosen from: the host's files, read once.
#[derive(Debug, Default)]
struct Host {
    subuid: String,
    subgid: String,
    passwd: String,
    group: String,
    /// Ids that exist in the user namespace of the caller, `/proc/self/uid_map`.
    uid_map: String,
    gid_map: String,
}

impl Host {
    fn read() -> Self {
        let read = |path: &str| fs_err::read_to_string(path).unwrap_or_default();
        Self {
            subuid: read("/etc/subuid"),
            subgid: read("/etc/subgid"),
            passwd: read("/etc/passwd"),
            group: read("/etc/group"),
            uid_map: read("/proc/self/uid_map"),
            gid_map: read("/proc/self/gid_map"),
        }
    }

    /// The map for root: its own entry, else a range that nobody else has.
    fn map_for_root(&self) -> Option<IdMap> {
        let own = subordinate(&self.subuid, "root", 0).zip(subordinate(&self.subgid, "root", 0));
        let (uids, gids) = own.or_else(|| self.free_span().map(|span| (span, span)))?;
        let whole = |span: Span| vec![IdRange { inside: 0, outside: span.start, count: span.count.min(WANTED) }];
        Some(IdMap { uids: whole(uids), gids: whole(gids) })
    }

    /// A range of ids that exists and overlaps no subordinate range and no user or group.
    fn free_span(&self) -> Option<Span> {
        let (uids, gids) = (mapped(&self.uid_map), mapped(&self.gid_map));
        let taken: Vec<Span> = subordinates(&self.subuid).chain(subordinates(&self.subgid)).collect();
        let ids: BTreeSet<u32> = account_ids(&self.passwd).chain(account_ids(&self.group)).collect();
        let exists = |span: Span| [&uids, &gids].iter().all(|map| map.iter().any(|known| known.contains(span)));
        let is_free = |span: Span| {
            !taken.iter().any(|other| other.overlaps(span)) && ids.range(span.start..span.end()).next().is_none()
        };
        let candidates = (FIRST_CANDIDATE..LAST_CANDIDATE).step_by(WANTED as usize);
        candidates.map(|start| Span { start, count: WANTED }).find(|span| exists(*span) && is_free(*span)).or_else(
            || {
                // Root of a container that has few ids itself: what there is, but not the ids of its own accounts.
                let start = ids.range(..60_000).next_back().map_or(1, |id| id + 1);
                let end = uids
                    .iter()
                    .chain(&gids)
                    .filter(|known| known.start <= start && start < known.end())
                    .map(|known| known.end())
                    .min()?;
                let span = Span { start, count: end.checked_sub(start)?.min(WANTED) };
                (span.count >= LEAST && exists(span) && !taken.iter().any(|other| other.overlaps(span))).then_some(span)
            },
        )
    }

    /// The map for an ordinary user: itself as root, then its subordinate ids.
    fn map_for_user(&self, name: &str, uid: u32, gid: u32) -> Option<IdMap> {
        let uids = subordinate(&self.subuid, name, uid)?;
        let gids = subordinate(&self.subgid, name, uid)?;
        let with_self = |own: u32, span: Span| {
            let count = span.count.min(WANTED - 1);
            vec![IdRange { inside: 0, outside: own, count: 1 }, IdRange { inside: 1, outside: span.start, count }]
        };
        Some(IdMap { uids: with_self(uid, uids), gids: with_self(gid, gids) })
    }
}

impl IdMap {
    /// Chooses the map for a new store of the calling user. Root takes its own subordinate range, else one that nobody
    /// has; other users take themselves as root and their subordinate range behind it. Without a range, or without the
    /// programs that map one, there is a single id; [`crate::doctor::probe`] says how to get more.
    ///
    /// # Errors
    /// When root finds no free range.
    pub fn for_current_user() -> Result<Self, SandboxError> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let host = Host::read();
        if uid == 0 {
            return host.map_for_root().ok_or_else(|| SandboxError::IdMap {
                reason: "no range of unused ids was found for root".into(),
                remedy: add_range_command("root"),
            });
        }
        let name = sys::user_name(uid).unwrap_or_default();
        let map = host.map_for_user(&name, uid, gid).filter(|_| find_program("newuidmap").is_some());
        Ok(map.unwrap_or_else(Self::single))
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

/// What the calling user has to do for more than a single id, as the beginning of a sentence.
#[must_use]
pub fn subordinate_ids_remedy() -> String {
    if find_program("newuidmap").is_none() {
        return "Install the `uidmap` package (`shadow-utils` on Fedora), which has `newuidmap`".into();
    }
    let user = sys::user_name(rustix::process::geteuid().as_raw()).unwrap_or_else(|| "$USER".into());
    add_range_command(&user)
}

/// The command that gives `user` a subordinate range.
pub(crate) fn add_range_command(user: &str) -> String {
    let first = Host::read().free_span().map_or(FIRST_CANDIDATE, |span| span.start);
    let last = first + WANTED - 1;
    format!("Run `sudo usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {user}`")
}

/// The largest subordinate range of a user, by name or by number.
pub(crate) fn subordinate(file: &str, name: &str, uid: u32) -> Option<Span> {
    let number = uid.to_string();
    let own = |line: &&str| line.split(':').next().is_some_and(|owner| owner == name || owner == number);
    file.lines().filter(own).filter_map(parse_subordinate).filter(|span| span.count >= LEAST).max_by_key(|s| s.count)
}

/// All subordinate ranges of a file.
fn subordinates(file: &str) -> impl Iterator<Item = Span> {
    file.lines().filter_map(parse_subordinate)
}

/// The range of a line `owner:start:count`.
fn parse_subordinate(line: &str) -> Option<Span> {
    let mut fields = line.trim().split(':').skip(1);
    Some(Span { start: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? })
}

/// The ids of `/etc/passwd` or `/etc/group`.
fn account_ids(file: &str) -> impl Iterator<Item = u32> {
    file.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok())
}

/// The ids that exist according to a `uid_map` or `gid_map`.
fn mapped(map: &str) -> Vec<Span> {
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let start = fields.next()?.parse().ok()?;
        Some(Span { start, count: fields.nth(1)?.parse().ok()? })
    };
    map.lines().filter_map(parse).collect()
}

/// Where a helper program of the `uidmap` package is.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin", "/run/wrappers/bin"].map(Into::into);
    std::env::split_paths(&path).chain(usual).map(|directory| directory.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "         0          0 4294967295\n";

    fn host(subuid: &str) -> Host {
        Host {
            subuid: subuid.into(),
            subgid: subuid.into(),
            passwd: "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n".into(),
            group: "root:x:0:\nalice:x:1000:\n".into(),
            uid_map: FULL.into(),
            gid_map: FULL.into(),
        }
    }

    #[test]
    fn root_takes_its_own_entry() {
        let map = host("alice:100000:65536\nroot:300000:65536\n").map_for_root().unwrap();
        assert_eq!(map.uids, [IdRange { inside: 0, outside: 300_000, count: 65_536 }]);
    }

    #[test]
    fn root_without_entry_avoids_everybody() {
        let map = host("alice:100000:65536\nbob:1879048192:65536\n").map_for_root().unwrap();
        assert_eq!(map.root_uid(), FIRST_CANDIDATE + WANTED);
        let mut taken = host("");
        taken.passwd = format!("odd:x:{}:0::/:/bin/sh\n", FIRST_CANDIDATE + 7);
        assert_eq!(taken.map_for_root().unwrap().root_uid(), FIRST_CANDIDATE + WANTED);
    }

    #[test]
    fn root_of_a_small_container_takes_what_there_is() {
        let mut small = host("");
        small.uid_map = "0 1000 1\n1 100000 65536\n".into();
        small.gid_map.clone_from(&small.uid_map);
        let map = small.map_for_root().unwrap();
        assert_eq!(map.uids, [IdRange { inside: 0, outside: 1001, count: 64_536 }]);
        small.uid_map = "0 1000 1\n".into();
        assert_eq!(small.map_for_root(), None);
    }

    #[test]
    fn users_are_found_by_name_and_by_number() {
        for entry in ["alice:100000:65536\n", "1000:100000:65536\n"] {
            let map = host(entry).map_for_user("alice", 1000, 1000).unwrap();
            assert_eq!(
                map.uids,
                [
                    IdRange { inside: 0, outside: 1000, count: 1 },
                    IdRange { inside: 1, outside: 100_000, count: 65_535 }
                ]
            );
        }
        assert_eq!(host("alicette:100000:65536\n").map_for_user("alice", 1000, 1000), None);
    }
}
