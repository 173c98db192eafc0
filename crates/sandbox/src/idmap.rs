//! Which ids of the host the ids inside a store stand for.

use std::collections::BTreeSet;

use lamina_ground::EnvVars;
use serde::{Deserialize, Serialize};

use crate::SandboxError;

/// Ids that a range has where it is us who choose: those of a conventional system, 0 to 65535.
const WANTED: u32 = 65_536;
/// Most ranges of a map: far fewer than the kernel takes, and than `newuidmap` takes arguments.
const MOST_RANGES: usize = 64;
/// Fewest ids that make a useful map; with fewer, one alone is as good.
const LEAST: u32 = 1000;
/// Ids of a further range for those whom the usual ones do not suffice: those of directories of users, too.
const MORE: u32 = 1 << 24;
/// Where root's range is looked for first: above everything that systemd hands out (its containers end at 1878982656),
/// below the ids that some programs take for negative.
const FIRST_CANDIDATE: u32 = 0x7000_0000;
/// Where ranges for other users are looked for, so that none of them is one that root has taken without an entry.
const FIRST_FOR_OTHERS: u32 = 0x7800_0000;
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

impl IdRange {
    /// The host's ids.
    fn span(&self) -> Span {
        Span { start: self.outside, count: self.count }
    }
}

/// The id map of a store. It is recorded in the store, since files on disk carry the outside ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

/// The ids of sandboxes as numbers of the outer namespace, which are the same: the contents of `uid_map` and `gid_map`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InnerIds {
    pub(crate) uids: String,
    pub(crate) gids: String,
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

fn read_or_nothing(path: &str) -> String {
    fs_err::read_to_string(path).unwrap_or_default()
}

impl Host {
    fn read() -> Self {
        Self {
            subuid: read_or_nothing("/etc/subuid"),
            subgid: read_or_nothing("/etc/subgid"),
            passwd: read_or_nothing("/etc/passwd"),
            group: read_or_nothing("/etc/group"),
            uid_map: read_or_nothing("/proc/self/uid_map"),
            gid_map: read_or_nothing("/proc/self/gid_map"),
        }
    }

    /// The map for root: its own entries, else a range that nobody else has.
    fn map_for_root(&self) -> Option<IdMap> {
        self.map_of_entries("root", 0).or_else(|| {
            let span = [self.free_span(FIRST_CANDIDATE, WANTED)?];
            Some(IdMap { uids: consecutive(&span), gids: consecutive(&span) })
        })
    }

    /// The map of all subordinate ranges of a user, the largest first.
    fn map_of_entries(&self, name: &str, uid: u32) -> Option<IdMap> {
        let (uids, gids) = (subordinate(&self.subuid, name, uid), subordinate(&self.subgid, name, uid));
        let enough = |spans: &[Span]| spans.first().is_some_and(|span| span.count >= LEAST);
        (enough(&uids) && enough(&gids)).then(|| IdMap { uids: consecutive(&uids), gids: consecutive(&gids) })
    }

    /// A range of ids that exists and overlaps no subordinate range and no user or group.
    fn free_span(&self, first: u32, count: u32) -> Option<Span> {
        let (uids, gids) = (mapped(&self.uid_map), mapped(&self.gid_map));
        let taken: Vec<Span> = subordinates(&self.subuid).chain(subordinates(&self.subgid)).collect();
        let ids: BTreeSet<u32> = account_ids(&self.passwd).chain(account_ids(&self.group)).collect();
        let exists = |span: Span| [&uids, &gids].iter().all(|map| map.iter().any(|known| known.contains(span)));
        let is_free = |span: Span| {
            !taken.iter().any(|other| other.overlaps(span)) && ids.range(span.start..span.end()).next().is_none()
        };
        let candidates = (first..LAST_CANDIDATE).step_by(WANTED as usize);
        candidates.map(|start| Span { start, count }).find(|span| exists(*span) && is_free(*span)).or_else(|| {
            // Root of a container that has few ids itself: what there is, but not the ids of its own accounts.
            let start = ids.range(..60_000).next_back().map_or(1, |id| id + 1);
            let end = uids
                .iter()
                .chain(&gids)
                .filter(|known| known.start <= start && start < known.end())
                .map(|known| known.end())
                .min()?;
            let span = Span { start, count: end.checked_sub(start)?.min(count) };
            (span.count >= LEAST && exists(span) && !taken.iter().any(|other| other.overlaps(span))).then_some(span)
        })
    }
}

/// Ranges behind each other, beginning with 0 inside.
fn consecutive(spans: &[Span]) -> Vec<IdRange> {
    let mut ranges = Vec::new();
    append(&mut ranges, spans);
    ranges
}

/// Puts ranges behind those that are there, as far as they overlap none of them.
fn append(ranges: &mut Vec<IdRange>, spans: &[Span]) {
    for span in spans {
        let inside = ranges.last().map_or(0, |last| last.inside.saturating_add(last.count));
        // The highest number is no id.
        let count = span.count.min(u32::MAX - inside);
        if ranges.len() < MOST_RANGES && count > 0 && !ranges.iter().any(|range| range.span().overlaps(*span)) {
            ranges.push(IdRange { inside, outside: span.start, count });
        }
    }
}

