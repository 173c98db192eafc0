//! What a detached app prints: standard output and error of this process, and of those it starts, as a record.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::thread::JoinHandle;

use lamina_engine::OutputWriter;
use lamina_events::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The record in the making.
pub(crate) struct Recording {
    stop: PipeWriter,
    thread: JoinHandle<()>,
}

impl Recording {
    /// Records everything from now on.
    pub(crate) fn start(output: OutputWriter) -> io::Result<Self> {
        let (from_stdout, stdout) = io::pipe()?;
        let (from_stderr, stderr) = io::pipe()?;
        let (stopped, stop) = io::pipe()?;
        rustix::stdio::dup2_stdout(&stdout)?;
        rustix::stdio::dup2_stderr(&stderr)?;
        let sources = vec![(Stream::Stdout, from_stdout), (Stream::Stderr, from_stderr)];
        let thread = std::thread::spawn(move || record(sources, &stopped, output));
        Ok(Self { stop, thread })
    }

    /// Records what was printed so far, and no more. A process that was left behind may hold the streams open.
    pub(crate) fn finish(self) -> io::Result<()> {
        let nothing = fs_err::OpenOptions::new().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&nothing)?;
        rustix::stdio::dup2_stderr(&nothing)?;
        drop(self.stop);
        // A thread that panicked has nothing more to record.
        let _ = self.thread.join();
        Ok(())
    }
}

fn record(mut sources: Vec<(Stream, PipeReader)>, stopped: &PipeReader, mut output: OutputWriter) {
    let mut buffer = vec![0; 64 << 10];
    let mut stopping = false;
    while !sources.is_empty() {
        let ready: Vec<bool> = {
            let stop = if stopping { None } else { Some(stopped.as_fd()) };
            let descriptors: Vec<_> = sources.iter().map(|(_, source)| source.as_fd()).chain(stop).collect();
            let mut polled: Vec<_> = descriptors.iter().map(|one| PollFd::new(one, PollFlags::IN)).collect();
            if poll(&mut polled, stopping.then_some(&Timespec::default())).is_err() {
                continue;
            }
            polled.iter().map(|entry| !entry.revents().is_empty()).collect()
        };
        let (ready, stop) = ready.split_at(sources.len());
        if stopping && !ready.contains(&true) {
            return;
        }
        stopping |= stop.contains(&true);
        let mut ready = ready.iter();
        sources.retain_mut(|(stream, source)| {
            if ready.next() != Some(&true) {
                return true;
            }
            match source.read(&mut buffer) {
                Ok(count) => {
                    output.write(*stream, &buffer[..count]);
                    count > 0
                }
                Err(error) => error.kind() == io::ErrorKind::Interrupted,
            }
        });
    }
}
