//! What an app prints, and what is said about it: files of entries, each with its time, its source and who has printed it.
//!
//! The format is in `docs/store-format.md`. A log is a directory of *segments*, numbered files of which only the last one
//! grows; when it is long enough another one is begun, and the oldest goes. Before there were logs, the output was one
//! file without times: the *earlier* form, which is still read.

mod earlier;
mod format;
mod lines;
mod reader;
mod segments;
#[cfg(test)]
mod tests;
mod writer;

use std::ops::ControlFlow;

use lamina_events::{Printer, Stream};

pub use lines::{LineFeed, LogLine, Selection};
pub use reader::LogReader;
pub use segments::LogPosition;
pub(crate) use segments::end as end_of_log;
pub use writer::LogWriter;

/// Where something in a log comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// Standard output of the app's program or of a container.
    Stdout,
    /// Standard error of either.
    Stderr,
    /// Lamina itself.
    System,
}

impl From<Stream> for Source {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Stdout => Self::Stdout,
            Stream::Stderr => Self::Stderr,
        }
    }
}

impl Source {
    /// The stream that shows it.
    #[must_use]
    pub fn stream(self) -> Stream {
        match self {
            Self::Stdout => Stream::Stdout,
            Self::Stderr | Self::System => Stream::Stderr,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When it came, in microseconds since 1970; unknown in the earlier form.
    pub time: Option<u64>,
    /// Where it comes from.
    pub source: Source,
    /// The container that has printed it, `ta-…`.
    pub container: Option<String>,
    /// What of the app has printed it.
    pub printer: Printer,
    /// The bytes: lines, or parts of one.
    pub data: Vec<u8>,
}

impl LogEntry {
    /// Something of which no more is known than its source.
    #[must_use]
    pub fn new(time: Option<u64>, source: Source, data: impl Into<Vec<u8>>) -> Self {
        Self { time, source, container: None, printer: Printer::default(), data: data.into() }
    }

    /// Whether it tells what became of a container or an input. Who waits for the app's results is told otherwise.
    #[must_use]
    pub fn is_about_function(&self) -> bool {
        self.source == Source::System && self.printer.function.is_some()
    }
}

/// Takes what a log has, until it cannot.
pub type Show<'a> = dyn FnMut(&LogEntry) -> ControlFlow<std::io::Error> + 'a;
