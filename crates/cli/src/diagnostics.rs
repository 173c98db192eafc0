//! What the engine and its helper processes say about what they do, for whoever wants to know why.
//!
//! All of it goes into the record of the run; `-v`, `-vv` and `MODAL_LOG` show it on standard error as well. The helpers
//! write to both, too: the record is their standard output, and they are told in `MODAL_LOG` what to show.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use lamina_engine::redact;
use lamina_events::Event;
use lamina_ground::{EnvVars, RunRecord};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{MakeWriter, layer};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::failure::Failure;

/// What a record has: the larger decisions of our own crates. A request to the store worker is none.
const RECORDED: [(&str, Level); 2] = [("lamina", Level::INFO), ("modal", Level::INFO)];

/// Begins the record of this run, and shows what the variable says, or else as much as `-v` was given.
pub(crate) fn start(verbosity: u8) -> Result<(), Failure> {
    let shown = match std::env::var(EnvVars::MODAL_LOG) {
        Ok(text) if !text.is_empty() => Some(text),
        _ => match verbosity {
            0 => level_of_modal()?,
            1 => Some("info".to_owned()),
            _ => Some("debug".to_owned()),
        },
    };
    let targets = shown.as_deref().map(parse).transpose()?;
    let is_shown = targets.is_some();
    let record = RunRecord::begin(shown);
    listen(record, targets);
    if is_shown {
        let _ = path();
    }
    // Not the other words: they may hold what nobody else is to see.
    let command = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), command, "run");
    Ok(())
}

/// What Modal's own variable asks for.
fn level_of_modal() -> Result<Option<String>, Failure> {
    let Ok(text) = std::env::var(EnvVars::MODAL_LOGLEVEL) else { return Ok(None) };
    match text.to_ascii_uppercase().as_str() {
        "DEBUG" | "INFO" => Ok(Some(text.to_ascii_lowercase())),
        "" | "WARNING" | "ERROR" | "CRITICAL" => Ok(None),
        _ => Err(Failure::new(format!("the log level is `{text}`, which is none"))
            .hint("take one of `DEBUG`, `INFO`, `WARNING`, `ERROR` and `CRITICAL` for `MODAL_LOGLEVEL` or `loglevel`")),
    }
}

/// The same in a helper process; the command that started it has complained about a value that is not understood.
pub(crate) fn start_in_helper() {
    let targets = std::env::var(EnvVars::MODAL_LOG).ok().and_then(|text| parse(&text).ok());
    listen(Some(RunRecord::begin_in_helper()), targets);
}

/// Ends the record. It is kept if the run has failed, and named if something was to be shown.
pub(crate) fn finish(exit_code: u8) {
    let Some(record) = RunRecord::current() else { return };
    write("INFO", "end", &serde_json::json!({ "exit_code": exit_code }).to_string());
    if exit_code != 0 {
        let _ = path();
    }
    record.settle();
    if is_shown()
        && let Some(path) = path()
    {
        // Without a standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "The record of this run is `{}`.", path.display());
    }
}

/// The file of the record, which is kept then.
pub(crate) fn path() -> Option<PathBuf> {
    RunRecord::current().and_then(RunRecord::keep)
}

/// Whether something is shown on standard error.
pub(crate) fn is_shown() -> bool {
    RunRecord::current().is_some_and(|record| record.shown().is_some())
}

/// Records what happened. What a run is made to do, and what goes wrong, is a reason to keep the record.
pub(crate) fn note(event: &Event) {
    let Some(text) = describe(event) else { return };
    write("INFO", "event", &text);
    if is_noteworthy(event) {
        let _ = path();
    }
}

/// Records why a command failed.
pub(crate) fn note_failure(message: &str) {
    write("ERROR", "failure", message);
}

fn write(level: &str, kind: &str, text: &str) {
    if let Some(record) = RunRecord::current() {
        let now = humantime::format_rfc3339_micros(SystemTime::now());
        // Whatever becomes of the record, the run goes on.
        let _ = Line { record, is_kept: false }.write(format!("{now} {level:>5} {kind}: {text}\n").as_bytes());
    }
}

