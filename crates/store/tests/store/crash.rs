//! Processes that die in the middle of a commit.
//!
//! The test runs itself as a child that commits without end, kills it at some point, and looks at what is left.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lamina_events::CancelToken;
use lamina_image::Digest;
use lamina_store::{CommitRules, Policy};

use crate::support::*;

/// Names the store of a child; without it, the tests below that are bodies of children do nothing.
const STORE: &str = "LAMINA_TEST_STORE";

/// Runs one test of this program as a child process with its own store.
fn child(test: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(STORE, root)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn body_commit_without_end() {
    let Some(root) = std::env::var_os(STORE) else { return };
    let store = TestStore::open(Path::new(&root));
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
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    for round in 0..12 {
        let mut child = child("crash::body_commit_without_end", &root);
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

#[test]
fn body_commit_and_collect_without_end() {
    let Some(root) = std::env::var_os(STORE) else { return };
    let store = TestStore::open(Path::new(&root));
    let everything = Policy { unused_for: Some(Duration::ZERO), ..Policy::default() };
    for round in 0_u64.. {
        // The layer of a session stays as long as it runs, so another one collects.
        let builder = TestStore::open(Path::new(&root));
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
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    for round in 0..12 {
        let mut child = child("crash::body_commit_and_collect_without_end", &root);
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

#[test]
fn body_hold_a_lock_and_a_work() {
    let Some(root) = std::env::var_os(STORE) else { return };
    let store = TestStore::open(Path::new(&root));
    let work = store.new_work().unwrap();
    let _lock = store.lock("key", &CancelToken::new(), || ()).unwrap();
    println!("holding {}", work.id());
    // Until killed: nobody writes to this.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn locks_and_works_of_living_processes_are_respected_and_those_of_dead_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let mut child = {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::body_hold_a_lock_and_a_work", "--nocapture"]).env(STORE, &root);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
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
