//! Terminal output: renderers that turn the engine's events into live rows, plain lines or JSON.
//!
//! Program output goes to the stream it was written to; everything that Lamina itself says goes to standard error.
//!
//! Rows and tables are our own, and no library's: what programs print comes between live rows at any moment, byte for byte
//! and without a torn line; either stream may be a terminal, a pipe or closed; and the same events are rows, lines or JSON.

mod failure;
pub(crate) mod patient;
mod plain;
mod state;
pub(crate) mod style;
mod table;
mod terminal;
mod terminal_output;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod timestamps;

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use lamina_apps::{LogEntry, Recorder, Source};
use lamina_events::{CancelToken, Event, Printer, Sink, Stream};

use style::Palette;

use crate::diagnostics;

pub(crate) use terminal_output::TerminalOutput;
pub(crate) use timestamps::stamped;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Progress {
    /// `tty` if standard error is a terminal, else `plain`
    #[default]
    Auto,
    /// One live row per running step
    Tty,
    /// Every line of every step, with the step's number in front
    Plain,
    /// One JSON object per event and line on standard error, where only programs write to standard output
    Json,
    /// Only failures and the output of containers
    Quiet,
}

/// Turns events into output. `now` is the time since the start.
trait Renderer: Send {
    /// Shows an event.
    fn event(&mut self, event: &Event, now: Duration) -> io::Result<()>;

    /// Brings what changes with time up to date.
    fn tick(&mut self, _now: Duration) -> io::Result<()> {
        Ok(())
    }

    /// Whether there is something on the screen that changes with time.
    fn is_live(&self) -> bool {
        false
    }

    /// Leaves the screen in order.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The two streams, and whether each is the terminal that rows are drawn on.
struct Streams {
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
}

impl Streams {
    fn standard() -> Self {
        Self {
            stdout: Box::new(patient::stdout()),
            stderr: Box::new(patient::stderr()),
            stdout_is_terminal: rustix::termios::isatty(io::stdout()),
            stderr_is_terminal: rustix::termios::isatty(io::stderr()),
        }
    }

    /// Both lead to the log of an app.
    fn recorded(recorder: &Arc<Recorder>) -> Self {
        let said = || Box::new(Said(Arc::clone(recorder)));
        Self { stdout: said(), stderr: said(), stdout_is_terminal: false, stderr_is_terminal: false }
    }

    fn shares_terminal(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout_is_terminal,
            Stream::Stderr => self.stderr_is_terminal,
        }
    }

    fn write(&mut self, stream: Stream, data: &[u8]) -> io::Result<()> {
        let target = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        target.write_all(data)?;
        target.flush()
    }
}

/// Where events are shown while a command runs.
pub(crate) struct Screen {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
}

/// The log of an app: what containers print goes there as it is, and who has printed it, and what became of them.
struct Log {
    recorder: Arc<Recorder>,
    takes_stderr: bool,
    /// Whether what becomes of containers and inputs is told there.
    tells: bool,
    /// Whether warnings are only told there: the renderer leaves them out.
    warns: bool,
}

impl Log {
    /// Records what a container has printed; false for anything else, which is also to be shown.
    fn take(&self, event: &Event) -> bool {
        let Event::ContainerOutput { container, stream, data, printer } = event else {
            self.tell(event);
            return false;
        };
        if *stream == Stream::Stderr && !self.takes_stderr {
            return false;
        }
        self.recorder.write(LogEntry {
            time: None,
            source: (*stream).into(),
            container: Some(container.clone()),
            printer: printer.clone(),
            data: data.clone(),
        });
        true
    }

    /// Records what became of a container or an input.
    fn tell(&self, event: &Event) {
        let (container, function, text) = match event {
            Event::ContainerStarted { container, function } if self.tells => {
                (Some(container), Some(function), format!("container {container} of `{function}` started"))
            }
            Event::ContainerFinished { container, function, cause } if self.tells => {
                let end = if cause.is_empty() { String::new() } else { format!(": {cause}") };
                (Some(container), Some(function), format!("container {container} of `{function}` ended{end}"))
            }
            Event::CallFailed { container, function, cause } if self.tells => {
                (container.as_ref(), Some(function), cause.clone())
            }
            Event::CallRetried { function, .. } if self.warns => {
                (None, Some(function), failure::retry(event, Palette::PLAIN).concat())
            }
            Event::Warning { message } if self.warns => (None, None, format!("warning: {message}")),
            _ => return,
        };
        let printer = Printer { function: function.cloned(), ..Printer::default() };
        let line = format!("{}\n", text::clean(&text.replace('\n', " ")));
        self.recorder.write(LogEntry {
            container: container.cloned(),
            printer,
            ..LogEntry::new(None, Source::System, line)
        });
    }
}

