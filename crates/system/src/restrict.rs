//! What a process gives up for good: system calls (seccomp), abstract sockets of others (Landlock).

use std::ffi::{c_ulong, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

use crate::check;

/// Installs a seccomp filter on the calling process.
///
/// # Errors
/// What the kernel says.
pub fn install_filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the header points to `len` instructions, which the kernel only reads.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, ptr::from_ref(&header)) })?;
    Ok(())
}

/// Asks the kernel which version of Landlock it has.
///
/// # Errors
/// What the kernel says.
pub fn landlock_version() -> Result<i64, Errno> {
    const CREATE_RULESET_VERSION: c_ulong = 1;
    // SAFETY: with this flag the kernel takes no structure.
    check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<c_void>(), 0, CREATE_RULESET_VERSION) })
}

/// The kernel's `struct landlock_ruleset_attr`, up to the version that knows scopes.
#[repr(C)]
struct RulesetAttributes {
    handled_files: u64,
    handled_network: u64,
    scoped: u64,
}

/// Keeps the calling process from connecting to abstract unix sockets of processes outside.
///
/// # Errors
/// What the kernel says.
pub fn landlock_scope_abstract_sockets() -> Result<(), Errno> {
    const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
    let attributes = RulesetAttributes { handled_files: 0, handled_network: 0, scoped: SCOPE_ABSTRACT_UNIX_SOCKET };
    // SAFETY: the structure has the size that is given.
    let ruleset = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::from_ref(&attributes), size_of::<RulesetAttributes>(), 0)
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    let ruleset = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(ruleset).map_err(|_| Errno::BADF)?) };
    // SAFETY: takes integers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    Ok(())
}
