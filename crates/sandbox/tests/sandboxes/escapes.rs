//! What a command must not reach.

use std::os::linux::fs::MetadataExt;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use lamina_sandbox::{Entry, ExitStatus, Network, SandboxError, SandboxSpec, Stdio};

use crate::support::{Store, eventually, null_stdio, probe, run, script, spec, start, text};

crate::tests!(
    system_calls_are_denied,
    sockets_are_of_few_families,
    device_nodes_cannot_be_changed,
    directories_of_the_host_are_no_streams,
    the_helpers_binary_is_out_of_reach,
    root_inside_is_not_root_outside,
    mounts_do_not_leak,
    the_store_and_the_host_are_not_visible,
    masked_and_read_only_paths_hold,
    background_processes_die_with_the_command,
    sandboxes_die_with_the_launcher,
    sandboxes_die_with_the_engines_handle,
    abstract_sockets_of_the_host_are_out_of_reach,
    an_isolated_network_has_only_a_loopback_interface,
    synchronising_is_only_pretended_where_asked,
);

fn system_calls_are_denied() {
    let store = Store::new();
    let helpers = store.start();
    let answers = run(&helpers, &probe("system-calls")).success();
    assert_eq!(answers.lines().count(), 24);
    for line in answers.lines() {
        let (name, answer) = line.split_once(' ').unwrap();
        let expected = if matches!(name, "clone3" | "io_uring_setup" | "unknown-soon" | "unknown-later") {
            "ENOSYS"
        } else {
            "EPERM"
        };
        assert_eq!(answer, expected, "{name}");
    }
}

fn sockets_are_of_few_families() {
    let store = Store::new();
    let helpers = store.start();
    let answers = run(&helpers, &probe("sockets")).success();
    assert_eq!(answers.lines().count(), 14, "{answers}");
    for line in answers.lines() {
        let (name, answer) = line.split_once(' ').unwrap();
        let expected = match name.split_once('-').unwrap().0 {
            "good" => "ok".into(),
            "family" => format!("errno {}", libc::EAFNOSUPPORT),
            _ => format!("errno {}", libc::EPROTONOSUPPORT),
        };
        assert_eq!(answer, expected, "{name}");
    }
}

/// Nodes of the host are the same inodes as the host's.
fn device_nodes_cannot_be_changed() {
    use std::os::linux::fs::MetadataExt;
    let store = Store::new();
    let helpers = store.start();
    let state = || {
        ["full", "null", "random", "urandom", "zero"].map(|name| {
            let status = fs_err::metadata(format!("/dev/{name}")).unwrap();
            (status.st_mode(), status.st_uid(), status.st_gid(), status.st_mtime(), status.st_mtime_nsec())
        })
    };
    let before = state();
    let attempts = script(
        "for file in /dev/full /dev/null /dev/zero /dev/random /dev/stdin /proc/self/fd/0 /proc/kcore; do \
           touch $file && echo touched $file; chmod 600 $file && echo changed $file; done; \
         /bin/probe __probe touch-descriptors; \
         echo x > /dev/null; read -r line < /dev/null || echo fine; head -c 3 /dev/zero > /dev/null && echo read",
    );
    // The streams lead to the host's own node, opened for writing.
    let (sandbox, _, _) = start(&helpers, &attempts).unwrap();
    sandbox.wait().unwrap();
    assert_eq!(state(), before);
    assert_eq!(run(&helpers, &attempts).success(), "fine\nread\n");
    helpers.launcher.spawn(&probe("touch-descriptors"), null_stdio()).unwrap().wait().unwrap();
    assert_eq!(state(), before);
}

/// From an open directory every file of the host can be reached: `/proc/self/fd/0/..`.
fn directories_of_the_host_are_no_streams() {
    let store = Store::new();
    let helpers = store.start();
    let directory = || Stdio { stdin: fs_err::File::open("/etc").unwrap().into_file().into(), ..null_stdio() };
    let refused = |error: SandboxError| {
        assert!(error.to_string().contains("a directory as a standard stream"), "{error}");
    };
    refused(helpers.launcher.spawn(&script("true"), directory()).unwrap_err());
    let running = helpers.launcher.spawn(&spec(&["sleep", "60"]), null_stdio()).unwrap();
    let further = Entry { argv: script("true").argv, ..Entry::default() };
    refused(running.enter(&further, &directory()).unwrap_err());
}

fn the_helpers_binary_is_out_of_reach() {
    let store = Store::new();
    let helpers = store.start();
    let output = run(&helpers, &probe("executables")).success();
    for line in output.lines() {
        // Its own file is an ordinary one of the image, busy while it runs.
        let expected = line.starts_with("self read");
        assert_eq!(line.ends_with("true"), expected, "{line}");
    }
}

fn root_inside_is_not_root_outside() {
    let store = Store::new();
    let helpers = store.start();
    let upper = store.upper("ids");
    run(&helpers, &SandboxSpec { upper, ..script("id -u; echo mine > /root/file") }).success();
    let owner = fs_err::metadata(store.content().join("work/ids/upper/root/file")).unwrap().st_uid();
    assert_eq!(owner, store.map.root_uid());
    assert_ne!(owner, 0);
    let (sandbox, _, _) = start(&helpers, &spec(&["sleep", "60"])).unwrap();
    let status = fs_err::read_to_string(format!("/proc/{}/status", sandbox.pid())).unwrap();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    assert!(uids.split_whitespace().all(|uid| uid == store.map.root_uid().to_string()), "{uids}");
}

