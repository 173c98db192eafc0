//! Parts of files.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

use crate::download::WORTHWHILE;
use crate::exchange::{Exchange, Failure, Header, Received};
use crate::{Client, FetchError, Progress};

const BUFFER_LENGTH: usize = 256 << 10;
/// The status of an answer with a part of a file.
const PARTIAL_CONTENT: u16 = 206;

impl Client {
    /// Appends a part of what is at an address to a file: these bytes of it. A server that knows no parts gives the whole, of which
    /// the rest is left aside; where the way breaks, only
    /// what is still missing is asked for. `progress` hears of bytes that came.
    ///
    /// # Errors
    /// When the server refuses or has not that much, the network fails for good, or the file cannot be written.
    pub fn get_part(
        &self,
        url: &str,
        part: Range<u64>,
        into: &mut File,
        progress: Progress<'_>,
    ) -> Result<(), FetchError> {
        self.append(url, part, into, progress, true).map(drop)
    }

    /// As [`Self::get_part`], but only from a server that knows parts: false, and the body is left aside, where it gives the whole.
    ///
    /// # Errors
    /// As [`Self::get_part`].
    pub fn get_only_part(
        &self,
        url: &str,
        part: Range<u64>,
        into: &mut File,
        progress: Progress<'_>,
    ) -> Result<bool, FetchError> {
        self.append(url, part, into, progress, false)
    }

    fn append(
        &self,
        url: &str,
        part: Range<u64>,
        into: &mut File,
        progress: Progress<'_>,
        takes_whole: bool,
    ) -> Result<bool, FetchError> {
        if part.is_empty() {
            return Ok(true);
        }
        let begin = into.seek(SeekFrom::End(0))?;
        self.exchange(url, &mut IntoPart { part, into, begin, have: 0, reached: 0, progress, takes_whole })
    }
}

struct IntoPart<'a> {
    part: Range<u64>,
    into: &'a mut File,
    /// Where the part begins in the file.
    begin: u64,
    /// Bytes of it that an attempt before has left.
    have: u64,
    /// How many these were when it was asked for the last time.
    reached: u64,
    progress: Progress<'a>,
    /// Whether a part is cut out of the whole where that comes.
    takes_whole: bool,
}

impl Exchange for IntoPart<'_> {
    /// Whether the part was taken.
    type Output = bool;

    fn headers(&self) -> Vec<Header> {
        let range = format!("bytes={}-{}", self.part.start + self.have, self.part.end - 1);
        // As it is: of what is compressed on the way, nobody knows where it was cut.
        vec![("accept-encoding", "identity".to_owned()), ("range", range)]
    }

    fn receive(&mut self, answer: Received<'_>) -> Result<bool, Failure> {
        if answer.status != PARTIAL_CONTENT && !self.takes_whole {
            return Ok(false);
        }
        let stored = |error: std::io::Error| Failure::Final(FetchError::Io(error));
        let (start, end) = (self.part.start + self.have, self.begin + self.have);
        self.into.set_len(end).and_then(|()| self.into.seek(SeekFrom::Start(end))).map_err(stored)?;
        let mut body = answer.body;
        if answer.status == PARTIAL_CONTENT {
            let range = answer.headers.get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
            if !range.starts_with(&format!("bytes {start}-")) {
                return Err(Failure::passing(format!("it sent the range `{range}`")));
            }
        } else {
            let progress = self.progress;
            copy(&mut (&mut body).take(start), &mut std::io::sink(), progress)?;
        }
        let (have, progress) = (std::cell::Cell::new(self.have), self.progress);
        let copied = copy(&mut body.take(self.part.end - start), &mut self.into, &|count| {
            have.set(have.get() + count);
            progress(count);
        });
        self.have = have.get();
        copied?;
        if self.have < self.part.end - self.part.start {
            return Err(Failure::passing(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)));
        }
        Ok(true)
    }

    fn has_come_further(&mut self) -> bool {
        let has_come_further = self.have >= self.reached + WORTHWHILE;
        self.reached = self.have;
        has_come_further
    }
}

fn copy(from: &mut dyn Read, to: &mut dyn Write, progress: &dyn Fn(u64)) -> Result<(), Failure> {
    let mut buffer = vec![0; BUFFER_LENGTH];
    loop {
        let count = from.read(&mut buffer).map_err(Failure::passing)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).map_err(|error| Failure::Final(FetchError::Io(error)))?;
        progress(count as u64);
    }
}
