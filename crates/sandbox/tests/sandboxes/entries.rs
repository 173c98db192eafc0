//! Further commands in sandboxes that run.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use lamina_sandbox::{
    Entered, Entry, ExitStatus, Helpers, Network, Sandbox, SandboxError, SandboxSpec, Signal, Stdio, TerminalSize,
};

use crate::support::{Store, eventually, null_stdio, probe, script, start};

crate::tests!(
    further_commands_share_the_sandbox,
    further_commands_are_as_bounded_as_the_first,
    further_commands_look_into_the_first_which_does_not_into_them,
    further_commands_reach_no_sockets_outside,
    further_commands_have_terminals_of_their_own,
    signals_and_failures_of_further_commands_are_told,
    further_commands_end_with_who_asked_and_with_the_sandbox,
);

/// Prints which namespaces a command is in.
const NAMESPACES: &str = "for space in pid mnt uts ipc net user; do ls -l /proc/self/ns/$space; done | while read line; do echo ${line##* }; done";

/// A sandbox that writes down its namespaces, and waits.
fn waiting(helpers: &Helpers, spec: SandboxSpec) -> Sandbox {
    let spec = SandboxSpec { argv: script(&format!("{NAMESPACES} > /started; sleep 1000")).argv, ..spec };
    helpers.launcher.spawn(&spec, null_stdio()).unwrap()
}

fn entry(text: &str) -> Entry {
    Entry { argv: script(text).argv, ..Entry::default() }
}

/// Runs a further command to its end; gives what it printed.
fn ask(sandbox: &Sandbox, entry: &Entry) -> (ExitStatus, String) {
    let mut output = tempfile::tempfile().unwrap();
    let copy = || output.try_clone().unwrap().into();
    let stdio = Stdio { stdout: copy(), stderr: copy(), ..null_stdio() };
    let status = sandbox.enter(entry, &stdio).unwrap().wait().unwrap();
    let mut text = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut text).unwrap();
    (status, text)
}

fn further_commands_share_the_sandbox() {
    let store = Store::new();
    let helpers = store.start();
    for network in [Network::Host, Network::Isolated] {
        let env = vec![("PATH".to_owned(), "/bin".to_owned()), ("A".to_owned(), "1".to_owned())];
        let spec = SandboxSpec { env, cwd: "/tmp".to_owned(), user: Some("7:8".to_owned()), network, ..script("") };
        let spec = SandboxSpec { hostname: "inside".to_owned(), ..spec };
        // Its files are root's, as it is itself no longer.
        let sandbox = SandboxSpec { user: None, ..spec.clone() };
        let root = waiting(&helpers, sandbox);
        eventually("it runs", || ask(&root, &entry("cat /started")).1.lines().count() == 6);
        assert_eq!(ask(&root, &entry("cat /started")), ask(&root, &entry(NAMESPACES)), "{network:?}");
        drop(root);
        let other = waiting(&helpers, spec);
        let more = Entry {
            variables: vec![("B".to_owned(), "2".to_owned())],
            ..entry("echo $A$B $PWD; id -u; id -g; exit 7")
        };
        assert_eq!(ask(&other, &more), (ExitStatus::Exited(7), "12 /tmp\n7\n8\n".to_owned()));
        // Each sees the other one.
        eventually("it sleeps", || ask(&other, &entry("cat /proc/[0-9]*/comm")).1.contains("sleep"));
    }
}

fn further_commands_are_as_bounded_as_the_first() {
    let store = Store::new();
    let helpers = store.start();
    for name in ["system-calls", "descriptors"] {
        let (first, mut stdout, _) = start(&helpers, &probe(name)).unwrap();
        first.wait().unwrap();
        let mut expected = String::new();
        stdout.rewind().unwrap();
        stdout.read_to_string(&mut expected).unwrap();
        let sandbox = waiting(&helpers, probe(name));
        let further = Entry { argv: probe(name).argv, ..Entry::default() };
        assert_eq!(ask(&sandbox, &further).1, expected, "{name}");
    }
    let sandbox = waiting(&helpers, script(""));
    let status = |path: &str| {
        let text = format!(
            "while read name value; do case $name in Cap*|Seccomp:|NoNewPrivs:) echo $name $value;; esac; done < {path}"
        );
        ask(&sandbox, &entry(&text)).1
    };
    // The first command, not pid 1, which is ours.
    assert_eq!(status("/proc/2/status"), status("/proc/self/status"));
    assert!(status("/proc/self/status").contains("Seccomp: 2"));
    let groups = |path: &str| ask(&sandbox, &entry(&format!("cat {path}"))).1;
    assert_eq!(groups("/proc/2/cgroup"), groups("/proc/self/cgroup"));
}

