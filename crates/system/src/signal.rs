//! How signals are taken: dispositions, masks, and descriptors that read as they arrive.

use std::ffi::{c_int, c_ulong, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

use crate::check;

/// What a process does with a signal from now on.
#[derive(Debug, Clone, Copy)]
pub enum Disposition {
    /// What the kernel does by itself.
    Default,
    /// Nothing.
    Ignore,
}

/// The kernel's `struct sigaction`.
#[repr(C)]
struct Action {
    handler: usize,
    flags: c_ulong,
    restorer: usize,
    mask: u64,
}

/// Sets the disposition of `signal`.
pub fn set_disposition(signal: c_int, disposition: Disposition) {
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
    };
    let action = Action { handler, flags: 0, restorer: 0, mask: 0 };
    // Not by the C library, which keeps two signals to itself; a parent may have ignored those as well.
    // SAFETY: both handlers are the kernel's own and need no restorer; the set of signals has the size that is given. It
    // fails only for signals that cannot be changed, which is fine.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            ptr::from_ref(&action),
            ptr::null_mut::<c_void>(),
            size_of::<u64>(),
        )
    };
}

/// A set of signals.
fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` fills the set; `sigaddset` changes a filled one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Blocks exactly `signals`.
pub fn block_signals(signals: &[c_int]) {
    let set = signal_set(signals);
    // SAFETY: the set is filled; the old one is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
}

/// Runs `action` while the calling thread does not take `signals`: they wait, and processes that it starts begin with
/// them blocked.
pub fn while_blocked<T>(signals: &[c_int], action: impl FnOnce() -> T) -> T {
    let set = signal_set(signals);
    let mut before = signal_set(&[]);
    // SAFETY: both sets are filled.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) };
    let outcome = action();
    // SAFETY: the set is what the kernel has given.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    outcome
}

/// A descriptor that reads as `signals` arrive; they must be blocked.
///
/// # Errors
/// What the kernel says.
pub fn signal_descriptor(signals: &[c_int]) -> Result<OwnedFd, Errno> {
    let set = signal_set(signals);
    // SAFETY: the set is filled.
    let fd = check(libc::c_long::from(unsafe {
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    }))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::BADF)?) })
}

/// The next signal that waits in a descriptor of [`signal_descriptor`].
pub fn next_signal(descriptor: &OwnedFd) -> Option<c_int> {
    let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let count = rustix::io::read(descriptor, &mut buffer[..]).ok()?;
    let number = buffer.get(..4).filter(|_| count == buffer.len())?;
    number.try_into().ok().map(c_int::from_ne_bytes)
}
