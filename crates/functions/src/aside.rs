//! Closing descriptors that code in a container chose.
//!
//! Closing one may wait: a socket with `SO_LINGER` for as long as its maker wished. So nobody who is waited for does it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use lamina_wire::{Payload, Receiver};

/// Drops `what` in a thread that nobody waits for.
fn drop_aside<T: Send + 'static>(what: T) {
    let thread = std::thread::Builder::new().name("closer".to_owned()).stack_size(crate::STACK_SIZE);
    // Without a thread, what was moved into it is closed here after all: rather late than never.
    let _ = thread.spawn(move || drop(what));
}

/// Closes descriptors that mean nothing.
pub(crate) fn close(fds: Vec<OwnedFd>) {
    if !fds.is_empty() {
        drop_aside(fds);
    }
}

/// Closes the descriptor of a payload that is none.
pub(crate) fn close_payload(payload: Payload) {
    if let Payload::Memory(fd, _) = payload {
        close(vec![fd]);
    }
}

/// Closes a connection that was given up with unread messages in it: their descriptors are closed with it.
pub(crate) fn close_connection(receiver: Receiver, socket: Option<UnixStream>) {
    drop_aside((receiver, socket));
}