fn further_commands_look_into_the_first_which_does_not_into_them() {
    let store = Store::new();
    let helpers = store.start();
    let look = Entry { argv: probe("look-into").argv, ..Entry::default() };
    let (own, first) = ("1 closed closed closed closed closed\n", "2 open open open open open\n");
    let isolated = waiting(&helpers, SandboxSpec { network: Network::Isolated, ..probe("look-into") });
    assert!(ask(&isolated, &look).1.starts_with(&[own, first].concat()));
    // Only Landlock keeps processes apart that have one user.
    if !lamina_system::landlock_version().is_ok_and(|version| version >= 6) {
        return;
    }
    let (sandbox, mut stdout, _) = start(&helpers, &probe("look-for-long")).unwrap();
    assert_eq!(ask(&sandbox, &look), (ExitStatus::Exited(0), [own, first].concat()));
    let further = sandbox.enter(&entry("sleep 1000"), &null_stdio()).unwrap();
    assert!(ask(&sandbox, &look).1.lines().filter(|line| line.ends_with("open")).count() > 1);
    // It has looked all the time, and looks now.
    assert!(sandbox.wait_timeout(std::time::Duration::from_millis(200)).unwrap().is_none());
    drop(further);
    let mut found = String::new();
    stdout.rewind().unwrap();
    stdout.read_to_string(&mut found).unwrap();
    assert_eq!(found, "");
}

fn further_commands_reach_no_sockets_outside() {
    if !lamina_system::landlock_version().is_ok_and(|version| version >= 6) {
        return;
    }
    let store = Store::new();
    let helpers = store.start();
    let name = format!("further-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let sandbox = waiting(&helpers, probe("look-into"));
    let connect = |name: &str| {
        let argv = [probe("abstract-connect").argv, vec![name.to_owned()]].concat();
        ask(&sandbox, &Entry { argv, ..Entry::default() }).1
    };
    assert_eq!(connect(&name), "permission denied\n");
}

fn further_commands_have_terminals_of_their_own() {
    let store = Store::new();
    let helpers = store.start();
    let sandbox = waiting(&helpers, script(""));
    let size = TerminalSize { rows: 33, columns: 101 };
    let text = "tty; read line; echo \"got $line\"; trap 'echo interrupted; exit 3' INT; echo waiting; while :; do sleep 0.05; done";
    let mut further: Vec<(Entered, File)> = (0..2)
        .map(|_| {
            let entry = Entry { terminal: Some(size), ..entry(text) };
            let mut entered = sandbox.enter(&entry, &null_stdio()).unwrap();
            let terminal = File::from(entered.terminal().unwrap().try_clone_to_owned().unwrap());
            entered.close_terminal();
            (entered, terminal)
        })
        .collect();
    for (number, (_, terminal)) in further.iter_mut().enumerate() {
        let size = rustix::termios::tcgetwinsize(terminal.as_fd()).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (33, 101));
        terminal.write_all(b"a line\n").unwrap();
        let (mut shown, mut buffer) = (String::new(), [0; 256]);
        eventually("the command waits", || {
            let count = terminal.read(&mut buffer).unwrap();
            shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
            shown.contains("waiting")
        });
        assert!(shown.contains(&format!("/dev/pts/{number}")) && shown.contains("got a line"), "{shown}");
    }
    let (interrupted, mut terminal) = further.remove(0);
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(interrupted.wait().unwrap(), ExitStatus::Exited(3));
    // One whose terminal is hung up.
    let (hung_up, terminal) = further.remove(0);
    drop(terminal);
    assert_eq!(hung_up.wait().unwrap(), ExitStatus::Signaled(1));
}

fn signals_and_failures_of_further_commands_are_told() {
    let store = Store::new();
    let helpers = store.start();
    let sandbox = waiting(&helpers, script(""));
    let (output, stdout) = std::io::pipe().unwrap();
    let mut output = File::from(std::os::fd::OwnedFd::from(output));
    let stdio = Stdio { stdout: stdout.into(), ..null_stdio() };
    let text = "trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done";
    let trapping = sandbox.enter(&entry(text), &stdio).unwrap();
    drop(stdio);
    output.read_exact(&mut [0; 6]).unwrap();
    trapping.signal(Signal::User1);
    assert_eq!(trapping.wait().unwrap(), ExitStatus::Exited(5));
    let sleep = Entry { argv: ["sleep", "1000"].map(str::to_owned).to_vec(), ..Entry::default() };
    let sleeping = sandbox.enter(&sleep, &null_stdio()).unwrap();
    sleeping.signal(Signal::Interrupt);
    assert_eq!(sleeping.wait().unwrap(), ExitStatus::Signaled(2));
    let missing = Entry { argv: vec!["nonsense".to_owned()], ..Entry::default() };
    let error = sandbox.enter(&missing, &null_stdio()).unwrap_err();
    assert!(matches!(&error, SandboxError::CommandNotFound { command, .. } if command == "nonsense"), "{error}");
    // None of it has ended the sandbox.
    assert_eq!(ask(&sandbox, &entry("echo still")).1, "still\n");
}

fn further_commands_end_with_who_asked_and_with_the_sandbox() {
    let store = Store::new();
    let helpers = store.start();
    let sandbox = waiting(&helpers, script(""));
    let sleeps =
        |seconds: &str| ask(&sandbox, &entry("cat /proc/[0-9]*/cmdline")).1.contains(&format!("sleep\0{seconds}"));
    let given_up = sandbox.enter(&entry("sleep 4711 & sleep 4711"), &null_stdio()).unwrap();
    eventually("it runs", || sleeps("4711"));
    drop(given_up);
    eventually("it was ended", || !sleeps("4711"));
    let last = sandbox.enter(&entry("sleep 1000"), &null_stdio()).unwrap();
    sandbox.kill();
    assert_eq!(last.wait().unwrap(), ExitStatus::Signaled(9));
    sandbox.wait().unwrap();
    assert!(sandbox.enter(&entry("true"), &null_stdio()).is_err());
}