impl IdMap {
    /// Chooses the map for a new store of the calling user: all its subordinate ranges. Root without any takes one that
    /// nobody has. For other users without a range, or without the programs that map one, there is a single id;
    /// [`crate::doctor::look`] says how to get more.
    ///
    /// The user's own id is not among them where it can be helped: what the kernel counts for each user, such as
    /// descriptors under way, containers could use up for everything else that the user runs.
    ///
    /// # Errors
    /// When root finds no free range.
    pub fn for_current_user() -> Result<Self, SandboxError> {
        let uid = rustix::process::geteuid().as_raw();
        let host = Host::read();
        if uid == 0 {
            return host.map_for_root().ok_or_else(|| SandboxError::IdMap {
                reason: "no range of unused ids was found for root".into(),
                hint: add_range_command("root"),
            });
        }
        let name = lamina_system::user_name(uid).unwrap_or_default();
        let map = host.map_of_entries(&name, uid).filter(|_| find_program("newuidmap").is_some());
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

    /// Takes in subordinate ranges that the calling user has got since the map was recorded, behind the others, unless those
    /// are no longer the user's. Says whether there were any.
    pub fn extend(&mut self) -> bool {
        if self.is_single() {
            return false;
        }
        let uid = rustix::process::geteuid().as_raw();
        let (subuid, subgid) = (read_or_nothing("/etc/subuid"), read_or_nothing("/etc/subgid"));
        let is_new = |ranges: &[IdRange], file: &str| {
            let known = |span: Span| ranges.iter().any(|range| range.outside == span.start);
            subordinates(file).any(|span| !known(span))
        };
        // A look at all entries is enough on most machines; whose they are is a question to the user directory.
        if !is_new(&self.uids, &subuid) && !is_new(&self.gids, &subgid) {
            return false;
        }
        let name = lamina_system::user_name(uid).unwrap_or_default();
        self.extend_with(&subordinate(&subuid, &name, uid), &subordinate(&subgid, &name, uid), uid == 0)
    }

    /// Takes in the ranges that a user has; root may map any.
    fn extend_with(&mut self, uids: &[Span], gids: &[Span], is_root: bool) -> bool {
        let has = |spans: &[Span], range: &IdRange| spans.iter().any(|span| span.contains(range.span()));
        let has_all = |spans: &[Span], ranges: &[IdRange]| ranges.iter().all(|range| has(spans, range));
        let are_own = has_all(uids, &self.uids) && has_all(gids, &self.gids);
        if !is_root && !are_own {
            return false;
        }
        let before = (self.uids.len(), self.gids.len());
        append(&mut self.uids, uids);
        append(&mut self.gids, gids);
        before != (self.uids.len(), self.gids.len())
    }

    /// Whether the ranges follow each other inside, from 0 on, as in all maps that were ever recorded.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let follow = |ranges: &[IdRange]| {
            let next = |inside: u32, range: &IdRange| {
                if range.inside == inside && range.count > 0 { inside.checked_add(range.count) } else { None }
            };
            ranges.iter().try_fold(0, next).is_some_and(|count| count > 0)
        };
        follow(&self.uids) && follow(&self.gids)
    }

    /// Whether root inside is the calling user although there are other ids: how stores of ordinary users began once.
    #[must_use]
    pub fn has_the_user_as_root(&self) -> bool {
        self.is_users_own() && !self.is_single()
    }

    /// How many user ids there are inside, from 0 on.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.uids.iter().map(|range| range.count).sum()
    }

    /// Whether root inside is the calling user, and an ordinary one.
    pub(crate) fn is_users_own(&self) -> bool {
        let uid = rustix::process::geteuid();
        !uid.is_root() && self.root_uid() == uid.as_raw()
    }

    /// The calling user as root, and root of this map as 1.
    pub(crate) fn for_errands(&self) -> Self {
        let one = |inside, outside| IdRange { inside, outside, count: 1 };
        let Self { uids, gids } = Self::single();
        Self {
            uids: uids.into_iter().chain([one(1, self.root_uid())]).collect(),
            gids: gids.into_iter().chain([one(1, self.root_gid())]).collect(),
        }
    }

    /// The map of the outer of both namespaces: that of the sandboxes, and behind it the calling user, because the kernel
    /// lets nobody make the inner one who has no id in the outer one.
    pub(crate) fn with_the_user(&self) -> Self {
        let Self { uids, gids } = Self::single();
        let with = |ranges: &[IdRange], user: &[IdRange]| {
            let inside = ranges.iter().map(|range| range.count).sum();
            let user = user.iter().filter(|user| !ranges.iter().any(|range| range.span().overlaps(user.span())));
            ranges.iter().copied().chain(user.map(|user| IdRange { inside, ..*user })).collect()
        };
        Self { uids: with(&self.uids, &uids), gids: with(&self.gids, &gids) }
    }

    /// The map of the inner one.
    pub(crate) fn inner(&self) -> InnerIds {
        let same = |ranges: &[IdRange]| {
            let line = |range: &IdRange| format!("{0} {0} {1}\n", range.inside, range.count);
            ranges.iter().map(line).collect()
        };
        InnerIds { uids: same(&self.uids), gids: same(&self.gids) }
    }

    /// Whether there is only one id inside: files of other owners cannot be represented then.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.count() <= 1
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
pub fn subordinate_ids_hint() -> String {
    if find_program("newuidmap").is_none() {
        return "Install the `uidmap` package (`shadow-utils` on Fedora), which has `newuidmap`".into();
    }
    let user = lamina_system::user_name(rustix::process::geteuid().as_raw()).unwrap_or_else(|| "$USER".into());
    add_range_command(&user)
}

