//! What a detached app prints: standard output and error of this process, and of those it starts, as a record.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use lamina_ground::{microseconds_since_1970, null_device};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{LogEntry, LogWriter, Source};

/// The record in the making.
#[derive(Debug)]
pub struct Recording {
    recorder: Arc<Recorder>,
    stop: PipeWriter,
    thread: JoinHandle<()>,
}

impl Recording {
    /// Records everything from now on that this process and those it starts write to standard output and error, as coming
    /// from these two sources.
    ///
    /// # Errors
    /// When there are no further descriptors or threads.
    pub fn start(log: LogWriter, sources: [Source; 2]) -> io::Result<Self> {
        let (from_stdout, stdout) = io::pipe()?;
        let (from_stderr, stderr) = io::pipe()?;
        let (stopped, stop) = io::pipe()?;
        let pipes = [from_stdout.try_clone()?, from_stderr.try_clone()?];
        let recorder = Arc::new(Recorder::new(sources.into_iter().zip([from_stdout, from_stderr]), log));
        rustix::stdio::dup2_stdout(&stdout)?;
        rustix::stdio::dup2_stderr(&stderr)?;
        let recording = Arc::clone(&recorder);
        let thread = std::thread::spawn(move || recording.record(pipes.into(), &stopped));
        Ok(Self { recorder, stop, thread })
    }

    /// What records everything else.
    #[must_use]
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
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

/// Writes to the log of an app, in the order in which things happen: what the pipes hold comes before what follows from it.
#[derive(Debug)]
pub struct Recorder {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    pipes: Vec<(Source, PipeReader)>,
    log: LogWriter,
    buffer: Vec<u8>,
}

impl Recorder {
    fn new(pipes: impl Iterator<Item = (Source, PipeReader)>, log: LogWriter) -> Self {
        Self { inner: Mutex::new(Inner { pipes: pipes.collect(), log, buffer: vec![0; 64 << 10] }) }
    }

    /// Records an entry; one without a time came now.
    pub fn write(&self, mut entry: LogEntry) {
        let mut inner = self.lock();
        inner.take_printed();
        entry.time = entry.time.or_else(|| Some(microseconds_since_1970()));
        inner.log.write(&entry);
    }

    /// Records what comes through the pipes, until they are closed, or the stop and what was there before it.
    fn record(&self, mut pipes: Vec<PipeReader>, stopped: &PipeReader) {
        while !pipes.is_empty() {
            let ready: Vec<PollFlags> = {
                let descriptors: Vec<_> = pipes.iter().map(AsFd::as_fd).chain([stopped.as_fd()]).collect();
                let mut polled: Vec<_> = descriptors.iter().map(|one| PollFd::new(one, PollFlags::IN)).collect();
                if poll(&mut polled, None).is_err() {
                    continue;
                }
                polled.iter().map(PollFd::revents).collect()
            };
            self.lock().take_printed();
            let (ready, stop) = ready.split_at(pipes.len());
            if stop.iter().any(|stop| !stop.is_empty()) {
                return;
            }
            // One that nobody writes to any more is closed when it is empty.
            let mut ready = ready.iter();
            pipes.retain(|_| ready.next().is_some_and(|ready| ready.contains(PollFlags::IN) || ready.is_empty()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Takes what the pipes hold now.
    fn take_printed(&mut self) {
        let Self { pipes, log, buffer } = self;
        for (source, pipe) in pipes {
            let mut pipe = &*pipe;
            let left = rustix::io::ioctl_fionread(pipe).unwrap_or(0);
            let mut pipe = (&mut pipe).take(left);
            while let Ok(count @ 1..) = read(&mut pipe, buffer) {
                log.write(&LogEntry::new(Some(microseconds_since_1970()), *source, &buffer[..count]));
            }
        }
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
    use std::ops::ControlFlow;

    use super::*;
    use crate::LogReader;

    /// What was recorded.
    type Recorded = Vec<(Source, String)>;

    /// A recorder, ends of pipes to print to, those that are polled, and what was recorded.
    fn bench() -> (Recorder, [PipeWriter; 2], Vec<PipeReader>, impl Fn() -> Recorded) {
        let directory = tempfile::tempdir().unwrap();
        let (log, earlier) = (directory.path().join("log"), directory.path().join("output"));
        LogWriter::prepare(&log, false).unwrap();
        let writer = LogWriter::open(&log, &earlier).unwrap();
        let ((from_stdout, stdout), (from_stderr, stderr)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let polled = vec![from_stdout.try_clone().unwrap(), from_stderr.try_clone().unwrap()];
        let pipes = [(Source::Stdout, from_stdout), (Source::Stderr, from_stderr)];
        let recorder = Recorder::new(pipes.into_iter(), writer);
        let recorded = move || {
            let _keep = &directory;
            let mut entries = Vec::new();
            let mut reader = LogReader::new(log.clone(), earlier.clone(), None);
            let _ = reader.read(&mut |entry| {
                assert!(entry.time.is_some());
                entries.push((entry.source, String::from_utf8_lossy(&entry.data).into_owned()));
                ControlFlow::Continue(())
            });
            entries
        };
        (recorder, [stdout, stderr], polled, recorded)
    }

    #[test]
    fn who_goes_on_writing_does_not_keep_the_end_waiting() {
        let (recorder, [mut stdout, mut stderr], polled, recorded) = bench();
        let (stopped, stop) = io::pipe().unwrap();
        stdout.write_all(b"one").unwrap();
        stderr.write_all(b"two").unwrap();
        drop(stop);
        recorder.record(polled, &stopped);
        assert_eq!(recorded(), [(Source::Stdout, "one".to_owned()), (Source::Stderr, "two".to_owned())]);
    }

    #[test]
    fn recording_ends_when_nobody_can_print_any_more() {
        let (recorder, [mut stdout, stderr], polled, recorded) = bench();
        let (stopped, _stop) = io::pipe().unwrap();
        stdout.write_all(b"one").unwrap();
        drop((stdout, stderr));
        recorder.record(polled, &stopped);
        assert_eq!(recorded(), [(Source::Stdout, "one".to_owned())]);
    }

    #[test]
    fn what_was_printed_before_comes_before_what_follows_from_it() {
        let (recorder, [mut stdout, _stderr], _polled, recorded) = bench();
        stdout.write_all(b"before\n").unwrap();
        recorder.write(LogEntry::new(None, Source::System, "after\n"));
        assert_eq!(recorded(), [(Source::Stdout, "before\n".to_owned()), (Source::System, "after\n".to_owned())]);
    }
}
