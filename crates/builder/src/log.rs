//! The log of one step: everything in a file, the last lines in memory, each line as an event.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use lamina_events::{Event, Sink};

use crate::secrets::{Masker, Masks};

/// Lines kept for the message of a failure.
const TAIL_LINES: usize = 40;
/// Longest line kept in one piece, in bytes; longer ones are broken.
const LINE_LIMIT: usize = 64 << 10;
/// Longest log file in bytes. A step that writes without end must not fill the disk.
const FILE_LIMIT: u64 = 256 << 20;

/// Receives a step's output as bytes, in whatever pieces it comes.
#[derive(Debug)]
pub(crate) struct StepLog {
    step: u64,
    sink: Sink,
    path: PathBuf,
    file: fs::File,
    written: u64,
    tail: VecDeque<String>,
    partial: Vec<u8>,
    masker: Masker,
}

impl StepLog {
    /// A log in `directory` for the step with this number; `name` makes up the file's name, `masks` are not shown.
    pub(crate) fn create(directory: &Path, name: &str, step: u64, sink: Sink, masks: Masks) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let path = directory.join(format!("{name}.log"));
        let file = fs::File::create(&path)?;
        Ok(Self {
            step,
            sink,
            path,
            file,
            written: 0,
            tail: VecDeque::new(),
            partial: Vec::new(),
            masker: Masker::new(masks),
        })
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// A text without secrets.
    pub(crate) fn masked(&self, text: &str) -> String {
        self.masker.masks().text(text)
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    /// Adds a line of our own.
    pub(crate) fn line(&mut self, text: &str) {
        self.end_line();
        self.partial.extend_from_slice(text.as_bytes());
        self.end_line();
    }

    /// Takes what is left of an unfinished line.
    pub(crate) fn finish(&mut self) {
        self.end_line();
        // The log is for people; that it could not be written must not fail a step that worked.
        let _ = self.file.flush();
    }

    fn end_line(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        let line = self.masker.line(&self.partial);
        self.partial.clear();
        self.store(&line);
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.clone());
        self.sink.emit(Event::StepLog { step: self.step, line });
    }

    fn store(&mut self, line: &str) {
        if self.written > FILE_LIMIT {
            return;
        }
        self.written += line.len() as u64 + 1;
        let text = if self.written > FILE_LIMIT { "(the log is cut here: it is too long)" } else { line };
        let _ = writeln!(self.file, "{text}");
    }
}

impl Write for StepLog {
    /// Takes output of a program. A carriage return ends a line too: progress bars come as separate lines.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, ended) = match piece.split_last() {
                Some((b'\n' | b'\r', text)) => (text, true),
                _ => (piece, false),
            };
            self.partial.extend_from_slice(text);
            if ended || self.partial.len() > LINE_LIMIT {
                self.end_line();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn lines_are_kept_masked_and_reported() {
        let directory = tempfile::tempdir().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&lines);
        let sink = Sink::new(move |event| {
            if let Event::StepLog { line, .. } = event {
                seen.lock().unwrap().push(line);
            }
        });
        let mut log = StepLog::create(directory.path(), "step", 7, sink, Masks::new(["hunter2"].into_iter())).unwrap();
        log.write_all(b"one\ntoken=hun").unwrap();
        log.write_all(b"ter2 x\r10%\r\n").unwrap();
        log.write_all(b"unfinished").unwrap();
        log.line("ours");
        for index in 0..50 {
            log.line(&index.to_string());
        }
        log.line("from https://me:word@host/");
        log.finish();
        let expected = ["one", "token=*** x", "10%", "unfinished", "ours"];
        assert_eq!(lines.lock().unwrap()[..5], expected);
        assert_eq!(log.tail().len(), TAIL_LINES);
        assert_eq!(log.tail()[TAIL_LINES - 2..], ["49", "from https://***@host/"]);
        assert!(fs::read_to_string(log.path()).unwrap().starts_with("one\ntoken=*** x\n"));
    }
}