/// An event as its JSON; without what programs print and raise, which is theirs and may hold anything.
fn describe(event: &Event) -> Option<String> {
    let cut;
    let shown = match event {
        // First, and not copied: there are many of them.
        Event::StepLog { .. } | Event::StepProgress { .. } | Event::ContainerOutput { .. } => return None,
        Event::StepFailed { .. } | Event::CallRetried { .. } => {
            cut = without_foreign_words(event.clone());
            &cut
        }
        event => event,
    };
    serde_json::to_string(shown).ok()
}

fn without_foreign_words(mut event: Event) -> Event {
    match &mut event {
        Event::StepFailed { tail, .. } => tail.clear(),
        Event::CallRetried { cause, .. } => cause.clear(),
        _ => {}
    }
    event
}

fn is_noteworthy(event: &Event) -> bool {
    match event {
        Event::StepStarted { .. }
        | Event::StepFailed { .. }
        | Event::StepStopped { .. }
        | Event::CallRetried { .. }
        | Event::CallFailed { .. }
        | Event::CallStuck { .. }
        | Event::Warning { .. } => true,
        Event::ContainerFinished { cause, .. } => !cause.is_empty(),
        _ => false,
    }
}

fn parse(text: &str) -> Result<Targets, Failure> {
    text.parse().map_err(|error| {
        Failure::new(format!("`MODAL_LOG` is `{text}`, which is not understood: {error}")).hint(
            "set it to a level (error, warn, info, debug, trace), or to one for each part: `info,lamina_store=debug`",
        )
    })
}

fn listen(record: Option<&'static RunRecord>, shown: Option<Targets>) {
    let shown = shown.map(|targets| layer().with_writer(io::stderr).with_ansi(false).with_filter(targets));
    let recorded = record.map(|record| {
        layer().with_writer(Recorded(record)).with_ansi(false).with_filter(Targets::new().with_targets(RECORDED))
    });
    // It fails only where something listens already.
    let _ = tracing_subscriber::registry().with(shown).with(recorded).try_init();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "a defect of this program");
        usual(panic);
    }));
}

/// Where lines of the record go.
struct Recorded(&'static RunRecord);

impl<'a> MakeWriter<'a> for Recorded {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { record: self.0, is_kept: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { record: self.0, is_kept: *metadata.level() <= Level::WARN }
    }
}

/// A line of the record, without credentials of addresses.
struct Line {
    record: &'static RunRecord,
    /// Whether it is a reason to keep the record.
    is_kept: bool,
}

impl Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut record = self.record;
        record.write_all(redact(&String::from_utf8_lossy(text)).as_bytes())?;
        if self.is_kept {
            record.keep();
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lamina_events::{Printer, Stream};

    use super::*;

    #[test]
    fn levels_and_parts_are_understood() {
        for text in ["info", "DEBUG", "lamina_store=debug", "warn,lamina_wheels=trace,lamina_store::worker=debug"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        assert!(parse("lamina_store=loud").is_err());
    }

    #[test]
    fn what_programs_print_and_raise_is_not_recorded() {
        let failed = Event::StepFailed {
            step: 1,
            message: "it failed".to_owned(),
            tail: vec!["hunter2".to_owned()],
            log: Some("/logs/1.log".to_owned()),
            shell: None,
            hint: None,
        };
        insta::assert_snapshot!(describe(&failed).unwrap(), @r#"{"event":"step_failed","step":1,"message":"it failed","tail":[],"log":"/logs/1.log","shell":null,"hint":null}"#);
        let retried = Event::CallRetried {
            function: "f".to_owned(),
            attempt: 1,
            of: 3,
            seconds: 0.5,
            cause: "ValueError: hunter2".to_owned(),
        };
        assert!(!describe(&retried).unwrap().contains("hunter2"));
        let output = Event::ContainerOutput {
            container: "ta-1".to_owned(),
            stream: Stream::Stdout,
            data: b"hunter2".to_vec(),
            printer: Printer::default(),
        };
        assert_eq!(describe(&output), None);
    }

    #[test]
    fn a_cached_run_is_nothing_to_keep() {
        let ended = |cause: &str| Event::ContainerFinished {
            container: "ta-1".to_owned(),
            function: "f".to_owned(),
            cause: cause.to_owned(),
        };
        assert!(!is_noteworthy(&Event::StepCached { step: 1, bytes: 5 }));
        assert!(!is_noteworthy(&ended("")));
        assert!(is_noteworthy(&ended("killed by signal 9")));
        assert!(is_noteworthy(&Event::CallStuck { path: vec!["f".to_owned()], max_containers: 1 }));
    }
}
