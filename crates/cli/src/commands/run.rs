//! `modal run`: a function or local entrypoint of an app.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use lamina_apps::{Recorder, RunningApp};
use lamina_ground::EnvVars;

use super::detach;
use crate::arguments::Run;
use crate::failure::Failure;
use crate::output::Progress;
use crate::program::{self, Program};

/// Runs it; the exit code is the program's.
pub(crate) fn run(run: &Run) -> Result<u8, Failure> {
    if run.detach { detach::foreground(run) } else { attached(run, None) }
}

/// Runs it in this process, as the background of a detached app if there is one.
pub(crate) fn attached(run: &Run, detached: Option<(Arc<RunningApp>, Arc<Recorder>)>) -> Result<u8, Failure> {
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
    let environment: Vec<(&str, &OsStr)> =
        run.env.iter().map(|name| (EnvVars::MODAL_ENVIRONMENT, name.as_ref())).collect();
    let progress = match run.output.progress {
        _ if run.quiet => Progress::Quiet,
        // What is recorded is shown on many screens, or on none.
        Progress::Auto | Progress::Tty if detached.is_some() => Progress::Plain,
        chosen => chosen,
    };
    let program = Program {
        arguments: &words,
        environment: &environment,
        progress,
        // A record has times of its own.
        timestamps: run.timestamps && detached.is_none(),
        interactive: run.interactive,
        detached,
    };
    Ok(program::run(program)?.code)
}
