//! `modal shell`: a command in an image, on a terminal of its own or on ours.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::sync::Arc;

use lamina_engine::{Engine, ExitStatus, Options, Sandbox, ShellOptions, ShellTarget};
use lamina_events::{Event, Sink};
use lamina_ground::EnvVars;

use super::USAGE;
use super::ask::say;
use super::container;
use crate::arguments::{Shell, Unavailable};
use crate::failure::Failure;
use crate::interruption::{self, Interruption};
use crate::output::patient;
use crate::program::{self, Program};
use crate::user_terminal::{self, UserTerminal};

/// The module with the app that stands for no REF.
const DEFAULT_APP: &str = "modal._cli.default_app";

/// Opens the shell; the exit code is its own.
pub(crate) fn shell(shell: &Shell) -> Result<u8, Failure> {
    if let Some(failure) = unavailable(&shell.unavailable).or_else(|| fixed(shell)) {
        failure.print();
        return Ok(USAGE);
    }
    let reference = shell.reference.as_deref();
    if let Some(container) = reference.filter(|reference| is_container(reference)) {
        return container::exec(container, &command(shell), container::wants_terminal(shell.pty, shell.no_pty));
    }
    if let Some(image) = reference.filter(|reference| is_image(reference)) {
        let engine = Engine::open(&Options { expects_sandbox: true, ..Options::default() })?;
        return open(&engine, ShellTarget::Image(image), shell);
    }
    if let Some(tag) = shell.image.as_deref() {
        return of_registry(tag, shell);
    }
    let mut words: Vec<OsString> = vec!["describe".into(), reference.unwrap_or(DEFAULT_APP).into()];
    if shell.module || reference.is_none() {
        words.push("-m".into());
    }
    let environment: Vec<(&str, &OsStr)> =
        shell.env.iter().map(|name| (EnvVars::MODAL_ENVIRONMENT, name.as_ref())).collect();
    let ended = program::run(Program {
        arguments: &words,
        environment: &environment,
        progress: shell.output.progress,
        ..Program::default()
    })?;
    match &ended.engine {
        Some((engine, described)) if ended.code == 0 => {
            open(engine, ShellTarget::Container(&described.container), shell)
        }
        // The program has said why.
        _ => Ok(ended.code.max(1)),
    }
}

/// A shell in an image that is pulled first, unless the store has it.
fn of_registry(tag: &str, shell: &Shell) -> Result<u8, Failure> {
    let result = tempfile::NamedTempFile::new()?;
    let mut words: Vec<OsString> = vec!["prepare".into(), tag.into(), result.path().into()];
    words.extend(shell.add_python.iter().map(OsString::from));
    let ended = program::run(Program { arguments: &words, progress: shell.output.progress, ..Program::default() })?;
    if ended.code != 0 {
        return Ok(ended.code);
    }
    let engine = Engine::open(&Options { expects_sandbox: true, ..Options::default() })?;
    open(&engine, ShellTarget::Image(&fs_err::read_to_string(result.path())?), shell)
}

fn is_image(reference: &str) -> bool {
    reference.starts_with("im-")
}

fn is_container(reference: &str) -> bool {
    reference.starts_with("ta-") && !reference.contains(['.', ':', '/'])
}

/// Options for things that there are none of here.
fn unavailable(given: &Unavailable) -> Option<Failure> {
    let Unavailable { cloud, region } = given;
    let options = [
        ("--cloud", cloud.is_some(), "containers run on this machine, in no cloud", "leave it out"),
        ("--region", region.is_some(), "containers run on this machine, wherever it is", "leave it out"),
    ];
    let (option, _, reason, hint) = options.into_iter().find(|(_, is_given, ..)| *is_given)?;
    Some(Failure::new(format!("`{option}` is not possible: {reason}")).hint(hint))
}

/// Options that say what REF says already.
fn fixed(shell: &Shell) -> Option<Failure> {
    let reference = shell.reference.as_deref().filter(|reference| !is_image(reference))?;
    let options = [
        (
            "--add-local",
            !shell.add_local.is_empty(),
            "add the files to its image, with `.add_local_dir` or `.add_local_file`",
        ),
        ("--volume", !shell.volume.is_empty(), "set `volumes` in its `@app.function()`"),
        ("--secret", !shell.secret.is_empty(), "set `secrets` in its `@app.function()`"),
        ("--cpu", shell.cpu.is_some(), "set `cpu` in its `@app.function()`"),
        ("--memory", shell.memory.is_some(), "set `memory` in its `@app.function()`"),
        ("--gpu", shell.gpu.is_some(), "set `gpu` in its `@app.function()`"),
    ];
    let (option, _, hint) = options.into_iter().find(|(_, is_given, _)| *is_given)?;
    if is_container(reference) {
        let message = format!("`{option}` is not possible with `{reference}`: the container runs already");
        return Some(Failure::new(message).hint("leave it out"));
    }
    let message =
        format!("`{option}` is not possible with `{reference}`: the function says what its container is like");
    Some(Failure::new(message).hint(format!("{hint}, or leave REF out for a shell in the default image")))
}

/// The words that start the command inside.
fn command(shell: &Shell) -> Vec<String> {
    let script = shell.cmd.as_deref().unwrap_or("command -v bash >/dev/null && exec bash; exec sh");
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

fn open(engine: &Engine, target: ShellTarget<'_>, shell: &Shell) -> Result<u8, Failure> {
    let wanted = container::wants_terminal(shell.pty, shell.no_pty);
    let terminal = UserTerminal::new();
    let size = wanted.then(user_terminal::size);
    let options = ShellOptions {
        local_files: shell.add_local.clone(),
        volumes: shell.volume.clone(),
        secrets: shell.secret.clone(),
        cpus: shell.cpu,
        memory_bytes: shell.memory.map(|mebibytes| mebibytes << 20),
        gpu: shell.gpu.clone().into_iter().collect(),
        environment_name: shell.env.clone(),
    };
    let warnings = Sink::new(|event| {
        if let Event::Warning { message } = event {
            say(&format!("warning: {message}\n"));
        }
    });
    let interruption = Interruption::listen(interruption::catch()?, engine.cancel().clone(), None, {
        let terminal = terminal.clone();
        move || terminal.restore()
    });
    let running = match engine.shell(target, &command(shell), size, &options, &warnings) {
        Ok(running) => running,
        Err(error) => return interruption.exit_code().ok_or_else(|| error.into()),
    };
    let sandbox = running.sandbox();
    let _killed_on_cancel = engine.cancel().on_cancel({
        let sandbox = Arc::clone(sandbox);
        move || sandbox.kill()
    });
    if let Some(inner) = sandbox.take_terminal() {
        terminal.connect(&inner, None, &mut show)?;
    }
    Ok(match interruption.exit_code() {
        Some(code) => code,
        None => exit_code(sandbox)?,
    })
}

/// Shows what the command wrote to its terminal.
pub(super) fn show(data: &[u8]) -> io::Result<()> {
    let mut stdout = patient::stdout();
    stdout.write_all(data)?;
    stdout.flush()
}

/// Waits for the end of the command and returns its exit code, 128 + the signal if one killed it.
fn exit_code(sandbox: &Sandbox) -> Result<u8, Failure> {
    let exit = sandbox.wait().map_err(|error| Failure::from_error(&error))?;
    let code = match exit.status {
        ExitStatus::Exited(code) => code,
        ExitStatus::Signaled(signal) => 128 + signal,
    };
    Ok(u8::try_from(code).unwrap_or(1))
}
