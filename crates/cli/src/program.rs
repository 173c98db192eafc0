//! A Python program and the engine that serves it, from the start of both to their end.

use std::ffi::{OsStr, OsString};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use lamina_apps::{Recorder, RunningApp};
use lamina_engine::{Described, Engine, EngineError, Options, Recorded, serve, serve_attached};
use lamina_events::{CancelToken, Event, Sink};
use lamina_ground::causes;
use rustix::process::{Signal, getpid, kill_process};

use crate::diagnostics;
use crate::failure::Failure;
use crate::interruption::{self, Interruption};
use crate::output::{Progress, Screen, stamped};
use crate::python::Python;
use crate::user_terminal::{SharedTerminal, UserTerminal};

/// The exit code of a command whose output nobody reads any more, as if SIGPIPE had ended it.
pub(crate) const BROKEN_PIPE: u8 = 141;

/// How the session ended.
pub(crate) struct Ended {
    /// The exit code of the Python program, or of the interruption.
    pub(crate) code: u8,
    /// The engine, and the function that the program asked to have described.
    pub(crate) engine: Option<(Engine, Described)>,
    /// The app that the program has deployed.
    pub(crate) recorded: Option<Recorded>,
}

/// A Python program, and how it is run.
#[derive(Default)]
pub(crate) struct Program<'a> {
    /// The arguments of `modal._cli`.
    pub(crate) arguments: &'a [OsString],
    /// Variables that it gets beside ours.
    pub(crate) environment: &'a [(&'a str, &'a OsStr)],
    /// How progress is shown.
    pub(crate) progress: Progress,
    /// Whether the time stands in front of what containers print.
    pub(crate) timestamps: bool,
    /// Whether containers may ask for the user's terminal.
    pub(crate) interactive: bool,
    /// The record of the app and what writes its log, if it is one that goes on without its command.
    pub(crate) detached: Option<(Arc<RunningApp>, Arc<Recorder>)>,
}

/// Runs a program and serves it.
///
/// The interpreter starts first and imports the program while the store is opened.
pub(crate) fn run(program: Program<'_>) -> Result<Ended, Failure> {
    let Program { arguments, environment, progress, timestamps, interactive, detached } = program;
    working_directory()?;
    let signals = interruption::catch()?;
    let (mut python, socket) = Python::start(arguments, environment, detached.is_some())?;
    let cancel = CancelToken::new();
    let handle = python.handle();
    let terminal = UserTerminal::new();
    let interruption = Interruption::listen(signals, cancel.clone(), Some(handle.clone()), {
        let terminal = terminal.clone();
        move || terminal.restore()
    });
    let (detached, recorder) = detached.unzip();
    let screen = match &recorder {
        Some(recorder) => Screen::start_recorded(progress, cancel.clone(), recorder),
        None => Screen::start(progress, cancel.clone()),
    };
    let sink = if timestamps { stamped(screen.sink(), now) } else { screen.sink() };
    let terminal = interactive.then(|| SharedTerminal::open(terminal, &screen)).transpose()?;
    let (at_our_end, at_its_end) = (HangUp(socket.try_clone()?), HangUp(socket.try_clone()?));
    let app = detached.clone();
    let engine = thread::spawn(move || -> Result<_, EngineError> {
        let _at_our_end = at_our_end;
        // Without an engine the program would only report that it has none.
        let engine = Engine::open(&Options { cancel, terminal, detached, expects_sandbox: true, ..Options::default() })
            .inspect_err(|_| handle.signal(Signal::KILL))?;
        engine.look_ahead();
        let described = match &app {
            Some(app) => serve_detached(&engine, app, socket, &sink)?,
            None => serve(&engine, socket, &sink)?,
        };
        let recorded = engine.recorded();
        Ok((described.map(|described| (engine, described)), recorded))
    });
    let code = python.wait();
    // A process that the program left behind may hold its end of the connection open.
    drop(at_its_end);
    let served = engine.join().map_err(|_| stopped_unexpectedly())?;
    let unshown = screen.finish();
    if let Some(code) = interruption.exit_code() {
        return Ok(Ended { code, engine: None, recorded: None });
    }
    if let Some(error) = unshown.as_ref().filter(|error| error.kind() != std::io::ErrorKind::BrokenPipe) {
        return Err(Failure::new(format!("cannot write what is to be shown: {error}")));
    }
    let (engine, recorded) = served?;
    let code = if unshown.is_some() { BROKEN_PIPE } else { code? };
    Ok(Ended { code, engine, recorded })
}

/// The engine has a defect.
fn stopped_unexpectedly() -> Failure {
    let failure = Failure::new("the engine stopped unexpectedly");
    match diagnostics::path() {
        Some(path) => failure.hint(format!("the record of this run is `{}`", path.display())),
        None => failure,
    }
}

/// Serves the program of a detached app, and whoever connects with the app meanwhile.
fn serve_detached(
    engine: &Engine,
    app: &RunningApp,
    socket: UnixStream,
    sink: &Sink,
) -> Result<Option<Described>, EngineError> {
    let listener = match app.listen() {
        Ok(listener) => listener,
        Err(error) => {
            sink.emit(Event::Warning { message: format!("nobody can connect with the app: {}", causes(&error)) });
            return serve(engine, socket, sink);
        }
    };
    // What stops the app from outside is for its program as Ctrl-C is.
    let interrupt = || {
        // There is no way in which this fails for the own process.
        let _ = kill_process(getpid(), Signal::INT);
    };
    let serve_guest = |guest| {
        // A client that breaks the protocol was told.
        let _ = serve_attached(engine, guest, sink, &interrupt);
    };
    listener.serve_during(serve_guest, || serve(engine, socket, sink))
}

/// The working directory, which may have been deleted: no Python imports anything then.
pub(crate) fn working_directory() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|error| {
        let shown = std::env::var_os("PWD").map(|path| format!(" `{}`", path.display())).unwrap_or_default();
        Failure::new(format!("the working directory{shown} cannot be found: {error}"))
            .hint("it may have been deleted: change to one that exists")
    })
}

/// The time, as it stands in front of lines.
fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Ends the connection when dropped: whatever became of the engine, the program must not wait for its answers.
struct HangUp(UnixStream);

impl Drop for HangUp {
    fn drop(&mut self) {
        // A connection that has ended already is what is wanted.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
