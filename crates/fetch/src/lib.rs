//! Getting files over HTTP the way the host would: its certificate bundle, its proxies, patience with its network.
//!
//! Package mirrors fail now and then, and name resolution stumbles when many connections open at once, so every
//! request is tried several times with growing pauses; what a server refuses (404, 403) is final. Large files go to
//! disk under their SHA-256, checked while they arrive, and a file that is there already is not fetched again. A download
//! that gives less than a kibibyte a second, or takes two hours, has failed; one that is cancelled ends at once. What has come
//! of a large file stays for the next attempt, be it of another process, which asks for the rest; where no digest is known,
//! only if the server has named the version of the file, and has the same one still.

mod client;
mod download;
mod exchange;
mod pace;
mod part;
mod partial;
mod redirect;
mod resolver;
mod send;
mod trust;
mod unknown;

use std::borrow::Cow;

use lamina_ground::{EnvVars, Hint, Refusal, Subject};

pub use client::Client;
pub use download::{Coming, Download, Follow, Progress, is_sha256};
pub use exchange::{Answer, Described, Reply};
pub use send::{Message, Response, Standing};
pub use trust::Trust;

/// What can go wrong while fetching.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server answered with an error.
    #[error("`{url}` answered with status {status}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server is too busy, and says for how long.
    #[error(
        "`{url}` answered with status {status} and does not want to be asked again in the next {seconds} seconds; a login \
         may raise what it allows"
    )]
    Busy {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How long it is not to be asked.
        seconds: u64,
    },
    /// The server leads to where nothing is fetched from.
    #[error("`{url}` leads to `{to}`, {reason}")]
    Redirected {
        /// The address.
        url: String,
        /// Where it leads to, without what may be secret in it.
        to: String,
        /// Why that is not followed.
        reason: String,
    },
    /// No answer, or a broken one, after all attempts.
    #[error(
        "`{url}` could not be fetched: {reason} ({attempts} attempts); check the network connection and, behind a \
         proxy, HTTPS_PROXY and SSL_CERT_FILE"
    )]
    Network {
        /// The address.
        url: String,
        /// What happened last.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// Nothing could be sent, after all attempts.
    #[error(
        "sending to `{url}` failed: {reason} ({attempts} attempts); check the network connection and, behind a proxy, \
         HTTPS_PROXY and SSL_CERT_FILE"
    )]
    Unsent {
        /// The address, without its query.
        url: String,
        /// What happened last.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The server has no certificate that counts here.
    #[error("`{url}` does not prove who it is: {reason}")]
    Untrusted {
        /// The address.
        url: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// It was not complete in time.
    #[error(
        "`{url}` could not be fetched in {minutes} minutes: {reason}; a mirror or proxy that is nearer may be faster"
    )]
    TooLong {
        /// The address.
        url: String,
        /// The time that a file may take.
        minutes: u64,
        /// What happened last.
        reason: String,
    },
    /// The server sent something else than announced.
    #[error(
        "`{url}` sent content with the SHA-256 `{found}`, but `{expected}` was announced; a proxy or mirror on the way may be serving a stale or altered file"
    )]
    Digest {
        /// The address.
        url: String,
        /// The announced digest.
        expected: String,
        /// What came.
        found: String,
    },
    /// More bytes came than allowed.
    #[error("`{url}` sent more than the {limit} bytes expected")]
    TooLarge {
        /// The address.
        url: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// Cancelled by the caller.
    #[error(transparent)]
    Cancelled(#[from] lamina_events::Cancelled),
    /// A local file could not be written.
    #[error("a download could not be stored: {0}")]
    Io(#[from] std::io::Error),
}

impl Hint for FetchError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Io(error) => Refusal::of(Subject::Store, error)?.hint().map(Cow::Borrowed),
            Self::Untrusted { .. } => Some(
                "if the network's own proxy answers in its place, name the file with its authority's certificate by SSL_CERT_FILE"
                    .into(),
            ),
            _ => None,
        }
    }
}

impl FetchError {
    /// Whether the server itself said that there is no such file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404 | 410, .. })
    }
}

/// The host's certificate bundle as PEM, for programs that need it as a file; `None` if the host has none.
#[must_use]
pub fn host_certificates() -> Option<Vec<u8>> {
    const BUNDLES: [&str; 5] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/pki/tls/cacert.pem",
        "/etc/ssl/cert.pem",
    ];
    let configured = [EnvVars::SSL_CERT_FILE, EnvVars::REQUESTS_CA_BUNDLE, EnvVars::CURL_CA_BUNDLE]
        .into_iter()
        .filter_map(std::env::var_os);
    configured.map(std::path::PathBuf::from).chain(BUNDLES.map(Into::into)).find_map(|path| fs_err::read(path).ok())
}

#[cfg(test)]
mod tests;
