//! Starting the two helper processes.

use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::{IdMap, Launcher, SandboxError};

/// The two processes inside the store's user namespace, as the engine sees them.
#[derive(Debug)]
pub struct Helpers {
    /// Starts sandboxes.
    pub launcher: Launcher,
    /// The connection with the store worker.
    pub worker: UnixStream,
}

impl Helpers {
    /// Starts both from this program's own binary.
    ///
    /// # Errors
    /// When the user namespace cannot be made or entered; the message names the remedy.
    pub fn start(content: &Path, map: &IdMap) -> Result<Self, SandboxError> {
        Self::start_with(Path::new("/proc/self/exe"), content, map)
    }

    /// Starts both from another binary, whose `main` calls [`helpers_main`] when its first argument is `__helpers`.
    ///
    /// # Errors
    /// As [`Helpers::start`].
    pub fn start_with(executable: &Path, content: &Path, map: &IdMap) -> Result<Self, SandboxError> {
        let _ = (executable, content, map);
        Err(SandboxError::Lost)
    }
}

/// The body of the helper processes: `main` calls it first thing when the first argument is `__helpers`. The store worker is
/// `worker`, called with its socket; it may use threads.
pub fn helpers_main(worker: fn(UnixStream)) -> ! {
    let _ = worker;
    std::process::abort()
}
