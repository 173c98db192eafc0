//! What a command gets, and how its end is told.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lamina_ground::{EnvVars, Stack};
use lamina_sandbox::{
    ExitStatus, InjectedFile, Mount, MountedFile, SandboxError, SandboxSpec, Signal, Stdio, TerminalSize, TerminalSpec,
    Upper,
};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::FdFlags;

use crate::support::{Store, eventually, null_stdio, probe, run, script, spec, start, text, try_run};

crate::tests!(
    exit_codes_and_signals_are_told,
    commands_that_cannot_start_are_errors,
    nothing_of_the_image_runs_before_it_is_agreed_to,
    descriptors_are_exactly_the_given_ones,
    environment_directory_and_host_name_are_the_given_ones,
    forked_helpers_keep_nothing_of_the_program,
    signals_reach_the_process_group,
    signals_are_not_inherited_as_ignored,
    waiting_has_a_limit,
    changes_go_to_the_upper_and_missing_mount_points_are_told,
    an_upper_can_be_used_again,
    an_image_without_layers_starts_empty,
    injected_files_are_read_only,
    files_in_memory_have_places_owners_and_modes,
    the_streams_can_be_opened_by_name,
    set_user_id_programs_work,
    caches_are_not_written_through,
    binds_and_memory_are_mounted,
    terminals_work,
    terminals_can_stand_beside_the_streams,
    many_sandboxes_at_once,
    older_kernels_ways_work,
);

fn exit_codes_and_signals_are_told() {
    let store = Store::new();
    let helpers = store.start();
    for code in [0, 1, 77, 255] {
        let output = run(&helpers, &script(&format!("exit {code}")));
        assert_eq!(output.exit.status, ExitStatus::Exited(code));
        assert!(!output.exit.out_of_memory);
        assert!(output.exit.max_rss_bytes > 0);
    }
    assert_eq!(run(&helpers, &script("kill -9 $$")).exit.status, ExitStatus::Signaled(9));
    assert_eq!(run(&helpers, &script("kill -TERM $$")).exit.status, ExitStatus::Signaled(15));
}

fn nothing_of_the_image_runs_before_it_is_agreed_to() {
    let store = Store::new();
    let helpers = store.start();
    let run = |name: &str, agreed: bool| {
        let upper = store.upper(name);
        let spec = SandboxSpec { upper, ..script("echo it ran > /ran") };
        let ran = store.content().join(format!("work/{name}/upper/ran"));
        let sandbox = helpers.launcher.spawn_alone(&spec, null_stdio(), || {
            // Long enough for a command that does not wait.
            std::thread::sleep(Duration::from_millis(200));
            assert!(!ran.exists());
            agreed
        });
        let exit = sandbox.unwrap().map(|sandbox| sandbox.wait().unwrap().status);
        (exit, ran.exists())
    };
    assert_eq!(run("refused", false), (None, false));
    assert_eq!(run("agreed", true), (Some(ExitStatus::Exited(0)), true));
}

