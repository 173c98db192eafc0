//! Sealed memfds for large payloads.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::WireError;

/// Writes `bytes` into a new memfd and seals it, so that the receiver may map it without fearing a later change.
///
/// # Errors
/// When memory or descriptors run out.
pub fn write_memory(bytes: &[u8]) -> Result<OwnedFd, WireError> {
    let fd = rustix::fs::memfd_create("payload", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    let fd = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// Reads `length` bytes from the start of a memfd.
///
/// # Errors
/// When the memfd is shorter than announced or cannot be read.
pub fn read_memory(fd: impl AsFd, length: u64) -> Result<Vec<u8>, WireError> {
    let mut file = File::from(fd.as_fd().try_clone_to_owned()?);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(WireError::Truncated) }
}
