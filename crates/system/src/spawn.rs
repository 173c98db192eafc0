//! Processes that outlive their parent and its terminal, and processes that do not outlive it in any way.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use crate::{block_signals, close_on_exec_from, while_blocked};

/// Signals that a terminal sends to everybody in its foreground, and SIGTERM.
const SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM];

/// Starts a process in a session of its own: no terminal can signal it. It inherits nothing but its three standard
/// streams, so that nobody who waits for the end of a pipe waits for it.
///
/// # Errors
/// When it cannot be started.
pub fn spawn_apart(command: &mut Command) -> io::Result<Child> {
    let leave = || {
        rustix::process::setsid()?;
        close_on_exec_from(3);
        block_signals(&[]);
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only, allocates nothing and takes no lock.
    unsafe { command.pre_exec(leave) };
    // A signal for the foreground does not meet the new process on its way out.
    while_blocked(&SIGNALS, || command.spawn())
}

/// Starts a process that is killed when the calling thread ends, in whatever way: call it in the main thread. It begins as
/// with [`with_interrupts_blocked`].
///
/// # Errors
/// When it cannot be started.
pub fn spawn_bound(command: &mut Command) -> io::Result<Child> {
    let parent = rustix::process::getpid();
    let bind = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // A parent that ended before has sent nothing.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec it makes system calls only, allocates nothing and takes no lock.
    unsafe { command.pre_exec(bind) };
    with_interrupts_blocked(|| command.spawn())
}

/// Runs `action`, which starts a process that begins with interrupts (SIGINT) blocked: it takes those that came meanwhile
/// when it is ready for them.
pub fn with_interrupts_blocked<T>(action: impl FnOnce() -> T) -> T {
    while_blocked(&[libc::SIGINT], action)
}
