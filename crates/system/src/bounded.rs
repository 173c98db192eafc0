//! Helper programs of this machine that speak with strangers: what they may take is limited.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Signal, pidfd_open, pidfd_send_signal};

use crate::lower;

/// What a helper may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most bytes of private memory, per process.
    pub memory_bytes: u64,
    /// Most bytes of one file that it writes.
    pub file_bytes: u64,
    /// Most bytes of what it says, per stream.
    pub output_bytes: usize,
    /// Longest time that it runs.
    pub time: Duration,
}

impl Bounds {
    /// Far above what package tools need for large environments, far below what hurts the machine.
    pub const PACKAGE_TOOL: Self =
        Self { memory_bytes: 3 << 30, file_bytes: 16 << 30, output_bytes: 16 << 20, time: Duration::from_mins(30) };
}

/// How a helper ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its status.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
    /// What it wanted too much of, in words.
    pub exceeded: Option<String>,
}

/// Ends a helper.
#[derive(Debug)]
pub struct Killer(OwnedFd);

impl Killer {
    /// Kills it, if it runs still.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
    }
}

/// Runs a program to its end, without input. `started` gets what ends it early; what it returns is kept until the end.
///
/// # Errors
/// When it cannot be started or waited for.
pub fn run_bounded<G>(
    command: &mut Command,
    bounds: &Bounds,
    started: impl FnOnce(Killer) -> G,
) -> io::Result<Outcome> {
    run_bounded_with(command, Stdio::null(), bounds, started)
}

/// As [`run_bounded`], with this as its input.
///
/// # Errors
/// As [`run_bounded`].
pub fn run_bounded_with<G>(
    command: &mut Command,
    input: Stdio,
    bounds: &Bounds,
    started: impl FnOnce(Killer) -> G,
) -> io::Result<Outcome> {
    let Bounds { memory_bytes, file_bytes, .. } = *bounds;
    let limit = move || {
        lower(Resource::Core, 0)?;
        lower(Resource::Data, memory_bytes)?;
        lower(Resource::Fsize, file_bytes)?;
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only, allocates nothing and takes no lock.
    unsafe { command.pre_exec(limit) };
    let child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut helper = Helper { child };
    let handle = pidfd_open(Pid::from_child(&helper.child), PidfdFlags::empty())?;
    let guard = started(Killer(handle));
    let (streams, mut exceeded) = helper.listen(bounds)?;
    let status = helper.child.wait()?;
    drop(guard);
    let [stdout, stderr] = streams;
    // Neither an allocator nor a Rust program has another way to say that there is no memory.
    if status.signal() == Some(Signal::ABORT.as_raw()) && exceeded.is_none() {
        exceeded = Some(format!("more than {} MiB of memory", memory_bytes >> 20));
    }
    if status.signal() == Some(Signal::XFSZ.as_raw()) {
        exceeded = Some(format!("a file of more than {} MiB", file_bytes >> 20));
    }
    Ok(Outcome { status, stdout, stderr, exceeded })
}

/// A child that does not outlive its owner.
struct Helper {
    child: Child,
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Nothing to do where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Helper {
    /// Reads both streams to their ends; what takes too long or says too much is killed.
    fn listen(&mut self, bounds: &Bounds) -> io::Result<([Vec<u8>; 2], Option<String>)> {
        let end = Instant::now() + bounds.time;
        let stdout = self.child.stdout.take().map(OwnedFd::from);
        let stderr = self.child.stderr.take().map(OwnedFd::from);
        let mut pipes = [stdout, stderr].map(|pipe| pipe.map(std::fs::File::from));
        let mut said = [Vec::new(), Vec::new()];
        let mut buffer = vec![0; 64 << 10];
        while pipes.iter().any(Option::is_some) {
            let left = end.saturating_duration_since(Instant::now());
            let open: Vec<usize> = (0..pipes.len()).filter(|index| pipes[*index].is_some()).collect();
            let mut polled: Vec<PollFd<'_>> =
                pipes.iter().flatten().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)).collect();
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            if !left.is_zero() {
                match poll(&mut polled, Some(&timeout)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let ready: Vec<usize> = open
                .iter()
                .zip(&polled)
                .filter(|(_, one)| !one.revents().is_empty())
                .map(|(index, _)| *index)
                .collect();
            let mut exceeded = None;
            for index in ready {
                let Some(pipe) = &mut pipes[index] else { continue };
                match pipe.read(&mut buffer)? {
                    0 => pipes[index] = None,
                    count => said[index].extend_from_slice(&buffer[..count]),
                }
                if said[index].len() > bounds.output_bytes {
                    exceeded = Some(format!("more than {} MiB of output", bounds.output_bytes >> 20));
                }
            }
            if Instant::now() >= end {
                exceeded = Some(format!("more than {} minutes", bounds.time.as_secs() / 60));
            }
            if exceeded.is_some() {
                let _ = self.child.kill();
                return Ok((said, exceeded));
            }
        }
        Ok((said, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, bounds: Bounds) -> Outcome {
        run_bounded(Command::new("/bin/sh").args(["-c", script]), &bounds, |killer| killer).unwrap()
    }

    #[test]
    fn what_a_helper_says_is_heard() {
        let outcome = run("echo one; echo two >&2; exit 3", Bounds::PACKAGE_TOOL);
        assert_eq!((outcome.stdout.as_slice(), outcome.stderr.as_slice()), (&b"one\n"[..], &b"two\n"[..]));
        assert_eq!((outcome.status.code(), outcome.exceeded), (Some(3), None));
    }

    #[test]
    fn a_helper_that_takes_too_much_ends() {
        let endless = run("exec yes", Bounds { output_bytes: 1 << 20, ..Bounds::PACKAGE_TOOL });
        assert_eq!(endless.exceeded.as_deref(), Some("more than 1 MiB of output"));
        let slow = run("exec sleep 60", Bounds { time: Duration::from_millis(50), ..Bounds::PACKAGE_TOOL });
        assert_eq!(slow.exceeded.as_deref(), Some("more than 0 minutes"));
        assert_eq!(run("ulimit -d", Bounds { memory_bytes: 1 << 30, ..Bounds::PACKAGE_TOOL }).stdout, b"1048576\n");
        let aborted = run("kill -ABRT $$", Bounds::PACKAGE_TOOL);
        assert_eq!(aborted.exceeded.as_deref(), Some("more than 3072 MiB of memory"));
    }

    #[test]
    fn a_helper_can_be_ended_early() {
        let outcome = run_bounded(Command::new("/bin/sleep").arg("60"), &Bounds::PACKAGE_TOOL, |killer| killer.kill());
        assert_eq!(outcome.unwrap().status.signal(), Some(9));
    }
}
