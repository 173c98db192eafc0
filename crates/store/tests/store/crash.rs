//! Processes that die in the middle of a commit.
//!
//! A test runs itself as a child that commits without end, kills it at some point, and looks at what is left.

#![expect(clippy::print_stdout, reason = "children say how far they are")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lamina_events::CancelToken;
use lamina_image::Digest;
use lamina_store::{CommitRules, Policy};

use crate::support::*;

/// Names the store of a child.
const STORE: &str = "LAMINA_TEST_STORE";

/// Does, in a child that a test has started, what the child is for, until it is killed; returns at once in the test itself.
fn in_child(body: fn(&Path)) {
    if let Some(root) = std::env::var_os(STORE) {
        body(Path::new(&root));
    }
}

/// Runs a test of this program as a child process, on the store at `root`.
fn child(test: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("crash::{test}"), "--nocapture"])
        .env(STORE, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn commit_without_end(root: &Path) {
    let store = TestStore::open(root);
    for round in 0_u64.. {
        let work = store.new_work().unwrap();
        for file in 0..40 {
            write(store.upper(&work).join(format!("d{}/{file}", file % 4)), format!("{file} of {}", round % 50));
        }
        let committed = store.commit(&work, CommitRules::default()).unwrap();
        println!("committed {}", committed.digest);
    }
}

#[test]
fn a_killed_commit_leaves_nothing_wrong() {
    in_child(commit_without_end);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    for round in 0..12 {
        let mut child = child("a_killed_commit_leaves_nothing_wrong", &root);
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let committed = output.find(|line| line.as_ref().unwrap().contains("committed")).unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(7 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut store = TestStore::open(&root);
        assert_eq!(store.names("work").len(), 1, "leftovers were not swept");
        let digest: Digest = committed.split("committed ").nth(1).unwrap().trim().parse().unwrap();
        assert!(store.has_view(&digest));
        for name in store.names("views") {
            let digest: Digest = name.parse().unwrap();
            assert_eq!(store.verify(&digest).unwrap(), Vec::<String>::new());
        }
        store.close();
        assert_eq!(store.names("work"), Vec::<String>::new());
    }
}

fn commit_and_collect_without_end(root: &Path) {
    let store = TestStore::open(root);
    let everything = Policy { unused_for: Some(Duration::ZERO), ..Policy::default() };
    for round in 0_u64.. {
        // The layer of a session stays as long as it runs, so another one collects.
        let builder = TestStore::open(root);
        let work = builder.new_work().unwrap();
        for file in 0..200 {
            write(builder.upper(&work).join(format!("d{}/{file}", file % 4)), format!("{file} of {}", round % 3));
        }
        builder.commit(&work, CommitRules::default()).unwrap();
        drop((work, builder));
        println!("collecting");
        store.collect(&everything, &CancelToken::new(), &|| ()).unwrap();
    }
}

#[test]
fn a_killed_collection_leaves_nothing_wrong() {
    in_child(commit_and_collect_without_end);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    for round in 0..12 {
        let mut child = child("a_killed_collection_leaves_nothing_wrong", &root);
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        output.find(|line| line.as_ref().unwrap().contains("collecting")).unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(round));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = TestStore::open(&root);
        assert_eq!(store.names("work").len(), 1, "leftovers were not swept");
        for name in store.names("views") {
            let digest: Digest = name.parse().unwrap();
            if store.has_view(&digest) {
                assert_eq!(store.verify(&digest).unwrap(), Vec::<String>::new());
            }
        }
        let everything = Policy { unused_for: Some(Duration::ZERO), ..Policy::default() };
        store.collect(&everything, &CancelToken::new(), &|| ()).unwrap();
        assert_eq!((store.names("views"), store.names("trees")), (Vec::new(), Vec::new()));
    }
}

fn hold_a_lock_and_a_work(root: &Path) {
    let store = TestStore::open(root);
    let work = store.new_work().unwrap();
    let _lock = store.lock("key", &CancelToken::new(), || ()).unwrap();
    println!("holding {}", work.id());
    // Nobody writes to this.
    let _ = std::io::stdin().read(&mut [0]);
    panic!("the test that was to kill this process is gone");
}

#[test]
fn locks_and_works_of_living_processes_are_respected_and_those_of_dead_ones_are_not() {
    in_child(hold_a_lock_and_a_work);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let mut child = child("locks_and_works_of_living_processes_are_respected_and_those_of_dead_ones_are_not", &root);
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let holding = output.find(|line| line.as_ref().unwrap().contains("holding")).unwrap().unwrap();
    let work = holding.split("holding ").nth(1).unwrap().trim().to_owned();
    let mut store = TestStore::open(&root);
    assert!(store.names("work").contains(&work), "a living process's work was swept");
    let mut waited = false;
    std::thread::scope(|scope| {
        scope.spawn(|| drop(store.lock("key", &CancelToken::new(), || waited = true).unwrap()));
        std::thread::sleep(Duration::from_millis(100));
        child.kill().unwrap();
        child.wait().unwrap();
    });
    assert!(waited);
    store.close();
    let store = TestStore::open(&root);
    assert!(!store.names("work").contains(&work), "a dead process's work was not swept");
}
