//! Ctrl-C and its relatives: the first asks everything to stop, the second does not ask.

use std::ffi::c_int;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use lamina_events::CancelToken;
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::python::Handle;

/// How long a Python program that shares our process group may take to notice a Ctrl-C by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// Catches signals from now on, before there is anything that they could leave behind.
pub(crate) fn catch() -> io::Result<Signals> {
    Signals::new([SIGINT, SIGTERM, SIGHUP])
}

/// The signal that ends the command, once there is one.
#[derive(Clone, Default)]
pub(crate) struct Interruption {
    signal: Arc<AtomicI32>,
}

impl Interruption {
    /// Listens to what was caught since [`catch`]. The first signal cancels `cancel` and reaches the Python program; the
    /// second runs `before_exit` and ends everything at once.
    pub(crate) fn listen(
        mut signals: Signals,
        cancel: CancelToken,
        python: Option<Handle>,
        before_exit: impl Fn() + Send + 'static,
    ) -> Self {
        let interruption = Self::default();
        let recorded = interruption.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if recorded.signal.swap(signal, Ordering::SeqCst) != 0 {
                    if let Some(python) = &python {
                        python.signal(Signal::KILL);
                    }
                    before_exit();
                    std::process::exit(i32::from(exit_code(signal)));
                }
                let (cancel, python) = (cancel.clone(), python.clone());
                // In a thread of its own: clean-up may take a while, and the second signal must not wait for it.
                std::thread::spawn(move || stop(signal, &cancel, python.as_ref()));
            }
        });
        interruption
    }

    /// Listens on behalf of a program that is interrupted itself and decides what that means for its engine: Ctrl-C is
    /// left to it, any other signal cancels `cancel`.
    pub(crate) fn listen_for_program(cancel: CancelToken) -> io::Result<()> {
        let mut signals = catch()?;
        std::thread::spawn(move || {
            if signals.forever().any(|signal| signal != SIGINT) {
                cancel.cancel();
            }
        });
        Ok(())
    }

    /// The exit code of an interrupted command, nothing if it was not.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(exit_code(signal)),
        }
    }
}

fn exit_code(signal: c_int) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}

/// Stops the engine's work and the Python program.
fn stop(signal: c_int, cancel: &CancelToken, python: Option<&Handle>) {
    if let Some(python) = python
        && signal != SIGINT
    {
        python.signal(Signal::TERM);
    }
    cancel.cancel();
    if let Some(python) = python
        && signal == SIGINT
        && !reaches_whole_group()
    {
        // Nobody can tell whether the signal was sent to us alone. A second one would cut its clean-up short.
        std::thread::sleep(PATIENCE);
        python.signal(Signal::INT);
    }
}

/// Whether a Ctrl-C comes from the terminal, and so reaches the Python program as well.
fn reaches_whole_group() -> bool {
    fs_err::File::open("/dev/tty")
        .ok()
        .and_then(|terminal| rustix::termios::tcgetpgrp(terminal.file()).ok())
        .is_some_and(|foreground| foreground == rustix::process::getpgrp())
}