fn commands_that_cannot_start_are_errors() {
    let store = Store::new();
    fs_err::write(store.path("copies/base/data").join("notes"), "text").unwrap();
    fs_err::write(store.path("copies/base/bin").join("orphan"), "#!/no/interpreter\n").unwrap();
    fs_err::set_permissions(
        store.content().join("copies/base/bin/orphan"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    store.own();
    let helpers = store.start();
    let error = |spec: &SandboxSpec| try_run(&helpers, spec).unwrap_err();
    let missing = error(&spec(&["nonesuch"]));
    assert!(
        matches!(&missing, SandboxError::CommandNotFound { command, path } if command == "nonesuch" && path == "/bin")
    );
    assert!(missing.to_string().contains("`nonesuch`"));
    assert!(matches!(error(&spec(&["/bin/nonesuch"])), SandboxError::CommandNotFound { .. }));
    assert!(
        matches!(error(&spec(&["/data/notes"])), SandboxError::NotExecutable { command, .. } if command == "/data/notes")
    );
    assert!(
        matches!(error(&spec(&["orphan"])), SandboxError::NotExecutable { command, .. } if command == "/bin/orphan")
    );
    let within = |cwd: &str| SandboxSpec { cwd: cwd.into(), ..spec(&["true"]) };
    let cwd = error(&within("/data/notes"));
    assert!(matches!(cwd, SandboxError::WorkingDirectory { path, .. } if path == "/data/notes"));
    assert_eq!(run(&helpers, &within("/no/such")).exit.status, ExitStatus::Exited(0));
    let layer = SandboxSpec { layers: Stack::from_bottom_up(["copies/none".into()]), ..spec(&["true"]) };
    assert!(error(&layer).to_string().contains("copies/none"));
    assert!(matches!(error(&spec(&[])), SandboxError::Setup { .. }));
    // The launcher survives all of this.
    assert_eq!(run(&helpers, &spec(&["true"])).exit.status, ExitStatus::Exited(0));
}

fn descriptors_are_exactly_the_given_ones() {
    let store = Store::new();
    let helpers = store.start();
    assert_eq!(run(&helpers, &probe("descriptors")).success(), "[0, 1, 2]\n");

    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let spec = SandboxSpec { socket_as_fd3: true, ..script("echo hello >&3; /bin/probe __probe descriptors >&3") };
    let mut stdio = null_stdio();
    stdio.socket = Some(theirs.into());
    let sandbox = helpers.launcher.spawn(&spec, stdio).unwrap();
    let mut said = String::new();
    ours.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello\n[0, 1, 2, 3]\n");
    assert_eq!(sandbox.wait().unwrap().status, ExitStatus::Exited(0));
}

fn environment_directory_and_host_name_are_the_given_ones() {
    let store = Store::new();
    let helpers = store.start();
    let mut spec = script("echo $GREETING; pwd; cat /proc/sys/kernel/hostname; echo $$; id -u; id -g; id -G");
    spec.env.push(("GREETING".into(), "hello world".into()));
    spec.cwd = "/root".into();
    spec.hostname = "box".into();
    assert_eq!(run(&helpers, &spec).success(), "hello world\n/root\nbox\n2\n0\n0\n0\n");
    let environment = SandboxSpec { argv: vec!["cat".into(), "/proc/self/environ".into()], ..spec.clone() };
    assert_eq!(run(&helpers, &environment).success(), "PATH=/bin\0GREETING=hello world\0");
    if !store.map.is_single() {
        spec.user = Some("1000:1001".to_owned());
        spec.argv[2] = "id -u; id -g; id -G".into();
        assert_eq!(run(&helpers, &spec).success(), "1000\n1001\n1001\n");
    }
}

fn forked_helpers_keep_nothing_of_the_program() {
    let store = Store::new();
    let (mut read, write) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&write, FdFlags::empty()).unwrap();
    lamina_sandbox::fork_ahead();
    let children = || fs_err::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap();
    let forked = children();
    let helpers = store.start();
    assert_eq!((forked.split_whitespace().count(), children()), (1, forked.clone()), "there is no further one");
    drop(write);
    let hung_up =
        rustix::event::poll(&mut [PollFd::new(&read, PollFlags::IN)], Some(&Timespec { tv_sec: 10, tv_nsec: 0 }));
    assert_eq!((hung_up, read.read(&mut [0]).unwrap()), (Ok(1), 0));
    let process = format!("/proc/{}", forked.trim());
    let environment = fs_err::read_to_string(format!("{process}/environ")).unwrap();
    assert!(environment.split('\0').all(|variable| !variable.starts_with("PATH=")), "{environment:?}");
    assert!(fs_err::read(format!("{process}/cmdline")).unwrap().starts_with(b"modal\0__helpers\0inside\0"));
    assert_eq!(run(&helpers, &script("echo works")).success(), "works\n");
    drop(helpers);
    assert_eq!(children(), "");
}

fn signals_reach_the_process_group() {
    let store = Store::new();
    let helpers = store.start();
    let spec = script("trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    let (sandbox, stdout, _) = start(&helpers, &spec).unwrap();
    eventually("the trap is set", || text(stdout.try_clone().unwrap()).contains("ready"));
    sandbox.signal(Signal::Terminate);
    assert_eq!(sandbox.wait().unwrap().status, ExitStatus::Exited(5));
    assert_eq!(text(stdout), "ready\ncaught\n");
}

fn signals_are_not_inherited_as_ignored() {
    let store = Store::new();
    let helpers = store.start();
    let output = run(&helpers, &spec(&["cat", "/proc/self/status"])).success();
    let field = |name: &str| output.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("SigIgn:"), "0000000000000000");
    assert_eq!(field("SigBlk:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "0");
    assert_eq!(field("Seccomp:"), "2");
    let capabilities = u64::from_str_radix(&field("CapBnd:"), 16).unwrap();
    let system_administrator = 1 << 21;
    assert_eq!(capabilities & system_administrator, 0);
    assert_eq!(field("CapEff:"), field("CapBnd:"));
}

fn waiting_has_a_limit() {
    let store = Store::new();
    let helpers = store.start();
    let (sandbox, _, _) = start(&helpers, &spec(&["sleep", "60"])).unwrap();
    assert_eq!(sandbox.wait_timeout(Duration::from_millis(50)).unwrap(), None);
    sandbox.kill();
    assert_eq!(sandbox.wait().unwrap().status, ExitStatus::Signaled(9));
    assert_eq!(sandbox.wait_timeout(Duration::ZERO).unwrap().unwrap().status, ExitStatus::Signaled(9));
}

fn changes_go_to_the_upper_and_missing_mount_points_are_told() {
    let store = Store::new();
    fs_err::remove_dir(store.content().join("copies/base/proc")).unwrap();
    fs_err::remove_dir(store.content().join("copies/base/tmp")).unwrap();
    let helpers = store.start();
    let spec = SandboxSpec {
        upper: store.upper("one"),
        resolv_conf: Some(b"nameserver 192.0.2.1\n".to_vec()),
        hosts: Some(b"192.0.2.2 injected\n".to_vec()),
        mounts: vec![Mount::Tmpfs { target: "/var/cache/deep".into(), mode: 0o700, limit_bytes: 1 << 20 }],
        ..script(
            "cat /etc/resolv.conf /etc/hosts; echo new > /root/file; rm /etc/passwd; stat -c %a /tmp; \
             echo 192.0.2.3 added >> /etc/hosts; echo nameserver 192.0.2.4 > /etc/resolv.conf; cat /etc/resolv.conf /etc/hosts; \
             rm /etc/hosts 2> /dev/null || echo busy",
        )
    };
    let output = run(&helpers, &spec);
    let hosts = "192.0.2.2 injected\n127.0.1.1\tlamina\n";
    let changed = format!("nameserver 192.0.2.4\n{hosts}192.0.2.3 added\nbusy\n");
    assert_eq!(output.stdout, format!("nameserver 192.0.2.1\n{hosts}1777\n{changed}"));
    let expected = ["/proc", "/tmp", "/etc/resolv.conf", "/var", "/var/cache", "/var/cache/deep"];
    assert_eq!(output.exit.created_mountpoints, expected);
    let upper = store.content().join("work/one/upper");
    assert_eq!(fs_err::read_to_string(upper.join("root/file")).unwrap(), "new\n");
    assert!(fs_err::symlink_metadata(upper.join("etc/passwd")).is_ok(), "a whiteout stands for the removed file");
    assert_eq!(fs_err::read(upper.join("etc/resolv.conf")).unwrap(), b"");
    assert!(!upper.join("etc/hosts").exists(), "binding over a file does not copy it up");
    assert!(store.content().join("copies/base/etc/passwd").exists());
}

fn an_upper_can_be_used_again() {
    let store = Store::new();
    let helpers = store.start();
    let upper = store.upper("again");
    run(&helpers, &SandboxSpec { upper: upper.clone(), ..script("echo one > /root/file") }).success();
    let second = SandboxSpec { upper, ..script("cat /root/file") };
    assert_eq!(run(&helpers, &second).success(), "one\n");
}

fn an_image_without_layers_starts_empty() {
    let store = Store::new();
    let helpers = store.start();
    let error = try_run(&helpers, &SandboxSpec { layers: Stack::new(), ..spec(&["/bin/sh"]) }).unwrap_err();
    assert!(matches!(error, SandboxError::CommandNotFound { .. }), "{error}");
    // The bare upper is the whole image: this is how a base is made.
    let upper = store.upper("bare");
    fs_err::remove_dir(store.content().join("work/bare/upper")).unwrap();
    fs_err::rename(store.content().join("copies/base"), store.content().join("work/bare/upper")).unwrap();
    let spec = SandboxSpec { layers: Stack::new(), upper, ..script("echo fine") };
    assert_eq!(run(&helpers, &spec).success(), "fine\n");
}

fn injected_files_are_read_only() {
    let store = Store::new();
    let helpers = store.start();
    let mut spec = script(
        "cat /dev/lamina/key; stat -c %a /dev/lamina/key; (echo x > /dev/lamina/key) 2>/dev/null || echo refused; (echo x > /dev/lamina/new) 2>/dev/null || echo refused",
    );
    spec.files.push(InjectedFile { name: "key".into(), contents: b"secret\n".to_vec(), mode: 0o400 });
    spec.files.push(InjectedFile { name: "large".into(), contents: vec![7; 3 << 20], mode: 0o400 });
    assert_eq!(run(&helpers, &spec).success(), "secret\n400\nrefused\nrefused\n");
    spec.files[0].name = "../key".into();
    assert!(try_run(&helpers, &spec).is_err());
}

fn files_in_memory_have_places_owners_and_modes() {
    let store = Store::new();
    let helpers = store.start();
    let (uid, gid) = if store.map.is_single() { (0, 0) } else { (7, 8) };
    let mut spec = script(
        "mkdir -p /new; cat /link/key; stat -c '%F %a %u %g' /real/key; (echo x > /real/key) 2>/dev/null || echo refused; ls /dev/lamina 2>/dev/null || echo hidden",
    );
    let upper = store.upper("mounted");
    run(&helpers, &SandboxSpec { upper: upper.clone(), ..script("mkdir /real; ln -s real /link") }).success();
    spec.upper = upper;
    let file = |target: &str, uid| MountedFile {
        target: target.into(),
        contents: b"secret\n".to_vec(),
        mode: 0o440,
        uid,
        gid,
    };
    spec.mounts.push(Mount::File(file("/link/key", uid)));
    assert_eq!(run(&helpers, &spec).success(), format!("secret\nregular file 440 {uid} {gid}\nrefused\nhidden\n"));
    for (target, uid, why) in [("/real", uid, "Is a directory"), ("/x", 4_000_000_000, "Invalid argument")] {
        spec.mounts = vec![Mount::File(file(target, uid))];
        let error = try_run(&helpers, &spec).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(target) && !error.contains("secret"), "{error}");
    }
}

fn the_streams_can_be_opened_by_name() {
    let store = Store::new();
    let helpers = store.start();
    let other = (!store.map.is_single()).then(|| Some("1000:1000".to_owned()));
    for user in std::iter::once(None).chain(other) {
        let spec = SandboxSpec {
            user: user.clone(),
            ..script(
                "echo one > /dev/stdout; echo two >> /dev/stderr; cat /dev/stdin; cat < /dev/null > /proc/self/fd/1",
            )
        };
        let (stdout, stdout_writer) = std::io::pipe().unwrap();
        let (stderr, stderr_writer) = std::io::pipe().unwrap();
        let (stdin_reader, mut stdin) = std::io::pipe().unwrap();
        stdin.write_all(b"three\n").unwrap();
        drop(stdin);
        let (stdin, stdout_writer, stderr_writer) = (stdin_reader.into(), stdout_writer.into(), stderr_writer.into());
        let stdio = Stdio { stdin, stdout: stdout_writer, stderr: stderr_writer, socket: None };
        let sandbox = helpers.launcher.spawn(&spec, stdio).unwrap();
        assert_eq!(sandbox.wait().unwrap().status, ExitStatus::Exited(0), "{user:?}");
        assert_eq!(std::io::read_to_string(stdout).unwrap(), "one\nthree\n");
        assert_eq!(std::io::read_to_string(stderr).unwrap(), "two\n");
    }
}

fn set_user_id_programs_work() {
    let store = Store::new();
    if store.map.is_single() {
        return;
    }
    let upper = store.upper("privileges");
    let helpers = store.start();
    let install = "cat /bin/id > /bin/rootly; chmod 4755 /bin/rootly; mkdir -m 700 /root/own";
    run(&helpers, &SandboxSpec { upper: upper.clone(), ..script(install) }).success();
    let use_it = SandboxSpec {
        upper,
        user: Some("1000:1000".to_owned()),
        ..script("id -u; rootly -u; rootly -ru; ls /root/own || echo kept out")
    };
    let output = run(&helpers, &use_it);
    assert_eq!(output.stdout, "1000\n0\n1000\nkept out\n");
    // What a program gains is what root of the sandbox has.
    let status = run(&helpers, &spec(&["cat", "/proc/self/status"])).success();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
    assert_eq!(u64::from_str_radix(bounding, 16).unwrap() & (1 << 21 | 1 << 19 | 1 << 12), 0);
}

fn caches_are_not_written_through() {
    let store = Store::new();
    fs_err::write(store.path("caches/pip").join("wheel"), "cached").unwrap();
    store.path("work/step/cache-upper");
    store.path("work/step/cache-work");
    store.own();
    let helpers = store.start();
    let mount = Mount::Cache {
        lower: "caches/pip".into(),
        upper: "work/step/cache-upper".into(),
        work: "work/step/cache-work".into(),
        target: "/root/.cache/pip".into(),
    };
    let spec = SandboxSpec {
        mounts: vec![mount],
        ..script("cd /root/.cache/pip; cat wheel; echo evil > wheel; echo new > added")
    };
    assert_eq!(run(&helpers, &spec).success(), "cached");
    assert_eq!(fs_err::read_to_string(store.content().join("caches/pip/wheel")).unwrap(), "cached");
    assert!(!store.content().join("caches/pip/added").exists());
    assert_eq!(fs_err::read_to_string(store.content().join("work/step/cache-upper/added")).unwrap(), "new\n");
}

fn binds_and_memory_are_mounted() {
    let store = Store::new();
    fs_err::write(store.path("copies/files").join("module"), "code\n").unwrap();
    store.path("caches/shared");
    store.own();
    let helpers = store.start();
    let bind =
        |source: &str, target: &str, read_only| Mount::Bind { source: source.into(), target: target.into(), read_only };
    let spec = SandboxSpec {
        mounts: vec![
            bind("copies/files", "/code", true),
            bind("copies/files/module", "/single", true),
            bind("caches/shared", "/shared", false),
            Mount::Tmpfs { target: "/memory".into(), mode: 0o1777, limit_bytes: 1 << 20 },
        ],
        ..script(
            "cat /code/module /single; (echo x > /code/module) 2>/dev/null || echo refused; echo kept > /shared/file; stat -c '%a %T' -f /memory; stat -c %a /memory",
        )
    };
    let output = run(&helpers, &spec).success();
    assert!(output.starts_with("code\ncode\nrefused\n") && output.ends_with("1777\n"), "{output}");
    assert_eq!(fs_err::read_to_string(store.content().join("caches/shared/file")).unwrap(), "kept\n");
    for escape in ["../secret", "/etc", "copies/../../x"] {
        let spec = SandboxSpec { mounts: vec![bind(escape, "/code", true)], ..spec.clone() };
        assert!(try_run(&helpers, &spec).is_err(), "{escape}");
    }
}

fn terminals_work() {
    let store = Store::new();
    let helpers = store.start();
    let spec = SandboxSpec {
        terminal: Some(TerminalSpec { size: TerminalSize { rows: 33, columns: 101 }, is_stdio: true }),
        ..script(
            "tty; tty < /dev/console; read line; echo \"got $line\"; trap 'echo interrupted; exit 3' INT; echo waiting; while :; do sleep 0.05; done",
        )
    };
    let sandbox = helpers.launcher.spawn(&spec, null_stdio()).unwrap();
    let terminal = sandbox.take_terminal().unwrap();
    assert!(sandbox.take_terminal().is_none());
    let size = rustix::termios::tcgetwinsize(&terminal).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (33, 101));
    let mut terminal = std::fs::File::from(terminal);
    terminal.write_all(b"a line\n").unwrap();
    let mut shown = String::new();
    let mut buffer = [0; 256];
    eventually("the command waits", || {
        let count = terminal.read(&mut buffer).unwrap();
        shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
        shown.contains("waiting")
    });
    assert!(shown.contains("/dev/pts/0") && shown.contains("got a line"), "{shown}");
    // Ctrl-C: the terminal is the command's controlling one.
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(sandbox.wait().unwrap().status, ExitStatus::Exited(3));
    assert!(rustix::fs::fstat(terminal.as_fd()).is_ok());
}

fn terminals_can_stand_beside_the_streams() {
    let store = Store::new();
    let helpers = store.start();
    let spec = SandboxSpec {
        terminal: Some(TerminalSpec { size: TerminalSize { rows: 33, columns: 101 }, is_stdio: false }),
        ..script("tty; (read line; echo \"got $line\") < /dev/console > /dev/tty")
    };
    let (output, stdout) = std::io::pipe().unwrap();
    let sandbox = helpers.launcher.spawn(&spec, Stdio { stdout: stdout.into(), ..null_stdio() }).unwrap();
    let mut terminal = std::fs::File::from(sandbox.take_terminal().unwrap());
    // Nobody has it open yet, which must not end it.
    terminal.write_all(b"a line\n").unwrap();
    assert_eq!(sandbox.wait().unwrap().status, ExitStatus::Exited(0));
    let mut shown = vec![0; 4096];
    let count = terminal.read(&mut shown).unwrap();
    let shown = String::from_utf8_lossy(&shown[..count]);
    assert!(shown.contains("got a line"), "{shown}");
    assert_eq!(std::io::read_to_string(output).unwrap(), "not a tty\n");
}

fn many_sandboxes_at_once() {
    let store = Store::new();
    let helpers = store.start();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let helpers = &helpers;
            scope.spawn(move || {
                for round in 0..5 {
                    let code = thread * 10 + round;
                    assert_eq!(run(helpers, &script(&format!("exit {code}"))).exit.status, ExitStatus::Exited(code));
                }
            });
        }
    });
}

