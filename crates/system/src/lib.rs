//! System calls that no other library offers in a safe form, and processes that are started with them.
//!
//! The leaf below everything that speaks with the kernel, and the only crate of the project with unsafe code: each such
//! place says why it is sound. Nothing here decides anything; that is for the callers.

#![expect(unsafe_code, reason = "clone3, fork, exec and a few system calls have no safe form")]

mod bounded;
mod descriptor;
mod landlock;
mod limit;
mod memory;
mod mount;
mod network;
mod process;
mod seccomp;
mod signal;
mod spawn;
mod user;
mod variable;

use std::io;

use rustix::io::Errno;

pub use bounded::{Bounds, Killer, Outcome, run_bounded, run_bounded_with};
pub use descriptor::{close_on_exec_from, inherited, inherited_socket, place_descriptor};
pub use landlock::{landlock_scope_abstract_sockets, landlock_version, limit_writing};
pub use limit::lower;
pub use memory::release_code;
pub use mount::{attribute, set_mount_attributes};
pub use network::raise_loopback;
pub use process::{Side, children_max_rss_kib, execute, execute_file, exit_now, fork, kill_all, split, unshare};
pub use seccomp::install_filter;
pub use signal::{Disposition, block_signals, next_signal, set_disposition, signal_descriptor, while_blocked};
pub use spawn::{spawn_apart, spawn_bound, with_interrupts_blocked};
pub use user::user_name;
pub use variable::set_missing_variables;

/// The answer of a raw system call.
pub(crate) fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result == -1 { Err(last_error()) } else { Ok(result) }
}

pub(crate) fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
