//! `modal run`: a function or local entrypoint of an app.

use std::ffi::{OsStr, OsString};

use crate::arguments::Run;
use crate::failure::Failure;
use crate::output::Progress;
use crate::session;

/// The exit code of a command that was not understood.
pub(super) const USAGE: u8 = 2;

/// Options that Modal has and that mean nothing on one machine without a daemon.
fn refused(run: &Run) -> Option<Failure> {
    if run.detach {
        let message = "`--detach` is not possible: there is no daemon, so an app ends with its command";
        return Some(Failure::new(message).hint("let the command go on by itself: `setsid modal run … &`, or tmux"));
    }
    run.interactive.then(|| {
        Failure::new("`--interactive` is not possible: functions have no terminal")
            .hint("open one in the container of a function: `modal shell app.py::function`")
    })
}

/// Runs it; the exit code is the program's.
pub(crate) fn run(run: &Run) -> Result<u8, Failure> {
    if let Some(failure) = refused(run) {
        failure.print();
        return Ok(USAGE);
    }
    let (reference, rest) =
        run.reference_and_arguments.split_first().ok_or_else(|| Failure::new("there is nothing to run"))?;
    let mut words: Vec<OsString> = vec!["run".into(), reference.clone()];
    if run.module {
        words.push("-m".into());
    }
    if let Some(name) = &run.name {
        words.push("--name".into());
        words.push(name.into());
    }
    if let Some(file) = &run.write_result {
        words.push("--write-result".into());
        words.push(file.into());
    }
    words.push("--".into());
    words.extend_from_slice(rest);
    let environment: Vec<(&str, &OsStr)> = run.env.iter().map(|name| ("MODAL_ENVIRONMENT", name.as_ref())).collect();
    let progress = if run.quiet { Progress::Quiet } else { run.output.progress };
    Ok(session::run(&words, &environment, progress, run.timestamps)?.code)
}
