//! Showing logs: which lines, and with what in front of them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, UNIX_EPOCH};

use lamina_apps::{AppsError, LineFeed, LogEntry, LogLine, LogReader, Selection, Show, Source};
use lamina_events::Stream;
use serde_json::json;

use super::ask::say;
use super::show;
use crate::arguments::{LogLabels, LogOptions};
use crate::failure::Failure;

/// Lines that are shown where nothing else is asked for.
const LINES: usize = 100;

/// Shows entries of a log.
pub(super) struct LogView {
    feed: LineFeed,
    needs_labels: bool,
    writer: Writer,
    /// Whether lines without labels were left out.
    has_left_out: bool,
}

/// What stands in front of lines.
#[derive(Debug, Default)]
struct Prefix {
    columns: Vec<Column>,
    /// Whether only what containers print has something in front.
    is_for_containers: bool,
}

/// A part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Time,
    Function,
    FunctionCall,
    Container,
}

/// The last pieces of a log that were seen, with so many lines.
#[derive(Debug)]
struct LastLines {
    most: usize,
    lines: usize,
    pieces: VecDeque<(Stream, bool, Vec<u8>)>,
}

impl LogView {
    /// What these options ask for. The last lines only are shown where nothing else is said.
    pub(super) fn new(options: &LogOptions, labels: &LogLabels, everything: bool) -> Result<Self, Failure> {
        if let (Some(since), Some(until)) = (options.since, options.until)
            && since >= until
        {
            return Err(Failure::new("nothing can be shown: the time of `--since` is not before that of `--until`"));
        }
        let selection = Selection {
            since: options.since.map(|time| time.0),
            until: options.until.map(|time| time.0),
            search: options.search.clone(),
            function: labels.function.clone(),
            function_call: labels.function_call.clone(),
            container: labels.container.clone(),
            source: options.source.map(Source::from),
        };
        let is_bounded = options.since.is_some() || options.until.is_some() || everything;
        let most = options.tail.or((!is_bounded).then_some(LINES));
        let columns = [
            (options.timestamps, Column::Time),
            (labels.show_function_id, Column::Function),
            (labels.show_function_call_id, Column::FunctionCall),
            (labels.show_container_id, Column::Container),
        ];
        let columns = columns.into_iter().filter_map(|(is_wanted, column)| is_wanted.then_some(column)).collect();
        let prefix = Prefix { columns, is_for_containers: false };
        let last = most.map(|most| LastLines { most, lines: 0, pieces: VecDeque::new() });
        Ok(Self {
            needs_labels: selection.needs_labels(),
            feed: LineFeed::new(selection),
            writer: Writer { prefix, last, is_json: options.json, ..Writer::default() },
            has_left_out: false,
        })
    }

    /// All there is, with the time in front of what containers print if that is wanted.
    pub(super) fn of_run(timestamps: bool) -> Self {
        let columns = if timestamps { vec![Column::Time] } else { Vec::new() };
        Self {
            feed: LineFeed::new(Selection::default()),
            needs_labels: false,
            writer: Writer { prefix: Prefix { columns, is_for_containers: true }, ..Writer::default() },
            has_left_out: false,
        }
    }

    /// Takes the next entry, and shows it unless only the last lines are wanted.
    pub(super) fn take(&mut self, entry: &LogEntry) -> ControlFlow<io::Error> {
        self.has_left_out |= self.needs_labels && entry.time.is_none() && entry.source != Source::System;
        let Self { feed, writer, .. } = self;
        let mut text = Vec::new();
        let Ok(()) = feed.take(entry, |line| -> Result<(), Infallible> {
            writer.add(line, &mut text);
            Ok(())
        });
        if text.is_empty() { ControlFlow::Continue(()) } else { show(writer.stream(entry), &text) }
    }

    /// Shows the last lines, if only these are wanted; what comes then is shown at once.
    pub(super) fn catch_up(&mut self) -> ControlFlow<io::Error> {
        let Some(LastLines { pieces, .. }) = self.writer.last.take() else { return ControlFlow::Continue(()) };
        let mut pieces = pieces.into_iter();
        let Some((mut stream, _, mut text)) = pieces.next() else { return ControlFlow::Continue(()) };
        for (next, _, piece) in pieces {
            if next != stream {
                show(stream, &text)?;
                (stream, text) = (next, Vec::new());
            }
            text.extend_from_slice(&piece);
        }
        show(stream, &text)
    }

