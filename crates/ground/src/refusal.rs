//! The operating system's refusals, and what to do about them.

use std::error::Error;
use std::io::{self, ErrorKind};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What an operation was done to, which decides what to do about its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Files of the store.
    Store,
    /// Local files of the user.
    Local,
    /// Files of an image, as its processes see them: what the image holds decides, but its disk is the store's.
    Image,
    /// Anything else of this machine.
    Machine,
}

/// An operation that the operating system refused: data, so that it can cross a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refusal {
    /// What it was done to.
    pub subject: Subject,
    /// The number of the kernel's answer.
    pub errno: i32,
}

const FULL: &str = "the disk of the store is full, or has no room for more files (`df -h` and `df -i` tell): free some \
                    space, or set MODAL_STORE to a directory on a larger disk";
const UNWRITABLE: &str = "set MODAL_STORE to a directory that you can write to";
const UNREADABLE: &str = "make it readable, or leave it out with `ignore`";
const BROKEN: &str =
    "the disk does not work (`dmesg` tells more): check it, or set MODAL_STORE to a directory on another one";
const MEMORY: &str = "the machine has too little memory: end other programs, or give it more";
const DESCRIPTORS: &str = "too many files are open: allow more with `ulimit -n`, or do less at once";
const PROCESSES: &str = "too many processes run: allow more with `ulimit -u`, or do less at once";

impl Refusal {
    /// The kernel's answer to an operation on `subject`.
    #[must_use]
    pub fn new(subject: Subject, errno: Errno) -> Self {
        Self { subject, errno: errno.raw_os_error() }
    }

    /// The kernel's answer in `error`, also where that only wraps it; `None` where the kernel was not asked.
    #[must_use]
    pub fn of(subject: Subject, error: &io::Error) -> Option<Self> {
        Some(Self::new(subject, errno(error)?))
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(self) -> Option<&'static str> {
        let errno = Errno::from_raw_os_error(self.errno);
        let is_on_the_stores_disk = matches!(self.subject, Subject::Store | Subject::Image);
        match (errno, self.subject) {
            (Errno::NOMEM, _) => Some(MEMORY),
            (Errno::MFILE | Errno::NFILE, _) => Some(DESCRIPTORS),
            (Errno::AGAIN, Subject::Machine) => Some(PROCESSES),
            (Errno::NOSPC | Errno::DQUOT | Errno::FBIG, _) if is_on_the_stores_disk => Some(FULL),
            (Errno::IO, _) if is_on_the_stores_disk => Some(BROKEN),
            (Errno::ROFS | Errno::ACCESS | Errno::PERM | Errno::NOTDIR, Subject::Store) => Some(UNWRITABLE),
            (Errno::ACCESS | Errno::PERM, Subject::Local) => Some(UNREADABLE),
            _ => None,
        }
    }
}

/// The kernel's answer in an error or in one behind it, or else what the error's kind says of it.
fn errno(error: &io::Error) -> Option<Errno> {
    let behind = || {
        let mut next: Option<&(dyn Error + 'static)> = Some(error.get_ref()?);
        while let Some(cause) = next {
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                return errno(error);
            }
            next = cause.source();
        }
        None
    };
    Errno::from_io_error(error).or_else(behind).or_else(|| {
        Some(match error.kind() {
            ErrorKind::StorageFull => Errno::NOSPC,
            ErrorKind::QuotaExceeded => Errno::DQUOT,
            ErrorKind::FileTooLarge => Errno::FBIG,
            ErrorKind::ReadOnlyFilesystem => Errno::ROFS,
            ErrorKind::PermissionDenied => Errno::ACCESS,
            ErrorKind::NotADirectory => Errno::NOTDIR,
            ErrorKind::NotFound => Errno::NOENT,
            ErrorKind::OutOfMemory => Errno::NOMEM,
            ErrorKind::WouldBlock => Errno::AGAIN,
            _ => return None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_follows_the_kind_and_what_was_refused() {
        let hint = |subject, errno| Refusal::new(subject, errno).hint().unwrap_or_default();
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert!(hint(Subject::Store, errno).contains("full"), "{errno:?}");
            assert!(hint(Subject::Image, errno).contains("full"), "{errno:?}");
            assert_eq!(hint(Subject::Local, errno), "");
        }
        for errno in [Errno::ROFS, Errno::ACCESS, Errno::PERM, Errno::NOTDIR] {
            assert!(hint(Subject::Store, errno).contains("MODAL_STORE"), "{errno:?}");
            assert_eq!(hint(Subject::Image, errno), "", "what an image holds is not the store's fault");
            assert_eq!(hint(Subject::Machine, errno), "");
        }
        for subject in [Subject::Store, Subject::Local, Subject::Image, Subject::Machine] {
            assert!(hint(subject, Errno::NOMEM).contains("memory"));
            assert!(hint(subject, Errno::MFILE).contains("ulimit -n"));
            assert_eq!(hint(subject, Errno::NOENT), "");
        }
        assert!(hint(Subject::Local, Errno::ACCESS).contains("`ignore`"));
    }

    #[derive(Debug)]
    struct Behind(io::Error);

    impl std::fmt::Display for Behind {
        fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("it did not work")
        }
    }

    impl Error for Behind {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn answers_that_are_no_kind_are_found_behind_others() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::ROFS] {
            let error = io::Error::other(Behind(io::Error::other(Behind(errno.into()))));
            assert_eq!(Refusal::of(Subject::Store, &error), Some(Refusal::new(Subject::Store, errno)));
            assert!(Refusal::of(Subject::Store, &error).unwrap().hint().is_some(), "{errno:?}");
        }
        // Nothing is mapped at the address 0 of a process.
        let unreadable = fs_err::read("/proc/self/mem").unwrap_err();
        assert_eq!(Refusal::of(Subject::Store, &unreadable), Some(Refusal::new(Subject::Store, Errno::IO)));
        let full = fs_err::write("/dev/full", "x").unwrap_err();
        assert_eq!(Refusal::of(Subject::Store, &full), Some(Refusal::new(Subject::Store, Errno::NOSPC)));
    }

    #[test]
    fn the_kernels_answer_is_found_below_others() {
        let plain = io::Error::from_raw_os_error(28);
        assert_eq!(Refusal::of(Subject::Store, &plain), Some(Refusal::new(Subject::Store, Errno::NOSPC)));
        let with_path = fs_err::read("/nonexistent/file").unwrap_err();
        assert_eq!(with_path.raw_os_error(), None, "the error of the system is only behind it");
        assert_eq!(Refusal::of(Subject::Local, &with_path), Some(Refusal::new(Subject::Local, Errno::NOENT)));
        let wrapped = io::Error::other(with_path);
        assert_eq!(Refusal::of(Subject::Local, &wrapped), Some(Refusal::new(Subject::Local, Errno::NOENT)));
        let again = io::Error::other(io::Error::from_raw_os_error(12));
        assert_eq!(Refusal::of(Subject::Store, &again), Some(Refusal::new(Subject::Store, Errno::NOMEM)));
        assert_eq!(Refusal::of(Subject::Store, &io::Error::other("no answer of the kernel")), None);
    }
}
