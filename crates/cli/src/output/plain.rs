//! The renderers for logs, programs and nobody: `plain`, `json` and `quiet`.

use std::io;
use std::time::Duration;

use lamina_events::{Event, SCHEMA_VERSION, Stop, Stream};
use serde::Serialize;

use super::state::{Build, Status, Step};
use super::style::Palette;
use super::table::Table;
use super::{Renderer, Streams, failure, text};

/// Lines with the number of their step in front, in the order in which things happen.
pub(crate) struct Plain {
    streams: Streams,
    build: Build,
}

impl Plain {
    /// A renderer that writes to `streams`.
    pub(crate) fn new(streams: Streams) -> Self {
        Self { streams, build: Build::default() }
    }

    /// What the event has to say by itself.
    fn lines(&self, event: &Event, now: Duration) -> Vec<String> {
        let title = |step: &u64| self.build.step(*step).map_or_else(String::new, |step| step.title.clone());
        match event {
            Event::StepWaiting { step } => {
                vec![format!("#{step} {}", title(step)), format!("#{step} WAITING for another process")]
            }
            Event::StepStarted { step, miss } => vec![format!("#{step} {} ({miss})", title(step))],
            Event::StepLog { step, line } => vec![self.line(*step, &text::clean(line), now)],
            Event::StepProgress { step, what, .. }
                if self.build.step(*step).is_some_and(|step| step.phase != *what) =>
            {
                vec![self.line(*step, what, now)]
            }
            Event::StepFailed { step, .. } => failure::report(&title(step), event, Palette::PLAIN, false),
            Event::CallRetried { .. } => failure::retry(event, Palette::PLAIN),
            Event::CallStuck { .. } => failure::stuck(event, Palette::PLAIN),
            Event::Warning { message } => vec![format!("warning: {message}")],
            _ => Vec::new(),
        }
    }

    /// A line that a step says, with the seconds since it began.
    fn line(&self, step: u64, line: &str, now: Duration) -> String {
        let since = self.build.step(step).and_then(Step::active_since).unwrap_or(now);
        let elapsed = now.saturating_sub(since).as_secs_f64();
        format!("#{step} {elapsed:.2} {line}").trim_end().to_owned()
    }

    /// What became final: steps from the cache or done, the table and the closing line.
    fn settled(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some((number, step)) = self.build.next_unshown() {
            match step.status {
                Status::Cached { .. } => lines.push(format!("#{number} {} CACHED", step.title)),
                Status::Finished { seconds, .. } => lines.push(format!("#{number} DONE {}", text::seconds(seconds))),
                Status::Failed { seconds, .. } => lines.push(format!("#{number} FAILED {}", text::seconds(seconds))),
                Status::Stopped { cause: Stop::Cancelled } => lines.push(format!("#{number} STOPPED")),
                Status::Stopped { cause: Stop::Damaged } => {
                    lines.push(format!("#{number} STOPPED: a layer beneath it is damaged, and is made again"));
                }
                _ => {}
            }
        }
        if let Some(closing) = self.build.take_closing() {
            let table = Table::for_steps(&closing.rows, Palette::PLAIN);
            lines.push(table.header());
            lines.extend(closing.rows.iter().map(|step| table.row(step)));
            lines.push(Table::closing(Palette::PLAIN, &closing));
        }
        lines
    }
}

impl Renderer for Plain {
    fn event(&mut self, event: &Event, now: Duration) -> io::Result<()> {
        if let Event::ContainerOutput { stream, data, .. } = event {
            return self.streams.write(*stream, data);
        }
        let own = self.lines(event, now);
        self.build.apply(event, now);
        let mut lines = self.settled();
        lines.extend(own);
        write_lines(&mut self.streams, &lines)
    }
}

/// One JSON object per line on standard error, output of containers included.
pub(crate) struct Json {
    streams: Streams,
}

impl Json {
    /// A renderer that writes to `streams`.
    pub(crate) fn new(streams: Streams) -> Self {
        Self { streams }
    }
}

#[derive(Serialize)]
struct Versioned<'a> {
    version: u32,
    seconds_since_start: f64,
    #[serde(flatten)]
    event: &'a Event,
}

impl Renderer for Json {
    fn event(&mut self, event: &Event, now: Duration) -> io::Result<()> {
        let seconds_since_start = (now.as_secs_f64() * 1000.0).round() / 1000.0;
        // What a container prints on its standard output is the program's result, not talk about it.
        if let Event::ContainerOutput { stream: Stream::Stdout, data, .. } = event {
            return self.streams.write(Stream::Stdout, data);
        }
        let mut line = serde_json::to_vec(&Versioned { version: SCHEMA_VERSION, seconds_since_start, event })?;
        line.push(b'\n');
        self.streams.write(Stream::Stderr, &line)
    }
}

/// Only failures, calls that wait for themselves, which would look like a run that hangs, and the output of containers.
pub(crate) struct Quiet {
    streams: Streams,
    build: Build,
    palette: Palette,
}

impl Quiet {
    /// A renderer that writes to `streams`.
    pub(crate) fn new(streams: Streams, palette: Palette) -> Self {
        Self { streams, build: Build::default(), palette }
    }
}

impl Renderer for Quiet {
    fn event(&mut self, event: &Event, now: Duration) -> io::Result<()> {
        match event {
            Event::ContainerOutput { stream, data, .. } => self.streams.write(*stream, data),
            Event::StepFailed { step, .. } => {
                let title = self.build.step(*step).map_or_else(String::new, |step| step.title.clone());
                write_lines(&mut self.streams, &failure::report(&title, event, self.palette, true))
            }
            Event::CallStuck { .. } => write_lines(&mut self.streams, &failure::stuck(event, self.palette)),
            _ => {
                self.build.apply(event, now);
                Ok(())
            }
        }
    }
}

/// Writes lines to standard error in one piece.
fn write_lines(streams: &mut Streams, lines: &[String]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut block = lines.join("\n");
    block.push('\n');
    streams.write(Stream::Stderr, block.as_bytes())
}
