//! The user's terminal in a container: what `modal.interact()` asks for under `modal run --interactive`.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use lamina_sandbox::TerminalSize;
use rustix::event::{EventfdFlags, eventfd};

/// The terminal of whoever runs the app. One container at a time has it.
pub trait Terminal: Send + Sync + fmt::Debug {
    /// Its size now.
    fn size(&self) -> TerminalSize;

    /// Whether somebody sits at it, for whom containers wait as long as it takes.
    fn has_user(&self) -> bool;

    /// Connects it with a container's terminal, of which `inner` is our end. Waits for its turn first. Returns when
    /// the container has closed its end, or when `finished` can be read and all that was written before is shown.
    ///
    /// # Errors
    /// When the user's terminal fails.
    fn connect(&self, inner: &OwnedFd, finished: &OwnedFd) -> io::Result<()>;
}

/// A container that has the user's terminal, or waits for its turn.
pub(crate) struct Interaction {
    finished: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Interaction {
    /// Connects the two terminals in a thread of its own. `failed` hears if that is not possible.
    pub(crate) fn start(
        terminal: Arc<dyn Terminal>,
        inner: Arc<OwnedFd>,
        failed: impl FnOnce(io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        let finished = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let end = Arc::clone(&finished);
        let connect = move || {
            if let Err(error) = terminal.connect(&inner, &end) {
                failed(error);
            }
        };
        let thread = std::thread::Builder::new().name("terminal".to_owned()).spawn(connect)?;
        Ok(Self { finished, thread: Some(thread) })
    }
}

impl Interaction {
    /// Whether it has ended by itself, because the container closed its end.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Interaction {
    /// Gives the terminal back; returns when everything is shown.
    fn drop(&mut self) {
        // One that cannot be told has ended.
        let _ = rustix::io::write(&self.finished, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // One that panicked has printed why.
            let _ = thread.join();
        }
    }
}
