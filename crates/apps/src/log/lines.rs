//! Which lines of a log are wanted.

use std::collections::HashMap;

use super::{LogEntry, Source};

/// The longest line that is waited for until it is whole.
const LONGEST: usize = 1 << 20;

/// Most lines that have begun and not ended; those that are interrupted for longer stay as they are.
const MOST_UNFINISHED: usize = 1 << 10;

/// What of a log is wanted. What is not known of an entry is not what was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// From this time on, in microseconds since 1970.
    pub since: Option<u64>,
    /// Before this time, in microseconds since 1970.
    pub until: Option<u64>,
    /// Lines with this text.
    pub search: Option<String>,
    /// Of this function; of a class, all its methods.
    pub function: Option<String>,
    /// Of this function call, `fc-…`.
    pub function_call: Option<String>,
    /// Of this container, `ta-…`.
    pub container: Option<String>,
    /// From this source.
    pub source: Option<Source>,
}

impl Selection {
    /// Whether it may have lines that are wanted.
    #[must_use]
    pub fn takes(&self, entry: &LogEntry) -> bool {
        let time = |limit: Option<u64>, keeps: &dyn Fn(u64, u64) -> bool| {
            limit.is_none_or(|limit| entry.time.is_some_and(|time| keeps(time, limit)))
        };
        let label = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        let function = |wanted: &String| {
            let rest = entry.printer.function.as_ref().and_then(|function| function.strip_prefix(wanted.as_str()));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        time(self.since, &|time, limit| time >= limit)
            && time(self.until, &|time, limit| time < limit)
            && self.source.is_none_or(|source| source == entry.source)
            && label(&self.function_call, &entry.printer.function_call)
            && label(&self.container, &entry.container)
            && self.function.as_ref().is_none_or(function)
    }

    /// Whether something is asked for that the earlier form of output does not tell.
    #[must_use]
    pub fn needs_labels(&self) -> bool {
        self.since.is_some()
            || self.until.is_some()
            || self.function.is_some()
            || self.function_call.is_some()
            || self.container.is_some()
    }
}

/// A line, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// The entry that it begins in; its data are others.
    pub entry: &'a LogEntry,
    /// The text, with its line end if that is there.
    pub text: &'a [u8],
    /// Whether it is the beginning of a line.
    pub begins: bool,
}

/// Who prints a line: lines of others come between its parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Writer {
    source: Source,
    container: Option<String>,
    input: Option<String>,
}

/// Makes lines of entries.
#[derive(Debug)]
pub struct LineFeed {
    selection: Selection,
    /// Lines that have begun and not ended: what waits of them.
    unfinished: HashMap<Writer, Option<LogEntry>>,
}

impl LineFeed {
    /// The lines that are wanted.
    #[must_use]
    pub fn new(selection: Selection) -> Self {
        Self { selection, unfinished: HashMap::new() }
    }

    /// Gives the lines of an entry to `each`. Where no text is searched, parts of lines are given as they come; else lines
    /// wait until they are whole.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn take<E>(&mut self, entry: &LogEntry, mut each: impl FnMut(LogLine<'_>) -> Result<(), E>) -> Result<(), E> {
        if !self.selection.takes(entry) {
            return Ok(());
        }
        if self.unfinished.len() >= MOST_UNFINISHED {
            self.finish(&mut each)?;
            self.unfinished.clear();
        }
        // Mostly there is nothing unfinished, and nobody to be named.
        let ends = entry.data.ends_with(b"\n");
        let is_plain = self.unfinished.is_empty() && (ends || entry.data.is_empty());
        let writer = (!is_plain).then(|| Writer {
            source: entry.source,
            container: entry.container.clone(),
            input: entry.printer.input.clone(),
        });
        let mut before = writer.as_ref().and_then(|writer| self.unfinished.remove(writer));
        for text in entry.data.split_inclusive(|byte| *byte == b'\n') {
            let is_whole = text.ends_with(b"\n");
            let Some(search) = &self.selection.search else {
                each(LogLine { entry, text, begins: before.is_none() })?;
                before = (!is_whole).then_some(None);
                continue;
            };
            let mut joined = before.take().flatten();
            if let Some(joined) = &mut joined {
                joined.data.extend_from_slice(text);
            }
            let (of, whole) = joined.as_ref().map_or((entry, text), |joined| (joined, &*joined.data));
            if is_whole || whole.len() >= LONGEST {
                if contains(whole, search.as_bytes()) {
                    each(LogLine { entry: of, text: whole, begins: true })?;
                }
            } else {
                before = Some(Some(joined.unwrap_or_else(|| LogEntry { data: text.to_vec(), ..entry.clone() })));
            }
        }
        if let (Some(writer), Some(before)) = (writer, before) {
            self.unfinished.insert(writer, before);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished.len()
    }

    /// Gives what waits for its end, because that does not come.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn finish<E>(&mut self, mut each: impl FnMut(LogLine<'_>) -> Result<(), E>) -> Result<(), E> {
        let Some(search) = &self.selection.search else { return Ok(()) };
        let mut left: Vec<LogEntry> = self.unfinished.drain().filter_map(|(_, entry)| entry).collect();
        left.sort_by_key(|entry| entry.time);
        for entry in left.iter().filter(|entry| contains(&entry.data, search.as_bytes())) {
            each(LogLine { entry, text: &entry.data, begins: true })?;
        }
        Ok(())
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || memchr::memmem::find(text, wanted).is_some()
}