fn mounts_do_not_leak() {
    let before = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    let store = Store::new();
    let helpers = store.start();
    let (sandbox, stdout, _) = start(&helpers, &script("cat /proc/self/mountinfo; exec sleep 60")).unwrap();
    assert_eq!(fs_err::read_to_string("/proc/self/mountinfo").unwrap(), before);
    eventually("the mounts are listed", || text(stdout.try_clone().unwrap()).contains("/sys "));
    let content = store.content();
    let inside = text(stdout);
    assert!(!inside.contains("/store"), "{inside}");
    assert!(inside.lines().all(|line| !line.contains(content.to_str().unwrap())), "{inside}");
    assert!(inside.lines().next().unwrap().contains(" / / "), "the overlay is the root: {inside}");
    drop(sandbox);
    assert_eq!(fs_err::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

fn the_store_and_the_host_are_not_visible() {
    let store = Store::new();
    let helpers = store.start();
    assert_eq!(run(&helpers, &script("cd / && echo *")).success(), "bin dev etc lib lib64 proc root sbin sys tmp\n");
    let devices = run(&helpers, &script("cd /dev && echo *")).success();
    assert_eq!(devices, "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero\n");
    let processes = run(&helpers, &script("cd /proc && echo [0-9]*")).success();
    assert_eq!(processes, "1 2\n");
}

fn masked_and_read_only_paths_hold() {
    let store = Store::new();
    let helpers = store.start();
    let attempts = [
        "echo x > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "echo x > /sys/kernel/mm/ksm/run",
        "mkdir /sys/fs/cgroup/escape",
        "chmod 777 /sys/kernel",
        "test -s /proc/kcore",
        "ls -A /sys/firmware | grep .",
        "test -n \"$(ls -A /sys/firmware)\"",
        "mkdir /proc/x",
        "cat /proc/keys | grep .",
    ];
    for attempt in attempts {
        let output = run(&helpers, &script(&format!("{attempt} 2>/dev/null")));
        assert_ne!(output.exit.status, ExitStatus::Exited(0), "{attempt}");
    }
    // What programs do look at is there.
    run(&helpers, &script("cat /sys/devices/system/cpu/online /proc/cpuinfo /proc/meminfo > /dev/null")).success();
}

fn background_processes_die_with_the_command() {
    let store = Store::new();
    let helpers = store.start();
    let upper = store.upper("background");
    // A process in a session of its own that holds the output open and would write later.
    let spec = SandboxSpec { upper, ..script("(trap '' HUP TERM; sleep 1; echo late > /root/late) & exit 4") };
    let output = run(&helpers, &spec);
    assert_eq!(output.exit.status, ExitStatus::Exited(4));
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert!(!store.content().join("work/background/upper/root/late").exists());
}

fn sandboxes_die_with_the_launcher() {
    let store = Store::new();
    let helpers = store.start();
    let (sandbox, _, _) = start(&helpers, &spec(&["sleep", "60"])).unwrap();
    let status = fs_err::read_to_string(format!("/proc/{}/status", sandbox.pid())).unwrap();
    let launcher = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    let launcher = rustix::process::Pid::from_raw(launcher).unwrap();
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).unwrap();
    assert_eq!(sandbox.wait().unwrap().status, ExitStatus::Signaled(9));
    assert!(helpers.launcher.spawn(&spec(&["true"]), null_stdio()).is_err());
}

fn sandboxes_die_with_the_engines_handle() {
    let store = Store::new();
    let helpers = store.start();
    let (sandbox, _, _) = start(&helpers, &spec(&["sleep", "60"])).unwrap();
    let process = format!("/proc/{}", sandbox.pid());
    assert!(std::path::Path::new(&process).exists());
    drop(sandbox);
    eventually("pid 1 is gone", || !std::path::Path::new(&process).exists());
}

fn abstract_sockets_of_the_host_are_out_of_reach() {
    let store = Store::new();
    let helpers = store.start();
    let name = format!("lamina-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut spec = probe("abstract-connect");
    spec.argv.push(name);
    assert_eq!(run(&helpers, &spec).success(), "permission denied\n");
    assert_eq!(run(&helpers, &probe("abstract-own")).success(), "hello\n");
    spec.network = Network::Isolated;
    assert_eq!(run(&helpers, &spec).success(), "connection refused\n");
}

fn an_isolated_network_has_only_a_loopback_interface() {
    let store = Store::new();
    let helpers = store.start();
    let isolated = SandboxSpec { network: Network::Isolated, ..script("cat /proc/net/dev; echo /sys/class/net/*") };
    let output = run(&helpers, &isolated).success();
    assert_eq!(output.lines().count(), 4, "{output}");
    assert!(output.lines().nth(2).unwrap().trim().starts_with("lo:"), "{output}");
    // Without a new `/sys`, none are shown.
    assert!(output.ends_with("\n/sys/class/net/lo\n") || output.ends_with("\n/sys/class/net/*\n"), "{output}");
    let hidden = script("ls /sys/firmware /sys/fs/cgroup /sys/devices/virtual/powercap; touch /sys/x && echo written");
    let output = run(&helpers, &SandboxSpec { network: Network::Isolated, ..hidden });
    assert!(!output.stdout.lines().any(|line| !line.is_empty() && !line.ends_with(':')), "{output:?}");
}

fn synchronising_is_only_pretended_where_asked() {
    let store = Store::new();
    let helpers = store.start();
    let pretended = SandboxSpec { ignore_sync: true, ..probe("sync") };
    assert_eq!(run(&helpers, &pretended).success(), "fsync ok\nfdatasync ok\nsyncfs ok\n");
    let real = run(&helpers, &probe("sync")).success();
    assert_eq!(real, "fsync errno 9\nfdatasync errno 9\nsyncfs errno 9\n");
}
