//! Reading an archive ahead: it is decompressed in one thread and hashed in another, beside the one that writes its files.

use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, mpsc};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

/// Bytes of a part.
const PART_LENGTH: usize = 256 << 10;
/// How many parts may wait for whoever takes them.
const MOST_WAITING: usize = 8;

/// Gives `take` what `source` gives. Answers, with what came of that, the SHA-256 of all that was read, in hexadecimal digits:
/// that of the whole source, if `take` has read to its end.
pub(crate) fn read_ahead<T>(source: impl Read + Send, take: impl FnOnce(&mut Ahead) -> T) -> (T, String) {
    let (sender, parts) = mpsc::sync_channel(MOST_WAITING);
    let (to_hash, hashed) = mpsc::sync_channel::<Arc<Part>>(MOST_WAITING);
    std::thread::scope(|scope| {
        let hashing = scope.spawn(move || {
            let mut hasher = Sha256::new();
            for part in hashed {
                hasher.update(part.bytes());
            }
            hasher.finalize()
        });
        scope.spawn(move || send_parts(source, &to_hash, &sender));
        let mut ahead = Ahead { parts, current: None, position: 0 };
        let taken = take(&mut ahead);
        // Whoever still reads is told that nobody wants more.
        drop(ahead);
        let digest = hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (taken, HEXLOWER.encode(&digest))
    })
}

/// Some bytes of an archive, in memory that is used again.
struct Part {
    memory: Vec<u8>,
    length: usize,
    used: mpsc::Sender<Vec<u8>>,
}

impl Part {
    fn bytes(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // At the end nobody uses it again.
        let _ = self.used.send(std::mem::take(&mut self.memory));
    }
}

type Sent = std::io::Result<Arc<Part>>;

fn send_parts(mut source: impl Read, to_hash: &mpsc::SyncSender<Arc<Part>>, sender: &mpsc::SyncSender<Sent>) {
    let (used, free) = mpsc::channel();
    loop {
        let mut memory = free.try_recv().unwrap_or_else(|_| vec![0; PART_LENGTH]);
        let (length, failure) = fill(&mut source, &mut memory);
        if length > 0 {
            let part = Arc::new(Part { memory, length, used: used.clone() });
            if to_hash.send(Arc::clone(&part)).is_err() || sender.send(Ok(part)).is_err() {
                return;
            }
        }
        if let Some(error) = failure {
            let _ = sender.send(Err(error));
            return;
        }
        if length == 0 {
            return;
        }
    }
}

/// Reads until the buffer is full or the source ends or fails.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<std::io::Error>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

/// What was read ahead.
pub(crate) struct Ahead {
    parts: mpsc::Receiver<Sent>,
    current: Option<Arc<Part>>,
    position: usize,
}

impl Ahead {
    /// Writes all that is left, and answers how many bytes that were.
    pub(crate) fn write_to(&mut self, writer: &mut dyn Write) -> std::io::Result<u64> {
        let mut length = 0;
        if let Some(part) = self.current.take() {
            writer.write_all(&part.bytes()[self.position..])?;
            length += (part.length - self.position) as u64;
        }
        while let Ok(part) = self.parts.recv() {
            let part = part?;
            writer.write_all(part.bytes())?;
            length += part.length as u64;
        }
        Ok(length)
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.current.as_ref().map_or(&[][..], |part| &part.bytes()[self.position..]);
        if left.is_empty() && !buffer.is_empty() {
            self.current = None;
            let Ok(next) = self.parts.recv() else { return Ok(0) };
            (self.current, self.position) = (Some(next?), 0);
            return self.read(buffer);
        }
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.position += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        (0..1_000_003_u32).flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn what_is_read_and_hashed_is_all_of_the_source() {
        let sample = sample();
        assert!(sample.len() > 2 * MOST_WAITING.min(4) * PART_LENGTH);
        for source in [&sample[..], &sample[..PART_LENGTH], b"short", b""] {
            let mut found = Vec::new();
            let (taken, digest) = read_ahead(source, |ahead| ahead.read_to_end(&mut found));
            assert_eq!(taken.unwrap(), source.len());
            assert!(found == source);
            assert_eq!(digest, HEXLOWER.encode(&Sha256::digest(source)));
        }
    }

    #[test]
    fn what_is_left_is_written_as_it_is() {
        let sample = sample();
        for already_read in [0, 10, PART_LENGTH] {
            let mut written = vec![0; already_read];
            let (length, digest) = read_ahead(&sample[..], |ahead| {
                ahead.read_exact(&mut written).unwrap();
                ahead.write_to(&mut written)
            });
            assert_eq!(length.unwrap(), (sample.len() - already_read) as u64);
            assert!(written == sample);
            assert_eq!(digest, HEXLOWER.encode(&Sha256::digest(&sample)));
        }
    }

    #[test]
    fn a_failure_comes_behind_what_was_read_before_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(ErrorKind::InvalidData.into())
            }
        }
        let mut found = Vec::new();
        let (taken, _) = read_ahead((&b"begin"[..]).chain(Broken), |ahead| ahead.read_to_end(&mut found));
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(found, b"begin");
    }

    #[test]
    fn an_endless_source_is_left_to_itself() {
        let (taken, _) = read_ahead(std::io::repeat(7), |ahead| ahead.read_exact(&mut [0; 10]));
        taken.unwrap();
    }
}
