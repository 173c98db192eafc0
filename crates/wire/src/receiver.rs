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
    /// The frame that has begun to arrive.
    partial: Option<Partial>,
    /// Descriptors in order of arrival; a header says how many of them are its frame's.
    fds: VecDeque<OwnedFd>,
}

/// A frame whose header is here.
#[derive(Debug)]
struct Partial {
    header: Header,
    control: Vec<u8>,
    inline: Vec<u8>,
}

/// What a connection has brought so far.
#[derive(Debug)]
pub enum Received {
    /// A frame.
    Frame(Frame),
    /// No frame, or not yet a whole one.
    Incomplete,
    /// The peer has closed the connection between frames.
    Closed,
}

impl Receiver {
    /// Receives from `socket`.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, buffer: vec![0; READ_SIZE], start: 0, end: 0, partial: None, fds: VecDeque::new() }
    }

    /// Waits for the next frame; `None` when the peer has closed the connection between frames.
    ///
    /// # Errors
    /// When the connection ends inside a frame, fails, or carries something that is no frame of this version.
    pub fn receive(&mut self) -> Result<Option<Frame>, WireError> {
        loop {
            match self.advance(RecvFlags::empty())? {
                Received::Frame(frame) => return Ok(Some(frame)),
                Received::Closed => return Ok(None),
                Received::Incomplete => {}
            }
        }
    }

    /// The next frame if it is here, without waiting for any part of it: a peer that sends it byte by byte holds nobody
    /// up.
    ///
    /// # Errors
    /// As for [`Receiver::receive`].
    pub fn receive_available(&mut self) -> Result<Received, WireError> {
        self.advance(RecvFlags::DONTWAIT)
    }

    /// Whether a further frame, or its beginning, was read already; polling the socket does not show those.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        self.end - self.start >= HEADER_LENGTH
    }

    /// Takes the descriptors that have arrived and that no frame has claimed.
    pub fn take_unclaimed(&mut self) -> Vec<OwnedFd> {
        self.fds.drain(..).collect()
    }

    /// Takes what is buffered, then what the socket has, until there is a whole frame.
    fn advance(&mut self, flags: RecvFlags) -> Result<Received, WireError> {
        loop {
            self.take_buffered()?;
            if self.partial.as_ref().is_some_and(Partial::is_whole) {
                return self.finish();
            }
            // What is left is less than a header.
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            match self.read(flags) {
                Ok(0) if self.end == 0 && self.partial.is_none() => return Ok(Received::Closed),
                Ok(0) => return Err(WireError::Truncated),
                Ok(count) => self.end += count,
                Err(WireError::Io(error)) if flags.contains(RecvFlags::DONTWAIT) && is_empty(&error) => {
                    return Ok(Received::Incomplete);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves buffered bytes to the frame that they belong to.
    fn take_buffered(&mut self) -> Result<(), WireError> {
        if self.partial.is_none() && self.end - self.start >= HEADER_LENGTH {
            let mut header = [0; HEADER_LENGTH];
            header.copy_from_slice(&self.buffer[self.start..self.start + HEADER_LENGTH]);
            self.start += HEADER_LENGTH;
            self.partial = Some(Partial::new(Header::decode(header)?));
        }
        if let Some(partial) = &mut self.partial {
            self.start += partial.take(&self.buffer[self.start..self.end]);
        }
        Ok(())
    }

    /// The frame that has arrived, with its descriptors.
    fn finish(&mut self) -> Result<Received, WireError> {
        let Some(Partial { header, control, inline }) = self.partial.take() else {
            return Ok(Received::Incomplete);
        };
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
        Ok(Received::Frame(Frame { control, payload, fds }))
    }

    /// Reads what the socket holds behind the unread bytes.
    fn read(&mut self, flags: RecvFlags) -> Result<usize, WireError> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut self.buffer[self.end..])];
            match rustix::net::recvmsg(&self.socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC | flags) {
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

impl Partial {
    fn new(header: Header) -> Self {
        Self { header, control: Vec::new(), inline: Vec::new() }
    }

    /// Takes what belongs to the frame off the front of `bytes`; says how many those are.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let (control, inline) = (self.control_length(), self.inline_length());
        let first = append(&mut self.control, control, bytes);
        first + append(&mut self.inline, inline, &bytes[first..])
    }

    fn is_whole(&self) -> bool {
        self.control.len() == self.control_length() && self.inline.len() == self.inline_length()
    }

    fn control_length(&self) -> usize {
        self.header.control_length as usize
    }

    /// The header is checked: what is longer than fits travels in a memfd.
    fn inline_length(&self) -> usize {
        if self.header.memory { 0 } else { usize::try_from(self.header.payload_length).unwrap_or(usize::MAX) }
    }
}

/// Appends to `part` what it lacks; memory for a long one is taken as it arrives.
fn append(part: &mut Vec<u8>, length: usize, bytes: &[u8]) -> usize {
    if part.is_empty() {
        part.reserve_exact(length.min(GROWTH_STEP));
    }
    let count = (length - part.len()).min(bytes.len());
    part.extend_from_slice(&bytes[..count]);
    count
}

fn is_empty(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