/// The command that gives `user` a subordinate range.
pub(crate) fn add_range_command(user: &str) -> String {
    range_command(user, WANTED)
}

/// The command that gives the calling user more ids than most programs need, as the beginning of a sentence.
#[must_use]
pub fn more_ids_hint() -> String {
    let user = lamina_system::user_name(rustix::process::geteuid().as_raw()).unwrap_or_else(|| "$USER".into());
    range_command(&user, MORE)
}

fn range_command(user: &str, count: u32) -> String {
    let first = Host::read().free_span(FIRST_FOR_OTHERS, count).map_or(FIRST_FOR_OTHERS, |span| span.start);
    let last = first + (count - 1);
    format!("Run `sudo usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {user}`")
}

/// The subordinate ranges of a user, by name or by number, the largest first.
pub(crate) fn subordinate(file: &str, name: &str, uid: u32) -> Vec<Span> {
    let number = uid.to_string();
    let own = |line: &&str| line.split(':').next().is_some_and(|owner| owner == name || owner == number);
    let mut spans: Vec<Span> = file.lines().filter(own).filter_map(parse_subordinate).collect();
    spans.sort_by_key(|span| std::cmp::Reverse(span.count));
    spans
}

/// Whether the process that asks is in a user namespace with a single id.
pub(crate) fn is_single_here() -> bool {
    mapped(&read_or_nothing("/proc/self/uid_map")).iter().map(|span| u64::from(span.count)).sum::<u64>() <= 1
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
    let path = std::env::var_os(EnvVars::PATH).unwrap_or_default();
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
            let map = host(entry).map_of_entries("alice", 1000).unwrap();
            assert_eq!(map.uids, [IdRange { inside: 0, outside: 100_000, count: 65_536 }]);
        }
        assert_eq!(host("alicette:100000:65536\n").map_of_entries("alice", 1000), None);
        assert_eq!(host("alice:100000:10\n").map_of_entries("alice", 1000), None);
    }

    #[test]
    fn all_ranges_of_a_user_count() {
        let map =
            host("alice:100000:65536\nbob:300000:9\nalice:400000:200000\n").map_of_entries("alice", 1000).unwrap();
        let expected = [
            IdRange { inside: 0, outside: 400_000, count: 200_000 },
            IdRange { inside: 200_000, outside: 100_000, count: 65_536 },
        ];
        assert_eq!(map.uids, expected);
        assert_eq!((map.count(), map.root_uid()), (265_536, 400_000));
        let mut ranges = vec![IdRange { inside: 0, outside: 100_000, count: 65_536 }];
        append(&mut ranges, &subordinate("alice:400000:200000\nalice:100000:65536\nalice:165530:9\n", "alice", 1));
        assert_eq!(ranges[1..], [IdRange { inside: 65_536, outside: 400_000, count: 200_000 }]);
        append(&mut ranges, &[Span { start: 1_000_000, count: u32::MAX - 1_000_000 }]);
        assert!(ranges.iter().all(|range| range.inside.checked_add(range.count).is_some()));
    }

    #[test]
    fn a_map_grows_while_its_ranges_are_the_user_s() {
        let recorded = || host("alice:100000:65536\n").map_of_entries("alice", 1000).unwrap();
        let more = subordinate("alice:100000:65536\nalice:400000:65536\n", "alice", 1000);
        let other = subordinate("alice:400000:65536\n", "alice", 1000);
        for (uids, gids, is_root, grows) in [
            (&more, &more, false, true),
            (&other, &more, false, false),
            (&more, &other, false, false),
            (&other, &other, true, true),
        ] {
            let mut map = recorded();
            assert_eq!((map.extend_with(uids, gids, is_root), map != recorded()), (grows, grows));
        }
    }

    #[test]
    fn what_others_are_advised_to_take_is_not_what_root_takes() {
        let host = host("");
        let (for_root, for_others) =
            (host.free_span(FIRST_CANDIDATE, WANTED).unwrap(), host.free_span(FIRST_FOR_OTHERS, MORE).unwrap());
        assert!(!for_root.overlaps(for_others));
    }
}
