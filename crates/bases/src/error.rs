//! What can go wrong with bases.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::Path;

use lamina_fetch::FetchError;
use lamina_ground::Hint;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// A Python version that no base offers.
    #[error("Python `{version}` is not offered: use one of {supported}, or an exact version of these such as `3.12.4`")]
    UnsupportedPython {
        /// What was asked for.
        version: String,
        /// The supported series, separated by commas.
        supported: String,
    },
    /// A Python that no base offers: that of the script, which counts where no version is asked for.
    #[error(
        "the Python that runs this script is `{version}`, which no base has: pass a `python_version`, one of {supported}"
    )]
    UnsupportedLocalPython {
        /// Its series.
        version: String,
        /// The supported series, separated by commas.
        supported: String,
    },
    /// The store maps a single user id, but Debian's files belong to several.
    #[error("a Debian base needs subordinate user ids, and you have none")]
    SingleId {
        /// How to get them, as the beginning of a sentence.
        command: String,
    },
    /// An address in a setting or in the host's apt sources that cannot be used.
    #[error("the mirror `{value}` of {origin} cannot be used: {reason}")]
    Mirror {
        /// The address.
        value: String,
        /// Where it was found.
        origin: String,
        /// What is wrong with it, and what to write instead.
        reason: String,
    },
    /// A variable that says yes or no says neither.
    #[error("`{variable}` is `{value}`: set it to `yes` or `no`, or unset it")]
    Switch {
        /// The variable.
        variable: &'static str,
        /// What it is.
        value: String,
    },
    /// The mirror has no such suite.
    #[error("`{url}` has no suite `{suite}` (the mirror comes from {origin})")]
    UnknownSuite {
        /// The suite.
        suite: String,
        /// The archive's address.
        url: String,
        /// Where the choice of the mirror comes from.
        origin: String,
    },
    /// A keyring cannot be read or holds no keys.
    #[error("the keyring `{path}` of {origin} cannot be used: {reason}")]
    Keyring {
        /// The file.
        path: String,
        /// Which setting names it.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The signature of a release file is no proof.
    #[error("`{url}` is not trusted: {reason}")]
    Signature {
        /// The release file.
        url: String,
        /// Why.
        reason: SignatureProblem,
    },
    /// A release file lies in the future.
    #[error("`{url}` was made on {date}, but the clock of this machine says {now}: set the clock right")]
    ClockBehind {
        /// The release file.
        url: String,
        /// Its date.
        date: String,
        /// This machine's date.
        now: String,
    },
    /// A release file is past its `Valid-Until`.
    #[error(
        "`{url}` was valid until {valid_until}, and the clock of this machine says {now}: the mirror is out of date, or \
         the clock is wrong"
    )]
    Outdated {
        /// The release file.
        url: String,
        /// When it ceased to be valid.
        valid_until: String,
        /// This machine's date.
        now: String,
    },
    /// Something of the archive that is not what its format says.
    #[error("`{name}` is malformed: {reason}")]
    Malformed {
        /// The file.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The packages asked for cannot be installed together.
    #[error("the packages of `{suite}` do not fit together: {reason}")]
    Dependency {
        /// The suite.
        suite: String,
        /// Which package needs what.
        reason: String,
    },
    /// The maintainer scripts failed.
    #[error(
        "configuring the packages of `{suite}` failed ({status}); the log has the details. Its last lines:\n{tail}"
    )]
    Configure {
        /// The suite.
        suite: String,
        /// How the command ended.
        status: String,
        /// The last lines of its output.
        tail: String,
    },
    /// There is no `uv` to get a standalone Python with.
    #[error("Python `{version}` comes as a standalone build through `uv`, which was not found")]
    NoUv {
        /// The version asked for.
        version: String,
        /// The series that need no `uv`.
        native: String,
    },
    /// `uv` could not get a standalone Python.
    #[error("Python `{version}` could not be installed with `{command}` (mirror: {mirror}): {reason}")]
    Uv {
        /// The version asked for.
        version: String,
        /// The command that was run.
        command: String,
        /// The mirror it used.
        mirror: String,
        /// The end of its output.
        reason: String,
        /// The series that need no `uv`.
        native: String,
    },
    /// A machine architecture that Debian or this crate does not know.
    #[error("the architecture `{0}` is not supported: x86_64 and aarch64 are")]
    Architecture(String),
    /// The mirror cannot be reached, or does not answer as one.
    #[error("{source} (the mirror comes from {origin})")]
    Unreachable {
        /// Where the choice of the mirror comes from.
        origin: String,
        /// What happened.
        source: FetchError,
    },
    /// A download failed.
    #[error(transparent)]
    Fetch(FetchError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] lamina_store::StoreError),
    /// The store worker failed.
    #[error(transparent)]
    Job(#[from] lamina_store::JobError),
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] lamina_sandbox::SandboxError),
    /// Cancelled by the caller.
    #[error(transparent)]
    Cancelled(#[from] lamina_events::Cancelled),
    /// A file or process operation failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Why a signature is no proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureProblem {
    /// There is none.
    #[error("it carries no OpenPGP signature ({0})")]
    Missing(String),
    /// None of the keys in the keyring made it.
    #[error("it is signed by {signers}, none of which is in the keyring {keyring}")]
    UnknownKey {
        /// The key ids named in the signatures.
        signers: String,
        /// Where the keys came from.
        keyring: String,
    },
    /// The content is not what was signed.
    #[error(
        "its content does not match the signature of key {key}: it was altered on the way, or the mirror is broken"
    )]
    Altered {
        /// The key's fingerprint.
        key: String,
    },
    /// The key has expired.
    #[error("its key {key} expired on {date}")]
    Expired {
        /// The key's fingerprint.
        key: String,
        /// When it expired.
        date: String,
    },
    /// The key was revoked by its owner.
    #[error("its key {key} was revoked by its owner")]
    Revoked {
        /// The key's fingerprint.
        key: String,
    },
    /// The key may not sign.
    #[error("its key {key} is not one that may sign")]
    NotForSigning {
        /// The key's fingerprint.
        key: String,
    },
    /// The signature itself was made for a limited time.
    #[error(
        "its signature was valid until {date} only: the mirror is out of date, or the clock of this machine is wrong"
    )]
    Lapsed {
        /// When it ceased to be valid.
        date: String,
    },
    /// The signature was made after now.
    #[error("its signature was made on {date}, which the clock of this machine has not reached: set the clock right")]
    Future {
        /// When it was made.
        date: String,
    },
}

