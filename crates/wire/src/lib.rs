//! Frames over unix stream sockets: the one transport of Lamina.
//!
//! The engine speaks with the Python package, with the runner inside a container, with the launcher and with the store
//! worker in the same way: a frame is a fixed header, a control part (JSON by convention; this crate does not look
//! inside), an optional payload and optional file descriptors. Payloads above [`MEMORY_THRESHOLD`] travel in a sealed
//! memfd, so that they are written once and forwarded without being copied. The format is documented in
//! `docs/protocol.md` and pinned by this crate's tests.

mod frame;
mod memory;
mod queued;
mod receiver;
mod sender;

pub use frame::{Frame, HEADER_LENGTH, MAXIMUM_CONTROL_LENGTH, MAXIMUM_FDS, MEMORY_THRESHOLD, Payload, VERSION};
pub use memory::{read_memory, write_memory};
pub use queued::{QueuedSender, weight};
pub use receiver::{Received, Receiver};
pub use sender::Sender;

/// What can go wrong on a connection.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer closed the connection in the middle of a frame.
    #[error("the connection was closed in the middle of a frame")]
    Truncated,
    /// The peer speaks another version of the frame format.
    #[error("the peer speaks frame version `{0}`, this program speaks `{VERSION}`: update the older of the two")]
    Version(u8),
    /// A length field is beyond what the format allows.
    #[error("a frame announces a part of `{0}` bytes, more than the format allows")]
    TooLong(u64),
    /// The header announces more descriptors than arrived, or a memfd payload without a descriptor.
    #[error("a frame announces `{expected}` file descriptors, `{found}` arrived")]
    MissingDescriptors {
        /// Descriptors that the header announces.
        expected: usize,
        /// Descriptors that arrived.
        found: usize,
    },
    /// More descriptors were handed over than one frame can carry.
    #[error("a frame carries at most {MAXIMUM_FDS} file descriptors, not `{0}`")]
    TooManyDescriptors(usize),
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
}

impl From<rustix::io::Errno> for WireError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Makes a connected pair of stream sockets, both closed on exec.
///
/// # Errors
/// When the process is out of file descriptors.
pub fn socket_pair() -> Result<(std::os::unix::net::UnixStream, std::os::unix::net::UnixStream), WireError> {
    Ok(std::os::unix::net::UnixStream::pair()?)
}

#[cfg(test)]
mod tests;
