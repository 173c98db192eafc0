//! What a detached app prints: standard output and error of this process, and of those it starts, as a record.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::thread::JoinHandle;

use lamina_events::Stream;
use lamina_ground::null_device;
use rustix::event::{PollFd, PollFlags, poll};

use crate::OutputWriter;

/// The record in the making.
#[derive(Debug)]
pub struct Recording {
    stop: PipeWriter,
    thread: JoinHandle<()>,
}

impl Recording {
    /// Records everything from now on.
    ///
    /// # Errors
    /// When there are no further descriptors or threads.
    pub fn start(mut output: OutputWriter) -> io::Result<Self> {
        let (from_stdout, stdout) = io::pipe()?;
        let (from_stderr, stderr) = io::pipe()?;
        let (stopped, stop) = io::pipe()?;
        rustix::stdio::dup2_stdout(&stdout)?;
        rustix::stdio::dup2_stderr(&stderr)?;
        let sources = vec![(Stream::Stdout, from_stdout), (Stream::Stderr, from_stderr)];
        let thread = std::thread::spawn(move || record(sources, &stopped, |stream, data| output.write(stream, data)));
        Ok(Self { stop, thread })
    }

    /// Records what was printed so far, and no more. A process that was left behind may hold the streams open, and write.
    pub fn finish(self) {
        // Where they stay what they are, what is printed from here on is lost in the same way.
        if let Ok(nothing) = null_device() {
            let _ = rustix::stdio::dup2_stdout(&nothing);
            let _ = rustix::stdio::dup2_stderr(&nothing);
        }
        drop(self.stop);
        // A thread that panicked has nothing more to record.
        let _ = self.thread.join();
    }
}

/// Hands everything that comes on to `write`, and after the stop what was there before it.
fn record(mut sources: Vec<(Stream, PipeReader)>, stopped: &PipeReader, mut write: impl FnMut(Stream, &[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while !sources.is_empty() {
        let ready: Vec<bool> = {
            let descriptors = sources.iter().map(|(_, source)| source.as_fd()).chain([stopped.as_fd()]);
            let descriptors: Vec<_> = descriptors.collect();
            let mut polled: Vec<_> = descriptors.iter().map(|one| PollFd::new(one, PollFlags::IN)).collect();
            if poll(&mut polled, None).is_err() {
                continue;
            }
            polled.iter().map(|entry| !entry.revents().is_empty()).collect()
        };
        let (ready, stop) = ready.split_at(sources.len());
        if stop.contains(&true) {
            for (stream, source) in sources {
                let left = rustix::io::ioctl_fionread(&source).unwrap_or(0);
                let mut source = source.take(left);
                while let Ok(count @ 1..) = read(&mut source, &mut buffer) {
                    write(stream, &buffer[..count]);
                }
            }
            return;
        }
        let mut ready = ready.iter();
        sources.retain_mut(|(stream, source)| {
            if ready.next() != Some(&true) {
                return true;
            }
            let Ok(count @ 1..) = read(source, &mut buffer) else { return false };
            write(*stream, &buffer[..count]);
            true
        });
    }
}

fn read(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn who_goes_on_writing_does_not_keep_the_end_waiting() {
        let ((from_stdout, mut stdout), (from_stderr, mut stderr)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let (stopped, stop) = io::pipe().unwrap();
        stdout.write_all(b"one").unwrap();
        stderr.write_all(b"two").unwrap();
        drop(stop);
        let mut recorded = Vec::new();
        let sources = vec![(Stream::Stdout, from_stdout), (Stream::Stderr, from_stderr)];
        record(sources, &stopped, |stream, data| {
            assert!(recorded.len() < 100, "it does not end");
            recorded.push((stream, String::from_utf8_lossy(data).into_owned()));
            if stream == Stream::Stdout {
                stdout.write_all(b"more").unwrap();
            }
        });
        assert_eq!(recorded, [(Stream::Stdout, "one".to_owned()), (Stream::Stderr, "two".to_owned())]);
    }
}
