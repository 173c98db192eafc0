//! Ctrl-C and its relatives: the first asks everything to stop, the second does not ask the program.

use std::ffi::c_int;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use lamina_events::CancelToken;
use lamina_system::{Disposition, set_disposition};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};

use crate::python::Handle;

/// How long a Python program that shares our process group may take to notice a Ctrl-C by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the engine may take to clear up after the second signal.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// Signals, and where each comes from.
pub(crate) type Signals = SignalsInfo<WithOrigin>;

/// Catches signals from now on, before there is anything that they could leave behind.
pub(crate) fn catch() -> io::Result<Signals> {
    Signals::new([SIGINT, SIGTERM, SIGHUP])
}

/// Leaves signals to the kernel again, for what can be ended at any time.
pub(crate) fn let_go() {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        set_disposition(signal, Disposition::Default);
    }
}

/// The signal that ends the command, once there is one.
#[derive(Clone, Default)]
pub(crate) struct Interruption {
    signal: Arc<AtomicI32>,
}

impl Interruption {
    /// Listens to what was caught since [`catch`]. The first signal cancels `cancel` and reaches the Python program. The
    /// second kills that, so that the command ends; if it does not, `before_exit` is run and everything ends at once.
    pub(crate) fn listen(
        mut signals: Signals,
        cancel: CancelToken,
        python: Option<Handle>,
        before_exit: impl Fn() + Send + 'static,
    ) -> Self {
        let interruption = Self::default();
        let recorded = interruption.clone();
        std::thread::spawn(move || {
            for origin in signals.forever() {
                let signal = origin.signal;
                if recorded.signal.swap(signal, Ordering::SeqCst) != 0 {
                    if let Some(python) = &python {
                        python.signal(Signal::KILL);
                    }
                    std::thread::sleep(LAST_PATIENCE);
                    before_exit();
                    std::process::exit(i32::from(exit_code(signal)));
                }
                let (cancel, python) = (cancel.clone(), python.clone());
                // In a thread of its own: clean-up may take a while, and the second signal must not wait for it.
                std::thread::spawn(move || stop(&origin, &cancel, python.as_ref()));
            }
        });
        interruption
    }

    /// Listens on behalf of a program that is interrupted itself and decides what that means for its engine: Ctrl-C is
    /// left to it, any other signal cancels `cancel`.
    pub(crate) fn listen_for_program(cancel: CancelToken) -> io::Result<()> {
        let mut signals = catch()?;
        std::thread::spawn(move || {
            if signals.forever().any(|origin| origin.signal != SIGINT) {
                cancel.cancel();
            }
        });
        Ok(())
    }

    /// The number of the signal, 0 without one.
    pub(crate) fn signal(&self) -> c_int {
        self.signal.load(Ordering::SeqCst)
    }

    /// The exit code of an interrupted command, nothing if it was not.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(exit_code(signal)),
        }
    }
}

/// The exit code of a command that a signal ended.
pub(crate) fn exit_code(signal: c_int) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}

/// Stops the engine's work and the Python program.
fn stop(origin: &Origin, cancel: &CancelToken, python: Option<&Handle>) {
    let signal = origin.signal;
    if let Some(python) = python {
        match signal {
            SIGINT if python.is_bound() => python.signal(Signal::INT),
            SIGINT => {}
            _ => python.signal(Signal::TERM),
        }
    }
    cancel.cancel();
    if let Some(python) = python
        && signal == SIGINT
        && !python.is_bound()
        && !matches!(origin.cause, Cause::Kernel)
    {
        // The kernel's comes from the terminal and reaches Python, too. Whether another process has sent this one to us
        // alone nobody can tell, and a second one would cut Python's clean-up short.
        std::thread::sleep(PATIENCE);
        python.signal(Signal::INT);
    }
}
