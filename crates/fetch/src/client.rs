//! The HTTP client: one request, tried patiently.

use std::io::Read;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lamina_events::CancelToken;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;

use crate::FetchError;
use crate::resolver::RememberingResolver;

/// How often a request is tried.
pub(crate) const ATTEMPTS: u32 = 6;
/// Pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest time without the connection being established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time until the response's headers.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest time for one file's body.
const BODY_TIMEOUT: Duration = Duration::from_mins(30);

/// Fetches over HTTP and HTTPS. Clones share connections and the cancel token.
#[derive(Debug, Clone)]
pub struct Client {
    /// Made on first use: reading the host's certificates takes milliseconds that a cached build need not spend.
    agent: Arc<OnceLock<ureq::Agent>>,
    pub(crate) cancel: CancelToken,
}

impl Client {
    /// A client that stops when `cancel` says so.
    #[must_use]
    pub fn new(cancel: CancelToken) -> Self {
        Self { agent: Arc::default(), cancel }
    }

    /// Fetches a file of at most `limit` bytes into memory.
    ///
    /// # Errors
    /// When the server refuses, the network fails for good, or more than `limit` bytes come.
    pub fn get(&self, url: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
        self.patiently(url, |reader| {
            let mut bytes = Vec::new();
            reader.take(limit + 1).read_to_end(&mut bytes).map_err(Failure::Passing)?;
            if bytes.len() as u64 > limit {
                return Err(Failure::Final(FetchError::TooLarge { url: url.to_owned(), limit }));
            }
            Ok(bytes)
        })
    }

    /// Requests `url` until `consume` has taken the whole body, a failure is final, or the attempts are used up.
    pub(crate) fn patiently<T>(
        &self,
        url: &str,
        mut consume: impl FnMut(&mut dyn Read) -> Result<T, Failure>,
    ) -> Result<T, FetchError> {
        let mut pause = FIRST_PAUSE;
        let mut attempts = 0;
        loop {
            self.cancel.check()?;
            attempts += 1;
            let failure = match self.agent().get(url).call() {
                Ok(mut response) => match consume(&mut response.body_mut().as_reader()) {
                    Ok(value) => return Ok(value),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Passing(error)) => error.to_string(),
                },
                Err(ureq::Error::StatusCode(status)) if !is_passing(status) => {
                    return Err(FetchError::Status { url: url.to_owned(), status });
                }
                Err(ureq::Error::StatusCode(status)) if attempts >= ATTEMPTS => {
                    return Err(FetchError::Status { url: url.to_owned(), status });
                }
                Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_))) => {
                    return Err(FetchError::Network { url: url.to_owned(), reason: error.to_string(), attempts });
                }
                Err(error) => error.to_string(),
            };
            if attempts >= ATTEMPTS {
                return Err(FetchError::Network { url: url.to_owned(), reason: failure, attempts });
            }
            self.pause(pause)?;
            pause *= 2;
        }
    }

    /// Waits, but not beyond a cancellation.
    fn pause(&self, duration: Duration) -> Result<(), FetchError> {
        let (wake, woken) = std::sync::mpsc::channel();
        let _guard = self.cancel.on_cancel(move || {
            let _ = wake.send(());
        });
        let _ = woken.recv_timeout(duration);
        Ok(self.cancel.check()?)
    }

    fn agent(&self) -> &ureq::Agent {
        self.agent.get_or_init(|| {
            let certificates: Vec<_> = rustls_native_certs::load_native_certs()
                .certs
                .into_iter()
                .map(|certificate| Certificate::from_der(&certificate).to_owned())
                .collect();
            let roots = RootCerts::Specific(Arc::new(certificates));
            let config = ureq::Agent::config_builder()
                .tls_config(TlsConfig::builder().root_certs(roots).build())
                .user_agent(concat!("lamina/", env!("CARGO_PKG_VERSION")))
                .max_idle_connections_per_host(16)
                .timeout_connect(Some(CONNECT_TIMEOUT))
                .timeout_recv_response(Some(RESPONSE_TIMEOUT))
                .timeout_recv_body(Some(BODY_TIMEOUT))
                .build();
            ureq::Agent::with_parts(config, DefaultConnector::default(), RememberingResolver::default())
        })
    }
}

/// Why a body could not be taken.
pub(crate) enum Failure {
    /// Trying again may help.
    Passing(std::io::Error),
    /// It will not.
    Final(FetchError),
}

/// Whether a status may be another one a moment later.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}
