//! How slow a download may be: a least speed, a longest time, and an end at once when cancelled.

use std::io::{Error, ErrorKind, Read, Result};
use std::time::{Duration, Instant};

use lamina_events::CancelToken;

/// What a download may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The time over which the speed is measured, and the longest wait for the next bytes.
    pub(crate) window: Duration,
    /// Bytes that have to come in such a time.
    pub(crate) least: u64,
    /// The time for one file, all attempts together.
    pub(crate) total: Duration,
}

impl Default for Limits {
    /// A kibibyte a second over a minute, which a telephone line gives, and two hours in all.
    fn default() -> Self {
        Self { window: Duration::from_mins(1), least: 60 << 10, total: Duration::from_hours(2) }
    }
}

impl Limits {
    /// When a file that begins now has to be there.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline(Instant::now() + self.total)
    }

    /// The time for one file in minutes, for messages.
    pub(crate) fn minutes(&self) -> u64 {
        self.total.as_secs() / 60
    }
}

/// When a file has to be there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// Whether it is over.
    pub(crate) fn is_past(self) -> bool {
        Instant::now() >= self.0
    }
}

/// A body that is read within the limits.
pub(crate) struct Paced<'a, R> {
    body: R,
    limits: &'a Limits,
    deadline: Deadline,
    cancel: &'a CancelToken,
    begin: Instant,
    bytes: u64,
}

impl<'a, R: Read> Paced<'a, R> {
    pub(crate) fn new(body: R, limits: &'a Limits, deadline: Deadline, cancel: &'a CancelToken) -> Self {
        Self { body, limits, deadline, cancel, begin: Instant::now(), bytes: 0 }
    }

    /// Compares what came with what should have come, once a window.
    fn check_speed(&mut self) -> Result<()> {
        if self.begin.elapsed() < self.limits.window {
            return Ok(());
        }
        if self.bytes < self.limits.least {
            let (bytes, seconds) = (self.bytes, self.limits.window.as_secs());
            let message =
                format!("only {bytes} bytes came in {seconds} seconds, and {} are the least", self.limits.least);
            return Err(Error::new(ErrorKind::TimedOut, message));
        }
        (self.begin, self.bytes) = (Instant::now(), 0);
        Ok(())
    }
}

impl<R: Read> Read for Paced<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        // Not `Interrupted`, which readers take for a reason to try again.
        self.cancel.check().map_err(Error::other)?;
        if self.deadline.is_past() {
            return Err(Error::new(ErrorKind::TimedOut, "it was not complete in time"));
        }
        let count = self.body.read(buffer)?;
        // A cancellation ends the connection, which may look like the end of the body.
        self.cancel.check().map_err(Error::other)?;
        self.bytes += count as u64;
        if count > 0 {
            self.check_speed()?;
        }
        Ok(count)
    }
}
