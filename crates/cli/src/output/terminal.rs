//! The `tty` renderer: a live row per active step below everything else that is written.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use lamina_events::{Event, Stream};

use super::state::{Build, Status, Step};
use super::style::{Palette, Tone};
use super::table::Table;
use super::{Renderer, Streams, failure, text};

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// Columns and rows of the terminal, asked anew for every frame.
pub(crate) type Size = Box<dyn Fn() -> (usize, usize) + Send>;

/// Redraws live rows in place on standard error; settled rows and program output scroll up above them.
pub(crate) struct Terminal {
    streams: Streams,
    palette: Palette,
    size: Size,
    build: Build,
    table: Option<Table>,
    /// Live rows that are on the screen, right above the cursor.
    drawn: usize,
    /// The cursor is behind an unfinished line of program output, where no row may be drawn.
    within_line: bool,
}

impl Terminal {
    /// A renderer that writes to `streams`.
    pub(crate) fn new(streams: Streams, palette: Palette, size: Size) -> Self {
        Self { streams, palette, size, build: Build::default(), table: None, drawn: 0, within_line: false }
    }

    /// Takes the live rows off the screen.
    fn erase(&mut self, screen: &mut String) {
        if self.drawn > 0 {
            // Writing to a string does not fail.
            let _ = write!(screen, "\r\u{1b}[{}A\u{1b}[J", self.drawn);
            self.drawn = 0;
        }
    }

    /// Draws the live rows, unless they would tear a line apart.
    fn draw(&mut self, screen: &mut String, now: Duration) {
        if self.within_line {
            return;
        }
        let (columns, rows) = (self.size)();
        let frame = self.frame(columns, rows, now);
        self.drawn = frame.len();
        for line in frame {
            screen.push_str(&line);
            screen.push('\n');
        }
    }

    fn frame(&self, columns: usize, rows: usize, now: Duration) -> Vec<String> {
        let room = rows.saturating_sub(2).max(1);
        let active: Vec<&Step> = self.build.active().collect();
        let shown = if active.len() > room { room - 1 } else { active.len() };
        let mut frame: Vec<String> = active[..shown].iter().map(|step| self.live_row(step, columns, now)).collect();
        if shown < active.len() {
            frame.push(text::clip(&format!("  … and {} more steps", active.len() - shown), columns));
        }
        frame
    }

    fn live_row(&self, step: &Step, columns: usize, now: Duration) -> String {
        let elapsed = now.saturating_sub(step.active_since().unwrap_or(now));
        let spinner = SPINNER[usize::try_from(now.as_millis() / 100).unwrap_or(0) % SPINNER.len()];
        let time = text::seconds(elapsed.as_secs_f64());
        let title = text::clip(&step.title, columns.saturating_sub(time.len() + 6).min(columns / 2));
        let note = match step.status {
            Status::Waiting { .. } => "another process is making this layer",
            _ => step.last_line.as_str(),
        };
        let used = 2 + unicode_width::UnicodeWidthStr::width(title.as_str()) + 2 + time.len() + 2;
        let note = text::clip(note, columns.saturating_sub(used + 1));
        let row = format!(
            "{} {title}  {time}  {}",
            self.palette.paint(Tone::Cyan, spinner),
            self.palette.paint(Tone::Dim, note)
        );
        row.trim_end().to_owned()
    }

    /// Appends what became final: rows of settled steps, the closing line.
    fn settle(&mut self, screen: &mut String) {
        while let Some((_, step)) = self.build.next_unshown() {
            let step = step.clone();
            let table = self.table.unwrap_or_else(|| {
                let table = Table::for_terminal((self.size)().0, self.palette);
                screen.push_str(&table.header());
                screen.push('\n');
                table
            });
            self.table = Some(table);
            screen.push_str(&table.row(&step));
            screen.push('\n');
        }
        if let Some(closing) = self.build.take_closing() {
            self.table = None;
            screen.push_str(&Table::closing(self.palette, &closing));
            screen.push('\n');
        }
    }

    fn program_output(&mut self, stream: Stream, data: &[u8], now: Duration) -> io::Result<()> {
        if !self.streams.shares_terminal(stream) {
            return self.streams.write(stream, data);
        }
        let mut screen = String::new();
        self.erase(&mut screen);
        self.streams.write(Stream::Stderr, screen.as_bytes())?;
        self.streams.write(stream, data)?;
        self.within_line = data.last().map_or(self.within_line, |last| *last != b'\n');
        self.redraw(now)
    }

    fn redraw(&mut self, now: Duration) -> io::Result<()> {
        let mut screen = String::new();
        self.erase(&mut screen);
        self.draw(&mut screen, now);
        self.streams.write(Stream::Stderr, screen.as_bytes())
    }

    /// Starts a new line where program output left one unfinished.
    fn break_line(&mut self, screen: &mut String) {
        if std::mem::take(&mut self.within_line) {
            screen.push('\n');
        }
    }
}

impl Renderer for Terminal {
    fn event(&mut self, event: &Event, now: Duration) -> io::Result<()> {
        if let Event::ContainerOutput { stream, data, .. } = event {
            return self.program_output(*stream, data, now);
        }
        let mut lines = match event {
            Event::StepFailed { step, .. } => {
                let title = self.build.step(*step).map_or_else(|| "a step".to_owned(), |step| step.title.clone());
                failure::report(&title, event, self.palette, true)
            }
            Event::CallRetried { .. } => failure::retry(event, self.palette),
            Event::CallStuck { .. } => failure::stuck(event, self.palette),
            Event::Warning { message } => vec![format!("{} {message}", self.palette.paint(Tone::Yellow, "warning:"))],
            _ => Vec::new(),
        };
        self.build.apply(event, now);
        if matches!(event, Event::StepLog { .. } | Event::StepProgress { .. } | Event::StepQueued { .. }) {
            return Ok(());
        }
        let mut settled = String::new();
        self.settle(&mut settled);
        if matches!(event, Event::StepFailed { .. }) {
            // The lines about the failure end the table.
            self.table = None;
        }
        for line in lines.drain(..) {
            settled.push_str(&line);
            settled.push('\n');
        }
        let mut screen = String::new();
        self.erase(&mut screen);
        if !settled.is_empty() {
            self.break_line(&mut screen);
        }
        screen.push_str(&settled);
        self.draw(&mut screen, now);
        self.streams.write(Stream::Stderr, screen.as_bytes())
    }

    fn tick(&mut self, now: Duration) -> io::Result<()> {
        self.redraw(now)
    }

    fn is_live(&self) -> bool {
        self.build.active().next().is_some()
    }

    fn finish(&mut self) -> io::Result<()> {
        let mut screen = String::new();
        self.erase(&mut screen);
        self.streams.write(Stream::Stderr, screen.as_bytes())
    }
}
