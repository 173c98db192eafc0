//! Sandboxes whose pid 1 was made before they were asked for.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lamina_sandbox::{Enforcement, ExitStatus, Limits, Network, SandboxSpec};
use rustix::process::{Pid, Signal, kill_process};

use crate::limits::groups;
use crate::support::{Store, eventually, probe, run, script, spec};

crate::tests!(
    a_prepared_sandbox_is_like_any_other,
    one_that_died_is_not_used,
    one_that_is_not_used_leaves_nothing,
    many_can_be_asked_for_at_once,
);

fn a_prepared_sandbox_is_like_any_other() {
    let store = Store::new();
    let helpers = store.start();
    let prepared = |limits, spec: SandboxSpec| {
        helpers.launcher.prepare();
        run(&helpers, &SandboxSpec { limits, ..spec })
    };
    let pids = Limits { pids: Some(20), ..Limits::default() };
    assert_eq!(prepared(pids, probe("processes")).success(), "19\n");
    let memory = Limits { memory_bytes: Some(64 << 20), cpus: Some(1.0), ..Limits::default() };
    let exhausted = prepared(memory, probe("memory")).exit;
    if helpers.launcher.limits().memory == Enforcement::ControlGroup {
        assert_eq!((exhausted.status, exhausted.out_of_memory), (ExitStatus::Signaled(9), true));
    }
    let isolated = SandboxSpec { network: Network::Isolated, ..script("cat /proc/net/dev") };
    assert_eq!(prepared(Limits::default(), isolated).success().lines().count(), 3);
    assert_eq!(prepared(Limits::default(), script("exit 7")).exit.status, ExitStatus::Exited(7));
}

fn one_that_died_is_not_used() {
    let store = Store::new();
    let helpers = store.start();
    let before = descendants();
    helpers.launcher.prepare();
    let mut made = BTreeSet::new();
    eventually("it is made", || {
        made = descendants().difference(&before).copied().collect();
        !made.is_empty()
    });
    for pid in &made {
        kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap();
    }
    eventually("it is dead", || descendants().is_disjoint(&made));
    assert_eq!(run(&helpers, &script("echo still")).success(), "still\n");
}

fn one_that_is_not_used_leaves_nothing() {
    let store = Store::new();
    let before = descendants();
    let helpers = store.start();
    helpers.launcher.prepare();
    helpers.launcher.prepare();
    drop(helpers);
    assert_eq!(descendants(), before);
    assert_eq!(groups(), Vec::<PathBuf>::new());
}

fn many_can_be_asked_for_at_once() {
    let store = Store::new();
    let helpers = store.start();
    helpers.launcher.prepare();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..3 {
                    assert_eq!(run(&helpers, &spec(&["true"])).exit.status, ExitStatus::Exited(0));
                }
            });
        }
    });
    drop(helpers);
    assert_eq!(groups(), Vec::<PathBuf>::new());
}

/// All processes below this one.
fn descendants() -> BTreeSet<i32> {
    let parents: Vec<(i32, i32)> = fs_err::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs_err::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = BTreeSet::new();
    let mut pending = vec![i32::try_from(std::process::id()).unwrap()];
    while let Some(parent) = pending.pop() {
        for (pid, _) in parents.iter().filter(|(_, its)| *its == parent) {
            found.insert(*pid);
            pending.push(*pid);
        }
    }
    found
}
