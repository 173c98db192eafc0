//! Collections as several processes share them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lamina_events::CancelToken;

use super::*;
use crate::database::SCHEMA_VERSION;

fn named(name: &str) -> CollectionName {
    CollectionName { environment: "main".to_owned(), name: name.to_owned() }
}

fn in_directory(directory: &Path) -> Collections {
    Collections::new(directory.join("collections"))
}

fn now() -> Until {
    Until { time: Some(Instant::now()), cancel: CancelToken::new() }
}

fn at_last() -> Until {
    Until { time: Some(Instant::now() + Duration::from_mins(1)), cancel: CancelToken::new() }
}

#[test]
fn what_one_process_puts_another_one_gets() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (in_directory(directory.path()), in_directory(directory.path()));
    let dict = one.make(Kind::Dict, &named("d"), false).unwrap();
    assert!(dict.id.starts_with("di-"), "{dict:?}");
    assert_eq!(other.find(Kind::Dict, &Reference::Id { id: dict.id.clone() }).unwrap(), dict);
    assert!(one.put(&dict.id, &[(b"a", b"1"), (b"b", b"2")], false).unwrap());
    assert_eq!(other.get(&dict.id, b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert!(other.contains(&dict.id, b"b").unwrap() && !other.contains(&dict.id, b"c").unwrap());
    assert!(!other.put(&dict.id, &[(b"a", b"9")], true).unwrap());
    assert_eq!(one.pop(&dict.id, b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!((one.pop(&dict.id, b"a").unwrap(), one.count(&dict.id).unwrap()), (None, 1));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs_err::metadata(directory.path().join("collections/collections.sqlite")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn of_many_that_take_a_lock_one_gets_it() {
    let directory = tempfile::tempdir().unwrap();
    let dict = in_directory(directory.path()).make(Kind::Dict, &named("locks"), false).unwrap();
    let winners: usize = std::thread::scope(|scope| {
        let attempts: Vec<_> = (0..8)
            .map(|_| {
                let id = &dict.id;
                let own = in_directory(directory.path());
                scope.spawn(move || (0..20).filter(|key| own.put(id, &[(&[*key], b"mine")], true).unwrap()).count())
            })
            .collect();
        attempts.into_iter().map(|attempt| attempt.join().unwrap()).sum()
    });
    assert_eq!(winners, 20);
}

#[test]
fn names_are_taken_once_and_gone_when_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let all = in_directory(directory.path());
    let missing = all.find(Kind::Queue, &Reference::Name { name: named("q"), create: false }).unwrap_err();
    assert_eq!(missing.to_string(), "there is no queue `q`");
    let queue = all.find(Kind::Queue, &Reference::Name { name: named("q"), create: true }).unwrap();
    assert_eq!(all.make(Kind::Queue, &named("q"), true).unwrap(), queue);
    assert_eq!(all.make(Kind::Queue, &named("q"), false).unwrap_err().to_string(), "there is a queue `q` already");
    // Dictionaries have names of their own.
    all.make(Kind::Dict, &named("q"), false).unwrap();
    assert_eq!(all.list(Kind::Queue, "main").unwrap(), std::slice::from_ref(&queue));
    assert!(all.push(&queue.id, b"", &[b"x"], 60, &now()).unwrap());
    all.delete(Kind::Queue, &named("q")).unwrap();
    assert!(all.delete(Kind::Queue, &named("q")).is_err());
    let gone = all.take(&queue.id, b"", 1, &at_last()).unwrap_err().to_string();
    assert!(gone.contains("does not exist any more"), "{gone}");
    assert!(all.make(Kind::Dict, &named("a/b"), false).is_err());
}

#[test]
fn a_queue_keeps_order_in_each_partition() {
    let directory = tempfile::tempdir().unwrap();
    let all = in_directory(directory.path());
    let queue = all.make(Kind::Queue, &named("q"), false).unwrap().id;
    all.push(&queue, b"", &[b"1", b"2"], 60, &now()).unwrap();
    all.push(&queue, b"other", &[b"x"], 60, &now()).unwrap();
    all.push(&queue, b"", &[b"3"], 60, &now()).unwrap();
    assert_eq!((all.length(&queue, Some(b"")).unwrap(), all.length(&queue, None).unwrap()), (3, 4));
    let (first, value) = all.peek(&queue, b"", 0, 1, &now()).unwrap().remove(0);
    assert_eq!(value, b"1");
    assert_eq!(all.peek(&queue, b"", first, 9, &now()).unwrap().len(), 2);
    assert_eq!(all.take(&queue, b"", 2, &now()).unwrap(), [b"1", b"2"]);
    assert_eq!(all.take(&queue, b"", 2, &now()).unwrap(), [b"3"]);
    assert!(all.take(&queue, b"", 2, &now()).unwrap().is_empty());
    all.clear_queue(&queue, None).unwrap();
    assert_eq!(all.length(&queue, None).unwrap(), 0);
    // A lifetime of nothing is over at once.
    all.push(&queue, b"", &[b"1"], 0, &now()).unwrap();
    assert_eq!(all.length(&queue, None).unwrap(), 0);
    assert!(all.take(&queue, b"", 1, &now()).unwrap().is_empty());
}

#[test]
fn whoever_waits_hears_of_other_processes_and_of_cancelling() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (in_directory(directory.path()), in_directory(directory.path()));
    let queue = one.make(Kind::Queue, &named("q"), false).unwrap().id;
    let for_ever = Until { time: None, cancel: CancelToken::new() };
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| one.take(&queue, b"", 5, &for_ever).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        other.push(&queue, b"", &[b"x"], 60, &now()).unwrap();
        assert_eq!(taken.join().unwrap(), [b"x"]);
        let taken = scope.spawn(|| one.take(&queue, b"", 5, &for_ever).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        for_ever.cancel.cancel();
        assert!(taken.join().unwrap().is_empty());
    });
}

#[test]
fn a_full_partition_makes_those_wait_who_put() {
    let directory = tempfile::tempdir().unwrap();
    let all = in_directory(directory.path());
    let queue = all.make(Kind::Queue, &named("q"), false).unwrap().id;
    let full: Vec<&[u8]> = vec![b"x"; MOST_ITEMS];
    assert!(all.push(&queue, b"", &full, 60, &now()).unwrap());
    assert!(!all.push(&queue, b"", &[b"y"], 60, &now()).unwrap());
    assert!(all.push(&queue, b"elsewhere", &[b"y"], 60, &now()).unwrap());
    std::thread::scope(|scope| {
        let pushed = scope.spawn(|| all.push(&queue, b"", &[b"y"], 60, &at_last()).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        all.take(&queue, b"", 1, &now()).unwrap();
        assert!(pushed.join().unwrap());
    });
    let too_many = all.push(&queue, b"", &[&full[..], &[b"z"]].concat(), 60, &at_last()).unwrap_err();
    assert!(too_many.to_string().contains("at most 5000 are possible"), "{too_many}");
}

#[test]
fn no_value_is_lost_or_taken_twice() {
    let directory = tempfile::tempdir().unwrap();
    let queue = in_directory(directory.path()).make(Kind::Queue, &named("q"), false).unwrap().id;
    let mut taken: Vec<Vec<u8>> = std::thread::scope(|scope| {
        for first in 0..4_u8 {
            let own = in_directory(directory.path());
            let queue = &queue;
            scope.spawn(move || {
                for second in 0..25_u8 {
                    own.push(queue, b"", &[&[first, second]], 60, &at_last()).unwrap();
                }
            });
        }
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let own = in_directory(directory.path());
                let queue = &queue;
                scope.spawn(move || {
                    (0..25).flat_map(|_| own.take(queue, b"", 1, &at_last()).unwrap()).collect::<Vec<_>>()
                })
            })
            .collect();
        takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
    });
    taken.sort();
    let all: Vec<Vec<u8>> = (0..4).flat_map(|first| (0..25).map(move |second| vec![first, second])).collect();
    assert_eq!(taken, all);
}

#[test]
fn ephemeral_ones_end_with_their_maker_also_a_killed_one() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = in_directory(directory.path());
    let killed = Arc::new(in_directory(directory.path()));
    let dict = killed.make_ephemeral(Kind::Dict).unwrap();
    let find = |id: &str| keeper.find(Kind::Dict, &Reference::Id { id: id.to_owned() });
    assert_eq!(find(&dict.id).unwrap().name, None);
    let queue = keeper.make_ephemeral(Kind::Queue).unwrap();
    assert!(find(&dict.id).is_ok(), "its maker lives");
    // What the kernel does for a process that was killed: its locks go, and nothing else.
    killed.own().clear();
    drop(killed);
    assert!(find(&dict.id).is_ok(), "nobody has looked yet");
    let further = keeper.make_ephemeral(Kind::Dict).unwrap();
    assert!(find(&dict.id).is_err());
    drop(keeper);
    let left = in_directory(directory.path());
    for (kind, id) in [(Kind::Dict, further.id), (Kind::Queue, queue.id)] {
        assert!(left.find(kind, &Reference::Id { id }).is_err());
    }
    let mut files = fs_err::read_dir(directory.path().join("collections")).unwrap();
    assert!(files.all(|file| file.unwrap().path().extension().is_none_or(|extension| extension != "lock")));
}

