//! Standard output and standard error that wait for their reader, also where somebody who shares them has made them
//! non-blocking: what does not fit now is not lost.

use std::io::{self, ErrorKind, Stderr, Stdout, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// A stream that waits.
pub(crate) struct Patient<W>(W);

/// Standard output.
pub(crate) fn stdout() -> Patient<Stdout> {
    Patient(io::stdout())
}

/// Standard error.
pub(crate) fn stderr() -> Patient<Stderr> {
    Patient(io::stderr())
}

impl<W: AsFd> Patient<W> {
    /// Does something, again and again until the stream takes it.
    fn insist<T>(&mut self, mut action: impl FnMut(&mut W) -> io::Result<T>) -> io::Result<T> {
        loop {
            match action(&mut self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait()?,
                outcome => return outcome,
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl<W: Write + AsFd> Write for Patient<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.insist(|stream| stream.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.insist(Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_reader_that_is_slow_gets_everything() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let thread = std::thread::spawn(move || {
            let mut patient = Patient(writer);
            patient.write_all(&sent).and_then(|()| patient.flush()).unwrap();
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        thread.join().unwrap();
        assert!(received == expected);
    }
}
