//! The receiving half of a connection.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::frame::Header;
use crate::{Frame, HEADER_LENGTH, MAXIMUM_FDS, Payload, WireError};

/// Bytes asked of the kernel at once; most frames fit, so that one system call brings a whole frame.
const READ_SIZE: usize = 64 << 10;
/// Most memory taken for a part before it has arrived.
const GROWTH_STEP: usize = 4 << 20;
/// Descriptors that may wait for their frame: guards against a peer that sends them without announcing them.
const MAXIMUM_UNCLAIMED_FDS: usize = 4 * MAXIMUM_FDS;

/// Receives frames.
#[derive(Debug)]
pub struct Receiver {
    socket: UnixStream,
    /// Always at full length, so that it is zeroed once and not before every read; `start..end` is unread.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Descriptors in order of arrival; a header says how many of them are its frame's.
    fds: VecDeque<OwnedFd>,
}

impl Receiver {
    /// Receives from `socket`.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, buffer: vec![0; READ_SIZE], start: 0, end: 0, fds: VecDeque::new() }
    }

    /// Waits for the next frame; `None` when the peer has closed the connection between frames.
    ///
    /// # Errors
    /// When the connection ends inside a frame, fails, or carries something that is no frame of this version.
    pub fn receive(&mut self) -> Result<Option<Frame>, WireError> {
        if !self.fill(HEADER_LENGTH)? {
            return Ok(None);
        }
        let mut header = [0; HEADER_LENGTH];
        header.copy_from_slice(&self.buffer[self.start..self.start + HEADER_LENGTH]);
        self.start += HEADER_LENGTH;
        let header = Header::decode(header)?;
        let control = self.take(u64::from(header.control_length))?;
        let inline = if header.memory { Vec::new() } else { self.take(header.payload_length)? };
        let expected = usize::from(header.fd_count);
        if self.fds.len() < expected {
            return Err(WireError::MissingDescriptors { expected, found: self.fds.len() });
        }
        let mut fds: Vec<OwnedFd> = self.fds.drain(..expected).collect();
        let payload = match (header.memory, header.memory.then(|| fds.pop()).flatten()) {
            (true, Some(fd)) => Payload::Memory(fd, header.payload_length),
            (true, None) => return Err(WireError::MissingDescriptors { expected: 1, found: 0 }),
            (false, _) => Payload::Inline(inline),
        };
        Ok(Some(Frame { control, payload, fds }))
    }

    /// Whether bytes of a further frame were read already; polling the socket does not show those.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        self.start < self.end
    }

    /// Takes `length` bytes off the stream.
    fn take(&mut self, length: u64) -> Result<Vec<u8>, WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::TooLong(length))?;
        let mut taken = Vec::with_capacity(length.min(GROWTH_STEP));
        while taken.len() < length {
            if self.start == self.end && !self.fill(1)? {
                return Err(WireError::Truncated);
            }
            let count = (self.end - self.start).min(length - taken.len());
            taken.extend_from_slice(&self.buffer[self.start..self.start + count]);
            self.start += count;
        }
        Ok(taken)
    }

    /// Reads until `wanted` bytes are buffered; false when the peer closed before the first of them.
    fn fill(&mut self, wanted: usize) -> Result<bool, WireError> {
        if self.end - self.start >= wanted {
            return Ok(true);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < wanted {
            match (self.read()?, self.end) {
                (0, 0) => return Ok(false),
                (0, _) => return Err(WireError::Truncated),
                (count, _) => self.end += count,
            }
        }
        Ok(true)
    }

    /// Reads what the socket holds behind the unread bytes.
    fn read(&mut self) -> Result<usize, WireError> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut self.buffer[self.end..])];
            match rustix::net::recvmsg(&self.socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => {
                    for received in ancillary.drain() {
                        if let RecvAncillaryMessage::ScmRights(fds) = received {
                            self.fds.extend(fds);
                        }
                    }
                    if self.fds.len() > MAXIMUM_UNCLAIMED_FDS {
                        return Err(WireError::TooManyDescriptors(self.fds.len()));
                    }
                    return Ok(message.bytes);
                }
                Err(Errno::INTR) => {}
                // A peer that died with unread data in its socket is a peer that closed.
                Err(Errno::CONNRESET) => return Ok(0),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
