//! The signals that reach a sandbox.

use crate::SandboxError;

/// A signal that pid 1 hands on to the process group of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGHUP`.
    Hangup,
    /// `SIGINT`.
    Interrupt,
    /// `SIGTERM`.
    Terminate,
    /// `SIGUSR1`.
    User1,
    /// `SIGUSR2`.
    User2,
    /// `SIGWINCH`.
    WindowChange,
}

impl Signal {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Hangup, Self::Interrupt, Self::Terminate, Self::User1, Self::User2, Self::WindowChange];

    /// The signal as the kernel takes it.
    pub(crate) fn kernel(self) -> rustix::process::Signal {
        use rustix::process::Signal;
        match self {
            Self::Hangup => Signal::HUP,
            Self::Interrupt => Signal::INT,
            Self::Terminate => Signal::TERM,
            Self::User1 => Signal::USR1,
            Self::User2 => Signal::USR2,
            Self::WindowChange => Signal::WINCH,
        }
    }
}

impl TryFrom<i32> for Signal {
    type Error = SandboxError;

    /// The signal of a number; refuses those that pid 1 does not hand on.
    fn try_from(number: i32) -> Result<Self, SandboxError> {
        let signal = Self::ALL.into_iter().find(|signal| signal.kernel().as_raw() == number);
        signal.ok_or_else(|| {
            SandboxError::Invalid(format!(
                "signal `{number}` is not handed on to its command: use HUP, INT, TERM, USR1, USR2 or WINCH, or kill it"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_signals_are_refused() {
        assert_eq!(Signal::try_from(libc::SIGWINCH).unwrap(), Signal::WindowChange);
        for number in [0, -1, libc::SIGKILL, libc::SIGSEGV, 64, 1000] {
            let error = Signal::try_from(number).unwrap_err().to_string();
            assert!(error.contains(&format!("`{number}` is not handed on")), "{error}");
        }
    }
}
