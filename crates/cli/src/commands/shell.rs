//! `modal shell`: a command in an image, on a terminal of its own or on ours.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::Arc;

use lamina_engine::{Engine, ExitStatus, Options, Sandbox, ShellTarget};
use lamina_events::CancelToken;

use crate::arguments::Shell;
use crate::failure::Failure;
use crate::interruption::{self, Interruption};
use crate::session;
use crate::user_terminal::{self, UserTerminal};

/// The module with the app that stands for no REF.
const DEFAULT_APP: &str = "modal._cli.default_app";

/// Opens the shell; the exit code is its own.
pub(crate) fn shell(shell: &Shell) -> Result<u8, Failure> {
    let reference = shell.reference.as_deref();
    if let Some(image) = reference.filter(|reference| reference.starts_with("im-")) {
        let cancel = CancelToken::new();
        let engine = Engine::open(&Options { cancel: cancel.clone(), ..Options::default() })?;
        return open(&engine, ShellTarget::Image(image), shell);
    }
    let mut words: Vec<OsString> = vec!["describe".into(), reference.unwrap_or(DEFAULT_APP).into()];
    if shell.module || reference.is_none() {
        words.push("-m".into());
    }
    let ended = session::run(&words, &[], shell.output.progress, false, false, None)?;
    match &ended.engine {
        Some((engine, described)) if ended.code == 0 => open(engine, ShellTarget::Function(&described.function), shell),
        // The program has said why.
        _ => Ok(ended.code.max(1)),
    }
}

/// The words that start the command inside.
fn command(shell: &Shell) -> Vec<String> {
    let script = shell.cmd.as_deref().unwrap_or("command -v bash >/dev/null && exec bash; exec sh");
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

fn open(engine: &Engine, target: ShellTarget<'_>, shell: &Shell) -> Result<u8, Failure> {
    let wanted =
        shell.pty || (!shell.no_pty && rustix::termios::isatty(io::stdin()) && rustix::termios::isatty(io::stdout()));
    let terminal = UserTerminal::new();
    let size = wanted.then(user_terminal::size);
    let signals = interruption::catch()?;
    let sandbox = Arc::new(engine.shell(target, &command(shell), size)?);
    let cancel = CancelToken::new();
    let _killed_on_cancel = cancel.on_cancel({
        let sandbox = Arc::clone(&sandbox);
        move || sandbox.kill()
    });
    let interruption = Interruption::listen(signals, cancel, None, {
        let terminal = terminal.clone();
        move || terminal.restore()
    });
    if let Some(inner) = sandbox.take_terminal() {
        terminal.connect(&inner, None, &mut show)?;
    }
    Ok(match interruption.exit_code() {
        Some(code) => code,
        None => exit_code(&sandbox)?,
    })
}

/// Shows what the command wrote to its terminal.
fn show(data: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
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
