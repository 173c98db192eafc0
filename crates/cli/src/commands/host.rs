//! The process of a deployed app. It prints what its containers print, which is recorded.

use std::ffi::OsString;
use std::sync::Arc;

use lamina_apps::{DeploymentName, Recorder, Recording, RunningHost, Source, take_standard_input};
use lamina_engine::{Engine, Options, deployments, serve_deployed};
use lamina_events::CancelToken;
use rustix::process::Signal;

use crate::diagnostics;
use crate::failure::Failure;
use crate::interruption::{self, Interruption};
use crate::output::{Progress, Screen};

/// Runs it: `words` are the environment and the name of the app.
pub(crate) fn host(mut words: impl Iterator<Item = OsString>) -> Result<u8, Failure> {
    // A limit on the size of files costs output, not the app.
    signal_hook::flag::register(Signal::XFSZ.as_raw(), Arc::default())?;
    let mut word = || words.next().unwrap_or_default().to_string_lossy().into_owned();
    let name = DeploymentName::new(&word(), &word())?;
    let app = deployments()?.adopt(&name, take_standard_input()?)?;
    // Nobody but Lamina itself writes to its standard streams.
    let recording = Recording::start(app.log()?, [Source::System; 2])?;
    let code = diagnostics::start(0).and_then(|()| serve(&app, recording.recorder())).unwrap_or_else(|failure| {
        failure.print();
        1
    });
    diagnostics::finish(code);
    recording.finish();
    // Nobody waits for it.
    let _ = app.end(code);
    Ok(code)
}

fn serve(app: &RunningHost, recorder: &Arc<Recorder>) -> Result<u8, Failure> {
    let cancel = CancelToken::new();
    let interruption = Interruption::listen(interruption::catch()?, cancel.clone(), None, || ());
    let screen = Screen::start_recorded(Progress::Quiet, cancel.clone(), recorder);
    // Clients may connect, and wait, while the store is opened.
    let listener = app.listen()?;
    let engine = Engine::open(&Options { cancel, expects_sandbox: true, ..Options::default() })?;
    let served = serve_deployed(&engine, app, &listener, &screen.sink());
    drop(listener);
    drop(engine);
    screen.finish();
    served?;
    Ok(interruption.exit_code().unwrap_or(0))
}
