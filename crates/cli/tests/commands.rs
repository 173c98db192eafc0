//! The `modal` binary as its users meet it, as far as no image is needed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use lamina_ground::EnvVars;

/// The binary with a store of its own, free of the settings of whoever runs the tests.
fn modal(store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modal"));
    command.env(EnvVars::MODAL_STORE, store).stdin(Stdio::null());
    for name in [EnvVars::MODAL_PROGRESS, EnvVars::MODAL_PYTHON, EnvVars::MODAL_ENGINE_FD, "VIRTUAL_ENV"] {
        command.env_remove(name);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Exit code, standard output and standard error in one text, with the store's path replaced.
fn outcome(output: &Output, store: &Path) -> String {
    format!(
        "exit code: {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr)
    )
    .replace(store.to_str().unwrap(), "[STORE]")
}

fn run(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let output = modal(&store).args(arguments).output().unwrap();
    outcome(&output, &store)
}

#[test]
fn version() {
    let expected = format!("exit code: 0\n--- stdout\nmodal {}\n--- stderr\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"]), expected);
}

#[test]
fn help_goes_to_standard_output_and_its_absence_is_a_usage_error() {
    assert!(run(&["--help"]).starts_with("exit code: 0\n--- stdout\nDeclare container images"));
    assert!(run(&[]).starts_with("exit code: 2\n--- stdout\n--- stderr\nDeclare container images"));
}

#[test]
fn bad_options_are_usage_errors() {
    insta::assert_snapshot!(run(&["image", "list", "--jason"]));
}

#[test]
fn unknown_progress_is_a_usage_error() {
    insta::assert_snapshot!(run(&["run", "--progress", "loud", "app.py"]));
}

#[test]
fn completion_scripts_know_commands_and_options() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completion", shell]);
        assert!(script.starts_with("exit code: 0"), "{shell}");
        for word in ["write-result", "prune", "unused-for"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn pruning_an_empty_store_removes_nothing() {
    let outcome = run(&["image", "prune"]);
    assert!(outcome.starts_with("exit code: 0\n--- stdout\n--- stderr\nRemoved 0 images and 0 layers, "), "{outcome}");
}

#[test]
fn a_detached_run_has_no_terminal() {
    insta::assert_snapshot!(run(&["run", "--detach", "--interactive", "app.py"]));
}

#[test]
fn what_a_shell_cannot_have_is_named_with_what_to_do_instead() {
    for option in ["--cloud", "--region"] {
        let outcome = run(&["shell", option, "x"]);
        assert!(outcome.starts_with("exit code: 2\n"), "{outcome}");
        assert!(outcome.contains(&format!("error: `{option}` is not possible: ")), "{outcome}");
        assert!(outcome.contains("\nhint: "), "{outcome}");
    }
    insta::assert_snapshot!(run(&["shell", "im-0a1b2c", "--cloud", "aws"]));
    let both = run(&["shell", "im-0a1b2c", "--image", "ubuntu:24.04"]);
    assert!(both.starts_with("exit code: 2\n") && both.contains("cannot be used with"), "{both}");
}

#[test]
fn a_function_fixes_the_container_of_its_shell() {
    for option in [
        ["--add-local", "."],
        ["--volume", "a"],
        ["--secret", "a"],
        ["--cpu", "2"],
        ["--memory", "512"],
        ["--gpu", "T4"],
    ] {
        let outcome = run(&[&["shell", "app.py::f"][..], &option].concat());
        assert!(outcome.starts_with("exit code: 2\n"), "{outcome}");
        assert!(outcome.contains(&format!("error: `{}` is not possible with `app.py::f`", option[0])), "{outcome}");
    }
    insta::assert_snapshot!(run(&["shell", "-m", "package.app", "--cpu", "2"]));
}

#[test]
fn ages_and_sizes_need_units() {
    insta::assert_snapshot!(run(&["image", "prune", "--unused-for", "3"]));
    insta::assert_snapshot!(run(&["image", "prune", "--max-size", "3x"]));
}

#[test]
fn store_path_follows_the_variable() {
    insta::assert_snapshot!(run(&["store", "path"]), @r"
    exit code: 0
    --- stdout
    [STORE]
    --- stderr
    ");
}

#[test]
fn removing_no_store_is_no_failure() {
    insta::assert_snapshot!(run(&["store", "remove", "-y"]), @r"
    exit code: 0
    --- stdout
    --- stderr
    There is no store at `[STORE]`.
    ");
}

#[test]
fn a_damaged_store_is_explained_and_can_be_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let modal = |arguments: &[&str]| outcome(&modal(&store).args(arguments).output().unwrap(), &store);
    modal(&["image", "list"]);
    fs_err::remove_file(store.join("index.db-wal")).unwrap();
    fs_err::write(store.join("index.db"), vec![7; 20_000]).unwrap();
    insta::assert_snapshot!(modal(&["image", "list"]));
    fs_err::write(store.join("idmap.json"), "{").unwrap();
    let removed = modal(&["store", "remove", "-y"]);
    assert!(removed.starts_with("exit code: 0\n--- stdout\n--- stderr\nRemoved `[STORE]`, "), "{removed}");
    assert!(!store.exists());
}

#[test]
fn a_foreign_directory_is_never_taken_for_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let precious = directory.path().join("precious");
    fs_err::write(&precious, "data").unwrap();
    for arguments in [&["store", "remove", "-y"][..], &["image", "list"]] {
        let output = modal(directory.path()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let message = text(&output.stderr);
        assert!(message.starts_with("error: "), "{message}");
        assert!(message.contains(directory.path().to_str().unwrap()), "{message}");
    }
    assert_eq!(fs_err::read_to_string(precious).unwrap(), "data");
}

#[test]
fn a_relative_store_is_refused() {
    let output = modal(Path::new("relative/store")).args(["store", "path"]).output().unwrap();
    insta::assert_snapshot!(text(&output.stderr), @"error: `MODAL_STORE` is the relative path `relative/store`: set it to an absolute one");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn doctor_runs_without_a_store_and_speaks_json() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let output = modal(&store).args(["doctor", "--json"]).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", outcome(&output, &store));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["version"], 2);
    assert!(report["findings"].as_array().is_some_and(|findings| !findings.is_empty()));
    assert!(!store.exists());
}

#[test]
fn an_engine_without_a_socket_says_so() {
    insta::assert_snapshot!(run(&["engine"]), @r"
    exit code: 1
    --- stdout
    --- stderr
    error: `MODAL_ENGINE_FD` names no socket that this process inherited
    hint: `app.run()` starts this command; use `modal run` yourself
    ");
}

#[test]
fn an_interpreter_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let output =
        modal(directory.path()).env(EnvVars::MODAL_PYTHON, "/nowhere/python").args(["run", "app.py"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: cannot start `/nowhere/python`: "));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = modal(directory.path()).args(["store", "path"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}