#[test]
fn whatever_is_asked_of_one_that_is_gone_fails() {
    let directory = tempfile::tempdir().unwrap();
    let all = in_directory(directory.path());
    let dict = all.make_ephemeral(Kind::Dict).unwrap().id;
    all.put(&dict, &[(b"k", b"v")], false).unwrap();
    all.delete_ephemeral(&dict).unwrap();
    let answers = [
        all.get(&dict, b"k").err(),
        all.contains(&dict, b"k").err(),
        all.put(&dict, &[(b"k", b"v")], true).err(),
        all.pop(&dict, b"k").err(),
        all.count(&dict).err(),
        all.clear_dict(&dict).err(),
        all.entries(&dict, 0, 10).err(),
        all.clear_queue("qu-nowhere", None).err(),
        all.length("qu-nowhere", None).err(),
    ];
    assert!(answers.iter().all(|error| matches!(error, Some(CollectionsError::Gone { .. }))), "{answers:?}");
}

#[test]
fn the_disk_gets_back_what_was_removed() {
    let directory = tempfile::tempdir().unwrap();
    let all = in_directory(directory.path());
    let keeper = all.make(Kind::Dict, &named("d"), false).unwrap().id;
    let dict = all.make_ephemeral(Kind::Dict).unwrap().id;
    all.put(&dict, &[(b"k", &vec![1; 40 << 20])], false).unwrap();
    all.put(&keeper, &[(b"k", &vec![2; 1 << 20])], false).unwrap();
    all.delete_ephemeral(&dict).unwrap();
    assert_eq!(all.get(&keeper, b"k").unwrap().unwrap(), vec![2; 1 << 20]);
    drop(all);
    let size = fs_err::metadata(directory.path().join("collections/collections.sqlite")).unwrap().len();
    assert!(size < 4 << 20, "{size}");
}