impl Hint for BaseError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::SingleId { command } => Some(Cow::Owned(format!(
                "{command}, then remove the store with `modal store remove`, so that it is made anew with them"
            ))),
            Self::UnknownSuite { suite, .. } if suite.ends_with("-security") => Some(Cow::Borrowed(
                "set MODAL_DEBIAN_SECURITY_MIRROR to the security archive, or to `none` to do without security updates",
            )),
            Self::UnknownSuite { .. } => Some(Cow::Borrowed(
                "set MODAL_DEBIAN_MIRROR to a mirror that carries it; mirrors drop old releases, archives of old releases \
                 keep them",
            )),
            Self::Signature { reason, .. } => reason.advice().map(Cow::Borrowed),
            Self::Outdated { .. } => Some(Cow::Borrowed(
                "set MODAL_DEBIAN_MIRROR to another mirror, or MODAL_DEBIAN_CHECK_VALID_UNTIL=no to accept an outdated one",
            )),
            Self::Dependency { .. } => {
                Some(Cow::Borrowed("the mirror may be in the middle of an update: try again later"))
            }
            Self::NoUv { native, .. } if native.is_empty() => Some("install it beside the package (`pip install uv`)".into()),
            Self::Uv { native, .. } if native.is_empty() => Some(
                "if this machine cannot reach it, set UV_PYTHON_INSTALL_MIRROR to a mirror of the standalone builds (`file://` \
                 works too)"
                    .into(),
            ),
            Self::NoUv { native, .. } => Some(Cow::Owned(format!(
                "install it beside the package (`pip install uv`), or use one of {native}, which Debian has"
            ))),
            Self::Uv { native, .. } => Some(Cow::Owned(format!(
                "if this machine cannot reach it, set UV_PYTHON_INSTALL_MIRROR to a mirror of the standalone builds \
                 (`file://` works too), or use one of {native}, which Debian has"
            ))),
            Self::Unreachable { source, .. } => {
                let own = "set MODAL_DEBIAN_MIRROR to use another mirror";
                Some(source.hint().map_or(Cow::Borrowed(own), |hint| Cow::Owned(format!("{hint}; or {own}"))))
            }
            Self::Fetch(source) => source.hint(),
            Self::Store(error) => error.hint(),
            Self::Job(error) => error.hint(),
            Self::Sandbox(error) => error.hint(),
            Self::Io(error) => error.hint(),
            _ => None,
        }
    }
}

impl SignatureProblem {
    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::UnknownKey { .. } => {
                Some("set MODAL_DEBIAN_KEYRING to the keyring of this archive if it is one of your own")
            }
            Self::Expired { .. } => Some(
                "install a newer `debian-archive-keyring` and set MODAL_DEBIAN_KEYRING to it, or update this program",
            ),
            Self::Revoked { .. } => Some("install a newer `debian-archive-keyring` and set MODAL_DEBIAN_KEYRING to it"),
            Self::Missing(_)
            | Self::Altered { .. }
            | Self::NotForSigning { .. }
            | Self::Lapsed { .. }
            | Self::Future { .. } => None,
        }
    }
}

impl From<FetchError> for BaseError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            error => Self::Fetch(error),
        }
    }
}

impl BaseError {
    /// A malformed file.
    pub(crate) fn malformed(name: impl Into<String>, reason: &dyn Display) -> Self {
        Self::Malformed { name: name.into(), reason: format!("{reason}") }
    }

    /// A keyring that cannot be used.
    pub(crate) fn keyring(path: &Path, origin: &str, reason: &dyn Display) -> Self {
        Self::Keyring { path: path.display().to_string(), origin: origin.into(), reason: format!("{reason}") }
    }
}
