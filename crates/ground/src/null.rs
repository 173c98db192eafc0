//! The device that takes everything and gives nothing.

use std::io;
use std::os::fd::OwnedFd;

/// Opens `/dev/null`, for reading and writing.
///
/// # Errors
/// When it cannot be opened.
pub fn null_device() -> io::Result<OwnedFd> {
    Ok(fs_err::File::options().read(true).write(true).open("/dev/null")?.into_parts().0.into())
}