#[test]
fn entries_are_read_in_portions() {
    let directory = tempfile::tempdir().unwrap();
    let all = in_directory(directory.path());
    let dict = all.make(Kind::Dict, &named("d"), false).unwrap().id;
    let keys: Vec<[u8; 1]> = (0..10).map(|key| [key]).collect();
    let entries: Vec<(&[u8], &[u8])> = keys.iter().map(|key| (&key[..], &b"value"[..])).collect();
    all.put(&dict, &entries, false).unwrap();
    let mut seen = Vec::new();
    loop {
        let portion = all.entries(&dict, seen.last().map_or(0, |entry: &Entry| entry.number), 12).unwrap();
        if portion.is_empty() {
            break;
        }
        assert_eq!(portion.len(), 2);
        seen.extend(portion);
    }
    assert_eq!(seen.iter().map(|entry| &entry.key[..]).collect::<Vec<_>>(), keys);
    all.clear_dict(&dict).unwrap();
    assert_eq!(all.count(&dict).unwrap(), 0);
    let large = vec![0; MOST_BYTES_OF_VALUE];
    assert!(all.put(&dict, &[(b"k", &large)], false).is_err());
}

#[test]
fn a_database_of_a_later_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    in_directory(directory.path()).make(Kind::Dict, &named("d"), false).unwrap();
    let path = directory.path().join("collections/collections.sqlite");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
    let error = in_directory(directory.path()).list(Kind::Dict, "main").unwrap_err();
    assert!(error.to_string().contains("install a newer one"), "{error}");
}