/// Writes what Lamina itself says to the log of an app.
struct Said(Arc<Recorder>);

impl Write for Said {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.write(LogEntry::new(None, Source::System, text));
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    started: Instant,
    cancel: CancelToken,
    log: Option<Log>,
}

struct State {
    renderer: Box<dyn Renderer>,
    finished: bool,
    /// Why nothing more is shown: for example, the reader of our output went away.
    closed: Option<io::Error>,
}

impl Screen {
    /// Shows events as `progress` says. If the reader of the output goes away, `cancel` is cancelled.
    pub(crate) fn start(progress: Progress, cancel: CancelToken) -> Self {
        Self::start_on(Streams::standard(), progress, cancel, None)
    }

    /// Records events as the log of an app.
    pub(crate) fn start_recorded(progress: Progress, cancel: CancelToken, recorder: &Arc<Recorder>) -> Self {
        // What containers print on standard error is an event like others for who reads events.
        let is_text = progress != Progress::Json;
        let warns = progress == Progress::Quiet;
        let log = Log { recorder: Arc::clone(recorder), takes_stderr: is_text, tells: is_text, warns };
        Self::start_on(Streams::recorded(recorder), progress, cancel, Some(log))
    }

    fn start_on(streams: Streams, progress: Progress, cancel: CancelToken, log: Option<Log>) -> Self {
        let progress = match progress {
            // Rows that are drawn again and again have no place for the lines of a record.
            Progress::Auto if style::is_capable_terminal(io::stderr()) && !diagnostics::is_shown() => Progress::Tty,
            Progress::Auto => Progress::Plain,
            chosen => chosen,
        };
        let palette = Palette::detect(io::stderr());
        let renderer: Box<dyn Renderer> = match progress {
            Progress::Tty => Box::new(terminal::Terminal::new(streams, palette, Box::new(terminal_size))),
            Progress::Auto | Progress::Plain => Box::new(plain::Plain::new(streams)),
            Progress::Json => Box::new(plain::Json::new(streams)),
            Progress::Quiet => Box::new(plain::Quiet::new(streams, palette)),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(State { renderer, finished: false, closed: None }),
            changed: Condvar::new(),
            started: Instant::now(),
            cancel,
            log,
        });
        let ticker = (progress == Progress::Tty).then(|| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.keep_live())
        });
        Self { shared, ticker }
    }

    /// Where the engine sends its events: they are recorded and shown.
    pub(crate) fn sink(&self) -> Sink {
        let shared = Arc::clone(&self.shared);
        Sink::new(move |event| {
            diagnostics::note(&event);
            if shared.log.as_ref().is_none_or(|log| !log.take(&event)) {
                shared.show(&event);
            }
        })
    }

    /// The screen for a container that has the user's terminal.
    pub(crate) fn terminal_output(&self) -> TerminalOutput {
        TerminalOutput::new(&self.shared)
    }

    /// Takes live rows away and stops. Returns why something could not be shown, if so; perhaps the reader went away.
    pub(crate) fn finish(mut self) -> Option<io::Error> {
        let closed = {
            let mut state = self.shared.lock();
            state.finished = true;
            // Nobody is left to be told when the output is gone.
            let _ = state.renderer.finish();
            state.closed.take()
        };
        self.shared.changed.notify_all();
        if let Some(ticker) = self.ticker.take() {
            // A ticker that panicked has printed why.
            let _ = ticker.join();
        }
        closed
    }
}

impl Shared {
    const FRAME: Duration = Duration::from_millis(100);

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, event: &Event) {
        let now = self.started.elapsed();
        let mut state = self.lock();
        if state.finished || state.closed.is_some() {
            return;
        }
        let was_live = state.renderer.is_live();
        let outcome = state.renderer.event(event, now);
        let became_live = !was_live && state.renderer.is_live();
        self.note(state, &outcome);
        if became_live {
            self.changed.notify_all();
        }
    }

    /// Stops everything when the reader of our output went away, or what is shown cannot be written.
    fn note(&self, mut state: MutexGuard<'_, State>, outcome: &io::Result<()>) {
        if let Err(error) = outcome {
            state.closed = Some(io::Error::new(error.kind(), error.to_string()));
            drop(state);
            self.cancel.cancel();
        }
    }

    fn keep_live(&self) {
        let mut state = self.lock();
        while !state.finished && state.closed.is_none() {
            state = if state.renderer.is_live() {
                if let Err(error) = state.renderer.tick(self.started.elapsed()) {
                    state.closed = Some(error);
                }
                self.changed.wait_timeout(state, Self::FRAME).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }
}

/// Columns and rows of the terminal on standard error.
fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}
