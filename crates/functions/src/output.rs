//! The output streams of a container, passed on live, in whole lines where they come as such.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lamina_events::{Event, Stream};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::ids::CallId;
use crate::marks::Marks;
use crate::pool::Seat;
use crate::roster::Backlog;
use crate::state::InputLabel;

/// How long the beginning of a line waits for its end.
const PARTIAL_LINE_PATIENCE: Duration = Duration::from_millis(100);
/// Longest piece that waits for a line end.
const MAXIMUM_PIECE: usize = 64 << 10;
/// Reads at most this many bytes before something else gets a turn: what a pipe holds at its default size.
const TURN: usize = 64 << 10;
/// Bytes asked of the kernel at once.
const CHUNK: usize = 16 << 10;
/// Bytes of standard error kept for error messages.
const TAIL_BYTES: usize = 4 << 10;
/// Lines of standard error shown in error messages.
const TAIL_LINES: usize = 10;

/// One output stream of a container.
pub(crate) struct Output {
    fd: Option<OwnedFd>,
    stream: Stream,
    container: String,
    seat: Seat,
    backlog: Arc<Backlog>,
    /// Where it says itself which input prints, because several run.
    marks: Option<Marks>,
    /// The number that it has given last.
    call: u64,
    /// The input that has printed what waits.
    label: Option<InputLabel>,
    /// Where reads land; kept, so that it is zeroed once.
    chunk: Vec<u8>,
    buffer: Vec<u8>,
    partial_since: Option<Instant>,
    tail: Vec<u8>,
}

impl Output {
    /// Reads `fd`, which is made non-blocking. With a `mark` the container says which of its inputs prints.
    pub(crate) fn new(
        fd: OwnedFd,
        stream: Stream,
        container: &str,
        seat: &Seat,
        backlog: &Arc<Backlog>,
        mark: Option<&str>,
    ) -> std::io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Self {
            fd: Some(fd),
            stream,
            container: container.to_owned(),
            seat: seat.clone(),
            backlog: Arc::clone(backlog),
            marks: mark.map(Marks::new),
            call: 0,
            label: None,
            chunk: vec![0; CHUNK],
            buffer: Vec::new(),
            partial_since: None,
            tail: Vec::new(),
        })
    }

    /// The descriptor to poll, until the stream has ended.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// When a waiting piece must be passed on, if one waits.
    pub(crate) fn flush_at(&self) -> Option<Instant> {
        self.partial_since.map(|since| since + PARTIAL_LINE_PATIENCE)
    }

    /// Whether a waiting piece must be passed on now.
    pub(crate) fn is_due(&self) -> bool {
        self.flush_at().is_some_and(|at| Instant::now() >= at)
    }

    /// Passes on what the stream holds: whole lines at once, the beginning of a line after a short while. Says how
    /// many bytes were read.
    pub(crate) fn read_available(&mut self) -> usize {
        let mut taken = 0;
        while taken < TURN {
            let Some(fd) = &self.fd else { break };
            match rustix::io::read(fd, &mut self.chunk) {
                Ok(0) => self.fd = None,
                Ok(count) => {
                    taken += count;
                    self.accept(count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.fd = None,
            }
        }
        if self.fd.is_none() || self.is_due() {
            self.flush();
        }
        taken
    }

    /// Passes on all that is left after the container's end.
    pub(crate) fn finish(&mut self) {
        while self.read_available() > 0 {}
        if let Some(left) = self.marks.as_mut().map(Marks::finish) {
            self.take(&left);
        }
        self.flush();
    }

    /// The last lines, for an error message.
    pub(crate) fn tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Takes the first `count` bytes of the chunk.
    fn accept(&mut self, count: usize) {
        let chunk = std::mem::take(&mut self.chunk);
        if let Some(mut marks) = self.marks.take() {
            marks.split(&chunk[..count], |call, bytes| {
                if call != self.call {
                    self.call = call;
                    let label = if call == 0 { None } else { self.seat.input(CallId::from_number(call)) };
                    self.attribute(label);
                }
                self.take(bytes);
            });
            self.marks = Some(marks);
        } else {
            self.attribute(self.seat.input_that_runs());
            self.take(&chunk[..count]);
        }
        self.chunk = chunk;
        self.pass_lines_on();
    }

    /// What follows is printed by this input.
    fn attribute(&mut self, label: Option<InputLabel>) {
        if label != self.label {
            self.flush();
            self.label = label;
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
        self.buffer.extend_from_slice(bytes);
    }

    /// Passes on whole lines; the beginning of one waits for its end.
    fn pass_lines_on(&mut self) {
        let line_end = self.buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
        if line_end > 0 {
            let rest = self.buffer.split_off(line_end);
            self.flush();
            self.buffer = rest;
        }
        if self.buffer.len() >= MAXIMUM_PIECE {
            self.flush();
        }
        if !self.buffer.is_empty() {
            self.partial_since.get_or_insert_with(Instant::now);
        }
    }

    /// Passes on the beginning of a line that waits for its end.
    pub(crate) fn flush(&mut self) {
        self.partial_since = None;
        if !self.buffer.is_empty() {
            let data = std::mem::take(&mut self.buffer);
            let printer = InputLabel::printer(self.label.as_ref(), self.seat.options().kind.name());
            self.backlog.push(self.stream, &data, &printer);
            let container = self.container.clone();
            self.seat.sink().emit(Event::ContainerOutput { container, stream: self.stream, data, printer });
        }
    }
}
