//! The commands, one module each. Every command returns its exit code.

pub(crate) mod app;
mod ask;
mod autostart;
pub(crate) mod cache;
pub(crate) mod collections;
pub(crate) mod completion;
pub(crate) mod container;
pub(crate) mod deploy;
mod deployed;
pub(crate) mod detach;
pub(crate) mod doctor;
mod dotenv;
pub(crate) mod host;
pub(crate) mod image;
mod image_build;
mod image_chosen;
mod image_export;
mod image_names;
mod image_pull;
mod image_push;
mod image_table;
mod listing;
mod logs;
mod new_file;
pub(crate) mod profile;
mod prune;
pub(crate) mod run;
pub(crate) mod secret;
pub(crate) mod serve;
pub(crate) mod shell;
pub(crate) mod store;
mod verify;
pub(crate) mod volume;

use std::io::{self, Write};
use std::ops::ControlFlow;

use lamina_events::Stream;

use crate::failure::Failure;
use crate::output::patient;

/// The exit code of a command that was not understood.
const USAGE: u8 = 2;

/// Writes data to standard output; a reader that has seen enough is no failure.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = patient::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes data for programs to standard output, as one JSON document.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    text.push('\n');
    print(text.as_bytes())
}

/// Writes what an app printed to the stream that it was written to, until that cannot be done any more.
fn show(stream: Stream, data: &[u8]) -> ControlFlow<io::Error> {
    let mut target: Box<dyn Write> = match stream {
        Stream::Stdout => Box::new(patient::stdout()),
        Stream::Stderr => Box::new(patient::stderr()),
    };
    match target.write_all(data).and_then(|()| target.flush()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

/// Whether what an app printed was shown to the end; a reader that has seen enough is no failure.
fn is_all_shown(outcome: ControlFlow<io::Error>) -> Result<bool, Failure> {
    match outcome {
        ControlFlow::Continue(()) => Ok(true),
        ControlFlow::Break(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        ControlFlow::Break(error) => {
            Err(Failure::new(format!("cannot write what the app printed: {error}"))
                .hint("`modal app logs` shows it again"))
        }
    }
}
