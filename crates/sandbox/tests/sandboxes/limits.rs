//! Memory, processor and process limits, and what stays behind in the control group tree.

use std::path::PathBuf;
use std::time::Duration;

use lamina_sandbox::{Enforcement, ExitStatus, Limits, SandboxSpec, TerminalSize, TerminalSpec};

use crate::support::{Store, eventually, null_stdio, probe, run, script, spec, start, text};

crate::tests!(
    a_memory_limit_kills_and_says_so,
    a_process_limit_bounds_a_fork_bomb,
    a_processor_limit_slows_down,
    nothing_is_left_in_the_control_group_tree,
    groups_of_dead_engines_are_swept,
    closing_leaves_nothing_whoever_still_holds_a_sandbox,
    descriptors_under_way_stop_nobody_else,
    commands_get_less_than_the_user_has,
    all_ids_together_leave_watches_to_the_user,
);

fn a_memory_limit_kills_and_says_so() {
    let store = Store::new();
    let helpers = store.start();
    let limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
    let output = run(&helpers, &SandboxSpec { limits, ..probe("memory") });
    match helpers.launcher.limits().memory {
        Enforcement::ControlGroup => {
            assert_eq!(output.exit.status, ExitStatus::Signaled(9));
            assert!(output.exit.out_of_memory);
        }
        // An allocation fails instead, and Rust aborts.
        _ => assert_eq!(output.exit.status, ExitStatus::Signaled(6)),
    }
    let roomy = Limits { memory_bytes: Some(512 << 20), ..Limits::default() };
    let output = run(&helpers, &SandboxSpec { limits: roomy, ..script("true") });
    assert_eq!((output.exit.status, output.exit.out_of_memory), (ExitStatus::Exited(0), false));
}

fn a_process_limit_bounds_a_fork_bomb() {
    let store = Store::new();
    let helpers = store.start();
    let limits = Limits { pids: Some(20), ..Limits::default() };
    let started: u64 = run(&helpers, &SandboxSpec { limits, ..probe("processes") }).success().trim().parse().unwrap();
    assert_eq!(started, 19, "the command itself is the twentieth");
    assert_eq!(run(&helpers, &spec(&["true"])).exit.status, ExitStatus::Exited(0));
}

fn a_processor_limit_slows_down() {
    let store = Store::new();
    let helpers = store.start();
    if helpers.launcher.limits().cpus != Enforcement::ControlGroup {
        return;
    }
    let limits = Limits { cpus: Some(0.1), ..Limits::default() };
    let (sandbox, _, _) = start(&helpers, &SandboxSpec { limits, ..script("while :; do :; done") }).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let group = groups().into_iter().find(|group| group.join("cpu.stat").exists());
    let used = fs_err::read_to_string(format!("/proc/{}/task/{}/children", sandbox.pid(), sandbox.pid()));
    let child = used.unwrap_or_default().trim().to_owned();
    let stat = fs_err::read_to_string(format!("/proc/{child}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    assert!(ticks < 60, "used {ticks} hundredths of a second of 150, in {group:?}");
}

fn nothing_is_left_in_the_control_group_tree() {
    let store = Store::new();
    let helpers = store.start();
    let limits = Limits { memory_bytes: Some(256 << 20), pids: Some(50), cpus: Some(1.0), ..Limits::default() };
    for _ in 0..3 {
        run(&helpers, &SandboxSpec { limits, ..script("true") });
    }
    let killed = start(&helpers, &SandboxSpec { limits, ..spec(&["sleep", "60"]) }).unwrap();
    if helpers.launcher.limits().pids == Enforcement::ControlGroup {
        assert!(!groups().is_empty());
    }
    drop(killed);
    drop(helpers);
    assert_eq!(groups(), Vec::<PathBuf>::new());
}

fn groups_of_dead_engines_are_swept() {
    let store = Store::new();
    let limits = Limits { pids: Some(50), ..Limits::default() };
    let helpers = store.start();
    if helpers.launcher.limits().pids != Enforcement::ControlGroup {
        return;
    }
    // What a killed engine leaves: its directory with a group in it.
    let (sandbox, _, _) = start(&helpers, &SandboxSpec { limits, ..spec(&["sleep", "60"]) }).unwrap();
    let own = groups().remove(0);
    let dead = own.with_file_name("lamina-4194303-1");
    fs_err::create_dir_all(dead.join("0")).unwrap();
    drop(sandbox);
    drop(helpers);
    let helpers = store.start();
    run(&helpers, &SandboxSpec { limits, ..spec(&["true"]) });
    eventually("the dead engine's groups are gone", || !dead.exists());
}

fn closing_leaves_nothing_whoever_still_holds_a_sandbox() {
    let store = Store::new();
    let helpers = store.start();
    let limits = Limits { memory_bytes: Some(256 << 20), pids: Some(50), ..Limits::default() };
    let (held, _, _) = start(&helpers, &SandboxSpec { limits, ..spec(&["sleep", "60"]) }).unwrap();
    helpers.launcher.close();
    assert_eq!(groups(), Vec::<PathBuf>::new());
    assert_eq!(held.wait().unwrap().status, ExitStatus::Signaled(9));
    assert!(helpers.launcher.spawn(&spec(&["true"]), null_stdio()).is_err());
    drop((held, helpers));
    assert_eq!(groups(), Vec::<PathBuf>::new());
}

fn descriptors_under_way_stop_nobody_else() {
    let store = Store::new();
    let helpers = store.start();
    let (sandbox, stdout, stderr) = start(&helpers, &probe("fill-sockets")).unwrap();
    let said = |file: &std::fs::File| text(file.try_clone().unwrap());
    eventually("the kernel refuses more", || said(&stdout).contains("full") || said(&stderr).contains("panicked"));
    assert_eq!(said(&stdout), "full\n", "{}", said(&stderr));
    // The launcher of this store, and that of another one with the same ids, which has begun with less.
    let terminal = Some(TerminalSpec { size: TerminalSize { rows: 20, columns: 80 }, is_stdio: false });
    for _ in 0..3 {
        run(&helpers, &SandboxSpec { terminal, ..spec(&["true"]) }).success();
    }
    let other = Store::with_map(store.map.clone());
    run(&other.start(), &spec(&["true"])).success();
    assert_eq!(sandbox.wait_timeout(Duration::ZERO).unwrap(), None);
}

fn commands_get_less_than_the_user_has() {
    let store = Store::new();
    let helpers = store.start();
    let inside = run(&helpers, &spec(&["cat", "/proc/self/limits"])).success();
    let outside = fs_err::read_to_string("/proc/self/limits").unwrap();
    let hard = |limits: &str, name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        line.split_whitespace().rev().nth(1).unwrap().parse().unwrap_or(u64::MAX)
    };
    for name in ["Max open files", "Max pending signals", "Max msgqueue size", "Max locked memory"] {
        let (inside, outside) = (hard(&inside, name), hard(&outside, name));
        assert!(inside > 0 && inside <= outside / 2, "{name}: {inside} of {outside}");
    }
}

fn all_ids_together_leave_watches_to_the_user() {
    let store = Store::new();
    let helpers = store.start();
    let number = |text: String| text.trim().parse::<u64>().unwrap();
    let users = number(fs_err::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap());
    let made = number(run(&helpers, &probe("watch")).success());
    assert_eq!(made, users / 2);
}

/// Directories of this process in the control group tree.
pub(crate) fn groups() -> Vec<PathBuf> {
    let prefix = format!("lamina-{}-", std::process::id());
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = pending.pop() {
        for entry in fs_err::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
            }
        }
    }
    found
}
