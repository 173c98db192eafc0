//! Ctrl-C and its relatives: the first asks everything to stop, the second does not ask.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use lamina_events::CancelToken;
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::python::Handle;

/// How long the Python program may take to end after a signal before it is told to terminate.
const GRACE: Duration = Duration::from_secs(10);

/// The signal that ends the command, once there is one.
#[derive(Clone, Default)]
pub(crate) struct Interruption {
    signal: Arc<AtomicI32>,
}

impl Interruption {
    /// Listens from now on. The first signal cancels `cancel` and reaches the Python program; the second ends all.
    pub(crate) fn listen(cancel: CancelToken, python: Option<Handle>) -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let interruption = Self::default();
        let recorded = interruption.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if recorded.signal.swap(signal, Ordering::SeqCst) != 0 {
                    if let Some(python) = &python {
                        python.signal(Signal::KILL);
                    }
                    std::process::exit(i32::from(exit_code(signal)));
                }
                let (cancel, python) = (cancel.clone(), python.clone());
                // In a thread of its own: clean-up may take a while, and the second signal must not wait for it.
                std::thread::spawn(move || stop(signal, &cancel, python.as_ref()));
            }
        });
        Ok(interruption)
    }

    /// The exit code of an interrupted command, nothing if it was not.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(exit_code(signal)),
        }
    }
}

fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}

/// Stops the engine's work and the Python program.
fn stop(signal: i32, cancel: &CancelToken, python: Option<&Handle>) {
    if let Some(python) = python
        && !(signal == SIGINT && is_from_terminal())
    {
        python.signal(if signal == SIGINT { Signal::INT } else { Signal::TERM });
    }
    cancel.cancel();
    if let Some(python) = python {
        std::thread::sleep(GRACE);
        python.signal(Signal::TERM);
    }
}

/// Whether Ctrl-C on the terminal reaches this process, and then also the Python program, which must not get it twice.
fn is_from_terminal() -> bool {
    fs_err::File::open("/dev/tty")
        .ok()
        .and_then(|terminal| rustix::termios::tcgetpgrp(terminal).ok())
        .is_some_and(|foreground| foreground == rustix::process::getpgrp())
}
