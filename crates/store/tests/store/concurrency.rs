//! Several threads, several processes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lamina_events::CancelToken;
use lamina_ground::Stack;
use lamina_store::{CommitRules, StoreError};

use crate::support::*;

#[test]
fn equal_layers_committed_at_once_are_one_layer() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    // Two engines with a worker each, as two processes have.
    let stores = [TestStore::open(&root), TestStore::open(&root)];
    let digests: Vec<_> = std::thread::scope(|scope| {
        let commit = |index: usize| {
            let store = &stores[index % 2];
            scope.spawn(move || {
                let work = store.new_work().unwrap();
                for file in 0..50 {
                    write(store.upper(&work).join(format!("d{}/{file}", file % 5)), format!("file {file}"));
                }
                // Half of them have something of their own as well.
                if index >= 4 {
                    write(store.upper(&work).join("own"), index.to_string());
                }
                let rules = CommitRules { package_times: true, ..CommitRules::default() };
                store.commit(&work, rules).unwrap().digest
            })
        };
        let threads: Vec<_> = (0..8).map(commit).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(digests[..4].iter().all(|digest| *digest == digests[0]));
    for digest in &digests {
        assert_eq!(stores[0].verify(digest).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn locks_exclude_one_another_and_leave_no_files() {
    let store = TestStore::new();
    let (inside, most, rounds) = (AtomicUsize::new(0), AtomicUsize::new(0), 20);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let _lock = store.lock("key", &CancelToken::new(), || ()).unwrap();
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 1);
    let left: Vec<_> = std::fs::read_dir(store.root.join("locks")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(left.len() == 1 && left[0].to_string_lossy().starts_with("session-"), "{left:?}");
}

#[test]
fn lock_files_of_those_who_were_killed_go_with_the_next_start() {
    let mut store = TestStore::new();
    let locks = store.root.join("locks");
    write(locks.join("lock-layer-dead"), "");
    let held = store.lock("layer-held", &CancelToken::new(), || ()).unwrap();
    let other = TestStore::open(&store.root);
    assert!(!locks.join("lock-layer-dead").exists());
    assert!(locks.join("lock-layer-held").exists());
    drop((held, other));
    assert!(!locks.join("lock-layer-held").exists());
    store.close();
}

#[test]
fn waiting_for_a_lock_is_reported_once_and_can_be_cancelled() {
    let store = TestStore::new();
    let held = store.lock("key", &CancelToken::new(), || panic!("nobody holds it")).unwrap();
    let (cancel, calls) = (CancelToken::new(), AtomicUsize::new(0));
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let waiting = || {
                calls.fetch_add(1, Ordering::SeqCst);
                sender.send(()).unwrap();
            };
            let started = Instant::now();
            assert!(matches!(store.lock("key", &cancel, waiting), Err(StoreError::Cancelled(_))));
            assert!(started.elapsed() < Duration::from_secs(5));
        });
        receiver.recv().unwrap();
        cancel.cancel();
    });
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    drop(held);
    store.lock("key", &CancelToken::new(), || panic!("nobody holds it")).unwrap();
}

#[test]
fn the_same_local_files_are_taken_in_by_several_engines_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let sources = directory.path().join("sources");
    for file in 0..200 {
        write(sources.join(format!("d{}/{file}", file % 7)), format!("file {file}"));
    }
    for round in 0..5 {
        let root = directory.path().join(format!("store-{round}"));
        let stores: Vec<_> = (0..4).map(|_| TestStore::open(&root)).collect();
        let digests: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = stores
                .iter()
                .map(|store| {
                    scope.spawn(|| store.file_set(&directory_set(&sources, "/root/src"), &Stack::new()).unwrap().digest)
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(digests.iter().all(|digest| *digest == digests[0] && digest.is_some()));
        assert_eq!(stores[0].verify(&digests[0].unwrap()).unwrap(), Vec::<String>::new());
    }
}
