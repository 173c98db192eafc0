//! `modal run --detach`: a run that outlives its command and its terminal.
//!
//! The command starts itself once more, in a session of its own, as the process that does the run: the *background*. It
//! records what is printed. The *foreground* reads that record like everybody else; nothing depends on it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use lamina_engine::{AppRecord, AppState, detached_apps, new_app_id, spawn_apart};

use super::ask::say;
use super::{run, show};
use crate::arguments::{Arguments, Command, Run};
use crate::failure::Failure;
use crate::interruption::{self, Signals};
use crate::output::Progress;
use crate::recording::Recording;
use crate::session::BROKEN_PIPE;

/// The first word of the background's command line; the app's id and the words of the foreground follow.
pub(crate) const BACKGROUND: &str = "__detached";

/// Starts a run in the background and follows its output; the exit code is that of the run.
pub(crate) fn foreground(run: &Run) -> Result<u8, Failure> {
    let apps = detached_apps()?;
    let record = record(run)?;
    let id = &*record.id;
    let signals = interruption::catch()?;
    let mut background = start(id, apps.create(&record)?)?;
    if !run.quiet && !matches!(run.output.progress, Progress::Quiet | Progress::Json) {
        say(&format!("Running detached as {id}: Ctrl-C leaves it running.\n"));
    }
    leave_when_signalled(signals, id.to_owned());
    if apps.output(id)?.follow(&mut show)?.is_break() {
        say(&goes_on(id));
        return Ok(BROKEN_PIPE);
    }
    let status = background.wait()?;
    match apps.get(id)?.map(|app| app.state) {
        Some(AppState::Ended { code, .. }) => Ok(code),
        _ => Ok(unrecorded(id, status)),
    }
}

fn record(run: &Run) -> Result<AppRecord, Failure> {
    let (reference, arguments) =
        run.reference_and_arguments.split_first().ok_or_else(|| Failure::new("there is nothing to run"))?;
    Ok(AppRecord {
        id: new_app_id(),
        name: run.name.clone(),
        reference: reference.to_string_lossy().into_owned(),
        arguments: arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        directory: std::env::current_dir()?.to_string_lossy().into_owned(),
        started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    })
}

/// Starts the background; what makes it the running app becomes its standard input.
fn start(id: &str, held: OwnedFd) -> io::Result<Child> {
    let mut words = std::env::args_os();
    let mut command = process::Command::new("/proc/self/exe");
    command.arg0(words.next().unwrap_or_else(|| "modal".into()));
    command.arg(BACKGROUND).arg(id).args(words);
    command.stdin(Stdio::from(held)).stdout(Stdio::null()).stderr(Stdio::null());
    spawn_apart(&mut command)
}

/// Ends this process with the first signal; the app goes on.
fn leave_when_signalled(mut signals: Signals, id: String) {
    std::thread::spawn(move || {
        if let Some(origin) = signals.forever().next() {
            // The terminal shows `^C` on the line.
            let line = if rustix::termios::isatty(io::stderr()) { "\n" } else { "" };
            say(&format!("{line}{}", goes_on(&id)));
            process::exit(interruption::exit_code(origin.signal).into());
        }
    });
}

fn goes_on(id: &str) -> String {
    format!("The app goes on as {id}: `modal app logs -f {id}` shows its output, `modal app stop {id}` ends it.\n")
}

/// The exit code of a background that did not record one.
fn unrecorded(id: &str, status: ExitStatus) -> u8 {
    if let Some(signal) = status.signal() {
        Failure::new(format!("the app `{id}` was killed by signal {signal}")).print();
        return u8::try_from(128 + signal).unwrap_or(1);
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    if code < 128 {
        Failure::new(format!("the app `{id}` ended with exit code {code} before it could say why"))
            .hint("run it without `--detach` to see more")
            .print();
    }
    code
}

/// What standard input is; from then on there is none.
fn take_standard_input() -> io::Result<OwnedFd> {
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(fs_err::File::open("/dev/null")?)?;
    Ok(taken)
}

/// The background: `words` are the app's id and those of the foreground.
pub(crate) fn background(mut words: impl Iterator<Item = OsString>) -> Result<u8, Failure> {
    let id = words.next().unwrap_or_default();
    let app = Arc::new(detached_apps()?.adopt(&id.to_string_lossy(), take_standard_input()?)?);
    let recording = Recording::start(app.output()?)?;
    let code = match Arguments::parse_from(std::iter::once("modal".into()).chain(words)).command {
        Command::Run(run) => run::attached(&run, Some(Arc::clone(&app))),
        _ => Err(Failure::new("only `modal run` can be detached")),
    };
    let code = code.unwrap_or_else(|failure| {
        failure.print();
        1
    });
    recording.finish()?;
    app.end(code)?;
    Ok(code)
}
