//! Descriptors by their numbers: across `execve`, and from the parent process.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;

use crate::check;

/// Closes every descriptor from `first` on when the next program is executed.
pub fn close_on_exec_from(first: c_int) {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: takes integers only. Kernels before 5.11 refuse; every descriptor is opened close-on-exec anyway.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
}

/// Makes `fd` the descriptor `number`, open across the next `execve`.
///
/// # Errors
/// What the kernel says.
pub fn place_descriptor(fd: BorrowedFd<'_>, number: c_int) -> Result<(), Errno> {
    // SAFETY: the source is open; whatever the target number was is given up on purpose.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), number) }))?;
    Ok(())
}

/// Takes over a descriptor that this process inherited under `number`.
///
/// # Errors
/// What the kernel says.
pub fn inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: takes integers only; the answer says whether the descriptor is open.
    check(libc::c_long::from(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }))?;
    // SAFETY: it is open, and the program that executed this one has handed it over by its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes over the socket that this process inherited under a number, which its parent told it by other means. It is
/// closed on exec from now on.
///
/// # Errors
/// When nothing is open under the number, or no unix socket.
pub fn inherited_socket(number: RawFd) -> io::Result<UnixStream> {
    let socket = UnixStream::from(inherited(number)?);
    socket.peer_addr()?;
    Ok(socket)
}
