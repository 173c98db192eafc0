//! System call filters.

use std::ptr;

use rustix::io::Errno;

use crate::check;

/// Installs a seccomp filter on the calling process.
///
/// # Errors
/// What the kernel says.
pub fn install_filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the header points to `len` instructions, which the kernel only reads.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, ptr::from_ref(&header)) })?;
    Ok(())
}