    /// Shows what is left at the end of a log.
    pub(super) fn finish(&mut self) -> ControlFlow<io::Error> {
        let Self { feed, writer, .. } = self;
        let mut left: Vec<(Stream, Vec<u8>)> = Vec::new();
        let Ok(()) = feed.finish(|line| -> Result<(), Infallible> {
            let mut text = Vec::new();
            writer.add(line, &mut text);
            left.push((writer.stream(line.entry), text));
            Ok(())
        });
        self.catch_up()?;
        for (stream, text) in left {
            show(stream, &text)?;
        }
        if self.has_left_out {
            say("What an earlier version of `modal` has recorded is left out: it has neither times nor functions.\n");
        }
        ControlFlow::Continue(())
    }
}

/// Shows what a log has, and what comes if that is to be followed.
pub(super) fn show_log(
    view: &mut LogView,
    follow: bool,
    log: &mut LogReader,
    go_on: impl FnOnce(&mut LogReader, &mut Show<'_>) -> Result<ControlFlow<io::Error>, AppsError>,
) -> Result<ControlFlow<io::Error>, AppsError> {
    let read = log.read(&mut |entry| view.take(entry))?;
    if read.is_break() {
        return Ok(read);
    }
    if follow {
        let shown = view.catch_up();
        if shown.is_break() {
            return Ok(shown);
        }
        let followed = go_on(log, &mut |entry| view.take(entry))?;
        if followed.is_break() {
            return Ok(followed);
        }
    }
    Ok(view.finish())
}

/// Makes text of lines.
#[derive(Debug, Default)]
struct Writer {
    prefix: Prefix,
    /// Whether each line is an object of JSON.
    is_json: bool,
    /// Which stream is in the middle of a line.
    within: [bool; 2],
    /// The last lines, while it is not known which these are.
    last: Option<LastLines>,
}

impl Writer {
    /// Adds a line to the last ones where only these are wanted, or else to `text`.
    fn add(&mut self, line: LogLine<'_>, text: &mut Vec<u8>) {
        let stream = self.stream(line.entry);
        let mut piece = if self.is_json { as_json(line) } else { self.as_text(line) };
        match &mut self.last {
            Some(last) => last.add(stream, line.begins, piece),
            None => text.append(&mut piece),
        }
    }

    /// Where an entry is shown.
    fn stream(&self, entry: &LogEntry) -> Stream {
        if self.is_json { Stream::Stdout } else { entry.source.stream() }
    }

    /// A line with what stands in front of it.
    fn as_text(&mut self, line: LogLine<'_>) -> Vec<u8> {
        let stream = line.entry.source.stream();
        let mut piece = Vec::new();
        let within = &mut self.within[usize::from(stream == Stream::Stderr)];
        if !self.prefix.columns.is_empty() {
            // Where something stands in front of lines, each is on a line of its own, and so is what others interrupted.
            if *within && line.begins {
                piece.push(b'\n');
            }
            if line.begins || !*within {
                piece.extend_from_slice(self.prefix.of(line.entry).as_bytes());
            }
        }
        *within = !line.text.ends_with(b"\n");
        piece.extend_from_slice(line.text);
        piece
    }
}

/// A line, or a part of one, as programs get it.
fn as_json(line: LogLine<'_>) -> Vec<u8> {
    let LogLine { entry, text, .. } = line;
    let time = entry.time.map(|time| UNIX_EPOCH + Duration::from_micros(time));
    let object = json!({
        "timestamp": time.map(|time| humantime::format_rfc3339_micros(time).to_string()),
        "source": entry.source.name(),
        "container": entry.container,
        "function": entry.printer.function,
        "function_call": entry.printer.function_call,
        "message": String::from_utf8_lossy(text),
    });
    format!("{object}\n").into_bytes()
}

impl LastLines {
    fn add(&mut self, stream: Stream, begins: bool, piece: Vec<u8>) {
        self.lines += usize::from(begins);
        self.pieces.push_back((stream, begins, piece));
        while self.lines > self.most {
            let dropped = self.pieces.pop_front();
            self.lines -= usize::from(dropped.is_some_and(|(_, begins, _)| begins));
        }
        // What continues a line that was dropped goes with it.
        while self.pieces.front().is_some_and(|(_, begins, _)| !begins) {
            self.pieces.pop_front();
        }
    }
}

impl Prefix {
    /// What stands in front of a line that begins in this entry.
    fn of(&self, entry: &LogEntry) -> String {
        let LogEntry { time, container, printer, .. } = entry;
        if self.is_for_containers && container.is_none() {
            return String::new();
        }
        let text = |column: &Column| {
            let text = match column {
                Column::Time => time.map(shown_time),
                Column::Function => printer.function.clone(),
                Column::FunctionCall => printer.function_call.clone(),
                Column::Container => container.clone(),
            };
            format!("{} ", text.as_deref().unwrap_or("-"))
        };
        self.columns.iter().map(text).collect()
    }
}

/// A time as it stands in front of lines.
pub(super) fn shown_time(microseconds: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_micros(microseconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands on standard output, with these columns and at most so many lines.
    fn shown(columns: &[Column], most: Option<usize>, entries: &[LogEntry]) -> String {
        let last = most.map(|most| LastLines { most, lines: 0, pieces: VecDeque::new() });
        let prefix = Prefix { columns: columns.to_vec(), is_for_containers: false };
        let mut writer = Writer { prefix, last, ..Writer::default() };
        let (mut feed, mut text) = (LineFeed::new(Selection::default()), Vec::new());
        for entry in entries {
            let Ok(()) = feed.take(entry, |line| -> Result<(), Infallible> {
                writer.add(line, &mut text);
                Ok(())
            });
        }
        text.extend(writer.last.into_iter().flat_map(|last| last.pieces).flat_map(|(_, _, piece)| piece));
        String::from_utf8(text).unwrap()
    }

    fn entry(container: Option<&str>, data: &str) -> LogEntry {
        LogEntry { container: container.map(str::to_owned), ..LogEntry::new(Some(1_000_000), Source::Stdout, data) }
    }

    #[test]
    fn lines_have_their_columns_however_they_come() {
        let entries = [entry(None, "a\nb"), entry(Some("ta-1"), "c\n"), entry(None, "B\n"), entry(None, "d")];
        assert_eq!(shown(&[], None, &entries), "a\nbc\nB\nd", "as it was printed");
        let expected = "- a\n- b\nta-1 c\n- B\n- d";
        assert_eq!(shown(&[Column::Container], None, &entries), expected);
        let time = "1970-01-01T00:00:01.000Z";
        let columns = [Column::Time, Column::Function, Column::FunctionCall];
        assert_eq!(shown(&columns, None, &[entry(None, "x\n")]), format!("{time} - - x\n"));
    }

    #[test]
    fn programs_get_an_object_for_each_line() {
        let mut writer = Writer { is_json: true, ..Writer::default() };
        let (mut feed, mut text) = (LineFeed::new(Selection::default()), Vec::new());
        let Ok(()) = feed.take(&entry(Some("ta-1"), "one\n\"two"), |line| -> Result<(), Infallible> {
            writer.add(line, &mut text);
            Ok(())
        });
        insta::assert_snapshot!(String::from_utf8(text).unwrap(), @r#"
        {"container":"ta-1","function":null,"function_call":null,"message":"one\n","source":"stdout","timestamp":"1970-01-01T00:00:01.000000Z"}
        {"container":"ta-1","function":null,"function_call":null,"message":"\"two","source":"stdout","timestamp":"1970-01-01T00:00:01.000000Z"}
        "#);
    }

    #[test]
    fn the_last_lines_are_shown_whole() {
        let entries = [entry(None, "a\nb\n"), entry(None, "c"), entry(None, "d\ne")];
        for (most, expected) in [(0, ""), (1, "e"), (2, "cd\ne"), (3, "b\ncd\ne"), (9, "a\nb\ncd\ne")] {
            assert_eq!(shown(&[], Some(most), &entries), expected, "{most}");
        }
    }
}
