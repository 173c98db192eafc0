//! Sockets that the parent process left open for this one.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use crate::sys;

/// Takes over the socket that this process inherited under a number, which its parent told it by other means. It is
/// closed on exec from now on.
///
/// # Errors
/// When nothing is open under the number, or no unix socket.
pub fn inherited_socket(number: RawFd) -> io::Result<UnixStream> {
    let socket = UnixStream::from(sys::inherited(number)?);
    socket.peer_addr()?;
    Ok(socket)
}