fn older_kernels_ways_work() {
    crate::users::with_variable(
        EnvVars::MODAL_SANDBOX_WITHOUT,
        "lowerdir,landlock,binary-mount,cgroups",
        "older_kernels",
    );
}

/// Run by [`older_kernels_ways_work`] in a process with the features switched off.
pub(crate) fn without_features() {
    let store = Store::new();
    fs_err::write(store.path("caches/pip").join("wheel"), "cached").unwrap();
    store.path("work/step/upper");
    store.path("work/step/work");
    // Their paths together are longer than what `mount` takes.
    let layers = (0..400).map(|number| format!("copies/one-of-very-many-{number}"));
    let layers: Vec<_> = layers.chain(["copies/top".into(), "copies/base".into()]).collect();
    for layer in &layers {
        store.path(&format!("{layer}/root"));
    }
    store.own();
    let helpers = store.start();
    let upper = Upper::Memory { limit_bytes: 1 << 20 };
    let spec = SandboxSpec {
        layers: Stack::from_top_down(layers.into_iter().map(Into::into)),
        upper,
        mounts: vec![Mount::Cache {
            lower: "caches/pip".into(),
            upper: "work/step/upper".into(),
            work: "work/step/work".into(),
            target: "/cache".into(),
        }],
        limits: lamina_sandbox::Limits {
            memory_bytes: Some(1 << 30),
            pids: Some(500),
            cpus: Some(1.0),
            ..Default::default()
        },
        ..script("cat /cache/wheel; echo new > /cache/added; (echo x > /proc/1/exe) 2>/dev/null || echo refused")
    };
    assert_eq!(run(&helpers, &spec).success(), "cachedrefused\n");
    assert!(store.content().join("work/step/upper/added").exists());
    assert_eq!(helpers.launcher.limits().cpus, lamina_sandbox::Enforcement::Off);
}
