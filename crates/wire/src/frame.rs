//! The frame and its header.

use std::os::fd::OwnedFd;

use crate::WireError;

/// Version of the frame format, the first byte of every header.
pub const VERSION: u8 = 1;
/// Length of the fixed header in bytes.
pub const HEADER_LENGTH: usize = 16;
/// Longest control part, in bytes. Large data belongs into payloads.
pub const MAXIMUM_CONTROL_LENGTH: u64 = 64 << 20;
/// Most descriptors that one frame carries: the kernel's limit for one message, less one for a memfd payload.
pub const MAXIMUM_FDS: usize = 252;
/// Payloads above this many bytes travel in a memfd.
pub const MEMORY_THRESHOLD: usize = 1 << 20;

/// Flag bit of the header: the payload travels in a memfd, the last descriptor of the frame.
const FLAG_MEMORY: u8 = 1;

/// One message.
#[derive(Debug, Default)]
pub struct Frame {
    /// The control part, JSON by convention.
    pub control: Vec<u8>,
    /// The payload, uninterpreted.
    pub payload: Payload,
    /// Descriptors that came along, closed on exec.
    pub fds: Vec<OwnedFd>,
}

/// The payload of a frame.
#[derive(Debug)]
pub enum Payload {
    /// Bytes that travelled in the stream.
    Inline(Vec<u8>),
    /// A sealed memfd with this many bytes.
    Memory(OwnedFd, u64),
}

impl Default for Payload {
    fn default() -> Self {
        Self::Inline(Vec::new())
    }
}

impl Payload {
    /// The payload's length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Memory(_, length) => *length,
        }
    }

    /// Whether there is no payload.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Another handle on the same payload; a memfd is shared, not copied.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn try_clone(&self) -> Result<Self, WireError> {
        Ok(match self {
            Self::Inline(bytes) => Self::Inline(bytes.clone()),
            Self::Memory(fd, length) => Self::Memory(fd.try_clone()?, *length),
        })
    }

    /// The bytes, read from the memfd where they travelled in one.
    ///
    /// # Errors
    /// When the memfd cannot be read.
    pub fn into_bytes(self) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Inline(bytes) => Ok(bytes),
            Self::Memory(fd, length) => crate::read_memory(&fd, length),
        }
    }
}

/// The decoded header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whether the payload travels in a memfd.
    pub(crate) memory: bool,
    /// Descriptors that come along, the memfd included.
    pub(crate) fd_count: u8,
    /// Length of the control part.
    pub(crate) control_length: u32,
    /// Length of the payload.
    pub(crate) payload_length: u64,
}

impl Header {
    /// The header as it travels.
    pub(crate) fn encode(self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[0] = VERSION;
        bytes[1] = if self.memory { FLAG_MEMORY } else { 0 };
        bytes[2] = self.fd_count;
        bytes[4..8].copy_from_slice(&self.control_length.to_le_bytes());
        bytes[8..].copy_from_slice(&self.payload_length.to_le_bytes());
        bytes
    }

    /// Reads a header.
    pub(crate) fn decode(bytes: [u8; HEADER_LENGTH]) -> Result<Self, WireError> {
        let [version, flags, fd_count, _, c0, c1, c2, c3, payload @ ..] = bytes;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let control_length = u32::from_le_bytes([c0, c1, c2, c3]);
        if u64::from(control_length) > MAXIMUM_CONTROL_LENGTH {
            return Err(WireError::TooLong(u64::from(control_length)));
        }
        let memory = flags & FLAG_MEMORY != 0;
        let payload_length = u64::from_le_bytes(payload);
        // Larger ones belong into a memfd: no peer can make this process buffer without bound.
        if !memory && payload_length > MEMORY_THRESHOLD as u64 {
            return Err(WireError::TooLong(payload_length));
        }
        if memory && fd_count == 0 {
            return Err(WireError::MissingDescriptors { expected: 1, found: 0 });
        }
        Ok(Self { memory, fd_count, control_length, payload_length })
    }
}
