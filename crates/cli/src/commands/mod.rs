//! The commands, one module each. Every command returns its exit code.

mod ask;
pub(crate) mod completion;
pub(crate) mod doctor;
pub(crate) mod engine;
pub(crate) mod image;
mod prune;
pub(crate) mod run;
pub(crate) mod shell;
pub(crate) mod store;

use std::io::{self, Write};

use crate::failure::Failure;

/// Writes data to standard output; a reader that has seen enough is no failure.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes data for programs to standard output, as one JSON document.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Failure::from_error(&error))?;
    text.push('\n');
    print(text.as_bytes())
}
