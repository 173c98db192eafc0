//! The sending half of a connection.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::frame::Header;
use crate::{MAXIMUM_FDS, MEMORY_THRESHOLD, Payload, WireError, write_memory};

/// Sends frames. Clones share the socket; a frame is never torn apart by another one.
#[derive(Debug, Clone)]
pub struct Sender {
    socket: Arc<Mutex<UnixStream>>,
}

impl Sender {
    /// Sends on `socket`.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { socket: Arc::new(Mutex::new(socket)) }
    }

    /// Sends a frame; a payload above [`MEMORY_THRESHOLD`] goes into a memfd.
    ///
    /// # Errors
    /// When the peer is gone or too many descriptors are given.
    pub fn send(&self, control: &[u8], payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        if payload.len() > MEMORY_THRESHOLD {
            let memory = write_memory(payload)?;
            return self.send_memory(control, memory.as_fd(), payload.len() as u64, fds);
        }
        self.transmit(control, payload, payload.len() as u64, fds, false)
    }

    /// Sends a frame on with the payload as it came, without copying what travels in a memfd.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn forward(&self, control: &[u8], payload: &Payload) -> Result<(), WireError> {
        match payload {
            Payload::Inline(bytes) => self.send(control, bytes, &[]),
            Payload::Memory(fd, length) => self.send_memory(control, fd.as_fd(), *length, &[]),
        }
    }

    /// Ends the connection in both directions; the peer sees its end.
    pub fn shutdown(&self) {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // The peer may already be gone, which is what is wanted.
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }

    fn send_memory(
        &self,
        control: &[u8],
        memory: BorrowedFd<'_>,
        length: u64,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), WireError> {
        let all: Vec<BorrowedFd<'_>> = fds.iter().copied().chain([memory]).collect();
        self.transmit(control, &[], length, &all, true)
    }

    fn transmit(
        &self,
        control: &[u8],
        inline: &[u8],
        payload_length: u64,
        fds: &[BorrowedFd<'_>],
        memory: bool,
    ) -> Result<(), WireError> {
        if fds.len() > MAXIMUM_FDS + usize::from(memory) {
            return Err(WireError::TooManyDescriptors(fds.len()));
        }
        let control_length = u32::try_from(control.len()).map_err(|_| WireError::TooLong(control.len() as u64))?;
        let fd_count = u8::try_from(fds.len()).map_err(|_| WireError::TooManyDescriptors(fds.len()))?;
        let header = Header { memory, fd_count, control_length, payload_length }.encode();
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send_all(&socket, [&header, control, inline], fds)
    }
}

/// Writes all parts; the descriptors ride on the first byte.
fn send_all(socket: &UnixStream, mut parts: [&[u8]; 3], mut fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
    while parts.iter().any(|part| !part.is_empty()) {
        let slices = parts.map(IoSlice::new);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        match rustix::net::sendmsg(socket, &slices, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(sent) => {
                fds = &[];
                advance(&mut parts, sent);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Drops the first `count` bytes of `parts`.
pub(crate) fn advance(parts: &mut [&[u8]], mut count: usize) {
    for part in parts {
        let taken = count.min(part.len());
        *part = &part[taken..];
        count -= taken;
    }
}
