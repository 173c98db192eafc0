//! Network namespaces.

use std::ffi::c_char;
use std::os::fd::AsRawFd;
use std::ptr;

use rustix::io::Errno;

use crate::check;

/// Brings the loopback interface of the network namespace up.
///
/// # Errors
/// What the kernel says.
pub fn raise_loopback() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all fields are integers or unions of them, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *target = byte.cast_signed() as c_char;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    // SAFETY: the request is a filled `ifreq`, which this call reads.
    check(libc::c_long::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, ptr::from_ref(&request)) }))?;
    Ok(())
}
