//! `modal run` around an interpreter that is a shell script: what reaches it, and what becomes of signals.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use lamina_ground::EnvVars;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A directory with a store and an interpreter of its own.
struct Fixture {
    directory: TempDir,
}

impl Fixture {
    /// The interpreter executes `script`.
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let python = directory.path().join("python");
        fs_err::write(&python, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs_err::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    fn modal(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modal"));
        command.env(EnvVars::MODAL_STORE, self.directory.path().join("store"));
        command.env(EnvVars::MODAL_PYTHON, self.directory.path().join("python"));
        command.env_remove(EnvVars::MODAL_PROGRESS).env_remove(EnvVars::MODAL_ENVIRONMENT);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Starts a run and waits until the interpreter has said `ready`.
    fn start(&self) -> (Child, BufReader<ChildStdout>) {
        let mut child = self.modal(&["run", "app.py"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        (child, output)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Its files belong to other ids where the tests do not run as root.
        let _ = self.modal(&["store", "remove", "--yes"]).stderr(Stdio::null()).status();
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn the_interpreter_gets_everything_and_its_exit_code_is_passed_on() {
    let fixture =
        Fixture::new("echo \"$@\"; echo $MODAL_ENVIRONMENT; test -S /proc/self/fd/$MODAL_ENGINE_FD && exit 3");
    let arguments = ["run", "-m", "-w", "out", "-e", "staging", "package.app::main", "--n", "5", "-m"];
    let output = fixture.modal(&arguments).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "-c import sys; from modal._cli.__main__ import start; sys.exit(start()) run package.app::main -m --write-result out -- --n 5 -m\nstaging\n"
    );
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn an_interpreter_that_a_signal_kills_counts_as_in_a_shell() {
    let output = Fixture::new("kill -9 $$").modal(&["run", "app.py"]).output().unwrap();
    assert_eq!(output.status.code(), Some(137));
}

#[test]
fn an_interruption_reaches_the_interpreter_and_decides_the_exit_code() {
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        // As `modal._cli` does: interrupts are blocked when it starts.
        let sleep = "import signal, time; signal.pthread_sigmask(signal.SIG_UNBLOCK, [2]); time.sleep(60)";
        let fixture = Fixture::new(&format!("echo ready; exec python3 -c '{sleep}'"));
        let (mut child, _output) = fixture.start();
        signal(&child, number);
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn the_second_interruption_ends_everything_at_once() {
    let fixture = Fixture::new("trap '' INT TERM; echo ready; exec sleep 60");
    let (mut child, mut output) = fixture.start();
    let started = Instant::now();
    signal(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The interpreter held the other end of this pipe.
    assert_eq!(output.read_line(&mut String::new()).unwrap(), 0);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_store_that_cannot_be_used_ends_the_run() {
    let fixture = Fixture::new("exec sleep 60");
    let store = fixture.directory.path().join("store");
    fs_err::write(&store, "not a directory").unwrap();
    let output = fixture.modal(&["run", "app.py"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.starts_with("error: ") && message.contains(store.to_str().unwrap()), "{message}");
}
