//! Making processes, and becoming another program.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use crate::{check, last_error};

/// What a process sees after it was split in two.
#[derive(Debug)]
pub enum Side {
    /// The new process.
    Child,
    /// The old one.
    Parent {
        /// The new process's id.
        pid: u32,
        /// A descriptor of the new process.
        pidfd: OwnedFd,
    },
}

/// Splits the process in two; `flags` are `CLONE_NEW*` flags. The parent is told of the child's end by `SIGCHLD`.
/// The caller has one thread.
///
/// # Errors
/// What the kernel says.
pub fn split(flags: c_int) -> Result<Side, Errno> {
    debug_assert!(has_one_thread(), "a lock that another thread holds stays locked in the child");
    let mut pidfd: RawFd = -1;
    // SAFETY: all fields are integers, for which zero is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(flags.cast_unsigned()) | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    arguments.pidfd = ptr::from_mut(&mut pidfd) as u64;
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: without CLONE_VM the child gets a copy of the address space, as after fork, and continues on the copied
    // stack; the caller has one thread, so no lock can be left held in the child.
    let result = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(&arguments), size_of::<libc::clone_args>()) };
    match check(result)? {
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent {
            pid: u32::try_from(pid).map_err(|_| Errno::RANGE)?,
            // SAFETY: the kernel has just made this descriptor for us.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// `fork` of the C library, for a child that will use threads, or where `clone3` is refused. The id of the child; nothing in
/// the child itself. The caller has one thread.
///
/// # Errors
/// What the kernel says.
pub fn fork() -> Result<Option<Pid>, Errno> {
    debug_assert!(has_one_thread(), "a lock that another thread holds stays locked in the child");
    // SAFETY: the caller has one thread.
    let pid = check(libc::c_long::from(unsafe { libc::fork() }))?;
    Ok(pid.try_into().ok().and_then(Pid::from_raw))
}

/// Whether the process has one thread; also if there is no `/proc` to tell.
fn has_one_thread() -> bool {
    rustix::fs::stat("/proc/self/task").map_or(true, |tasks| tasks.st_nlink <= 3)
}

/// Gives the calling process, which has one thread, namespaces of its own.
///
/// # Errors
/// What the kernel says.
pub fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    debug_assert!(has_one_thread(), "the other threads would keep the former namespaces");
    // SAFETY: callers ask for namespaces, which leave memory and descriptors shared as they are.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Ends the process at once, without destructors or exit handlers.
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: always sound.
    unsafe { libc::_exit(code) }
}

/// Pointers to `strings` with the closing null, as `execve` wants them.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Replaces the program by the one at `path`; returns only on failure.
#[must_use]
pub fn execute(path: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: all pointers are to live, terminated strings, the arrays end with null.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    last_error()
}

/// Replaces the program by the file behind `program`; returns only on failure.
#[must_use]
pub fn execute_file(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> Errno {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: as in `execute`; the path is empty and AT_EMPTY_PATH names the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_error()
}

/// Resident set of the largest of all children that were waited for, in KiB.
#[must_use]
pub fn children_max_rss_kib() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure, for which zero is valid anyhow.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_maxrss).unwrap_or(0)
}

/// Kills every process that the caller may kill, itself excepted. Only for pid 1 of a sandbox.
///
/// # Errors
/// What the kernel says.
pub fn kill_all() -> Result<(), Errno> {
    // SAFETY: takes integers only.
    check(libc::c_long::from(unsafe { libc::kill(-1, libc::SIGKILL) }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "another thread"))]
    fn a_process_of_several_threads_is_not_split() {
        // A test runs in a thread beside the main one.
        assert!(!has_one_thread());
        if cfg!(debug_assertions) {
            let _ = split(0);
        }
    }
}
