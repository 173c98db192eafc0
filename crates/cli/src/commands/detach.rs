//! `modal run --detach`: a run that outlives its command and its terminal.
//!
//! The command starts itself once more, in a session of its own, as the process that does the run: the *background*. It
//! records what is printed. The *foreground* reads that record like everybody else; nothing depends on it.

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, ExitStatus};
use std::sync::Arc;

use clap::Parser;
use lamina_apps::{
    AppRecord, AppState, AppsError, DetachedApp, DetachedApps, LogEntry, Recording, Source, start_background,
    take_standard_input,
};
use lamina_engine::detached_apps;
use lamina_events::CancelToken;
use lamina_ground::{random_id, seconds_since_1970};
use rustix::process::Signal;

use super::ask::say;
use super::logs::LogView;
use super::{is_all_shown, run};
use crate::arguments::{Arguments, Command, Run};
use crate::diagnostics;
use crate::failure::Failure;
use crate::interruption::{self, Interruption, Signals};
use crate::output::Progress;
use crate::program::{BROKEN_PIPE, working_directory};

/// Starts a run in the background and follows its output; the exit code is that of the run.
pub(crate) fn foreground(run: &Run) -> Result<u8, Failure> {
    let apps = detached_apps()?;
    let record = record(run)?;
    let id = &*record.id;
    let tell = |text: &str| {
        if !run.quiet && !matches!(run.output.progress, Progress::Quiet | Progress::Json) {
            say(text);
        }
    };
    let cancel = CancelToken::new();
    let interruption = Interruption::listen(interruption::catch()?, cancel.clone(), None, || ());
    let signals = interruption::catch()?;
    let waiting = || tell("Waiting for another `modal` that starts a detached app or removes the store...\n");
    let held = match apps.create(&record, &cancel, waiting) {
        Err(AppsError::Cancelled(_)) => return Ok(interruption.exit_code().unwrap_or(1)),
        other => other?,
    };
    let mut background = start_background(id, held, std::env::args_os())?;
    tell(&format!("Running detached as {id}: Ctrl-C leaves it running.\n"));
    leave_when_signalled(signals, id.to_owned());
    match follow(&apps, id, run.timestamps) {
        Ok(true) => {}
        Ok(false) => {
            say(&goes_on(id));
            return Ok(BROKEN_PIPE);
        }
        Err(failure) => {
            say(&goes_on(id));
            return Err(failure);
        }
    }
    let status = background.wait()?;
    match apps.get(id) {
        Ok(Some(DetachedApp { state: AppState::Ended { code, .. }, .. })) => Ok(code),
        Ok(Some(_)) => Ok(unrecorded(id, status)),
        // The record was removed, or cannot be read any more.
        _ => Ok(exit_code(status)),
    }
}

/// Shows what the app prints until it ends; false when nobody reads that any more. A record that cannot be read is no
/// reason to leave the app.
fn follow(apps: &DetachedApps, id: &str, timestamps: bool) -> Result<bool, Failure> {
    let mut view = LogView::of_run(timestamps);
    // As without `--detach`, what becomes of containers is not shown.
    let mut show =
        |entry: &LogEntry| if entry.is_about_function() { ControlFlow::Continue(()) } else { view.take(entry) };
    match apps.log(id).and_then(|mut log| log.follow(&mut show)) {
        Ok(outcome) => is_all_shown(outcome),
        Err(error) => {
            Failure::from(error).print();
            say(&format!("The app `{id}` goes on: its output is not shown any more, its end is waited for.\n"));
            Ok(true)
        }
    }
}

fn record(run: &Run) -> Result<AppRecord, Failure> {
    let (reference, arguments) =
        run.reference_and_arguments.split_first().ok_or_else(|| Failure::new("there is nothing to run"))?;
    let (reference, directory) = (reference.to_string_lossy(), working_directory()?);
    Ok(AppRecord {
        name: run.name.clone(),
        arguments: arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        ..AppRecord::new(random_id("ap"), reference, directory.to_string_lossy(), seconds_since_1970())
    })
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
    let code = exit_code(status);
    if let Some(signal) = status.signal() {
        Failure::new(format!("the app `{id}` was killed by signal {signal}")).print();
    } else if code < 128 {
        Failure::new(format!("the app `{id}` ended with exit code {code} before it could say why"))
            .hint("run it without `--detach` to see more")
            .print();
    }
    code
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// The background: `words` are the app's id and those of the foreground.
pub(crate) fn background(mut words: impl Iterator<Item = OsString>) -> Result<u8, Failure> {
    // A limit on the size of files costs output, not the app: what is not written is noted. Programs that are started from
    // here have the signal as it was.
    signal_hook::flag::register(Signal::XFSZ.as_raw(), Arc::default())?;
    let id = words.next().unwrap_or_default();
    let app = Arc::new(detached_apps()?.adopt(&id.to_string_lossy(), take_standard_input()?)?);
    let recording = Recording::start(app.log()?, [Source::Stdout, Source::Stderr])?;
    let arguments = Arguments::parse_from(std::iter::once("modal".into()).chain(words));
    let code = diagnostics::start(arguments.verbose).and_then(|()| match arguments.command {
        Command::Run(run) => run::attached(&run, Some((Arc::clone(&app), Arc::clone(recording.recorder())))),
        _ => Err(Failure::new("only `modal run` can be detached")),
    });
    let code = code.unwrap_or_else(|failure| {
        failure.print();
        1
    });
    diagnostics::finish(code);
    recording.finish();
    // The foreground learns the code from the process, too.
    let _ = app.end(code);
    Ok(code)
}
