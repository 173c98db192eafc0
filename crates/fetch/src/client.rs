//! The HTTP client: one request, tried patiently.

use std::io::Read;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use lamina_events::{CancelGuard, CancelToken};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;

use crate::FetchError;
use crate::pace::{Limits, Paced};
use crate::resolver::RememberingResolver;

/// How often a request is tried.
pub(crate) const ATTEMPTS: u32 = 6;
/// Pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest time without the connection being established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time until the response's headers.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(1);

/// Fetches over HTTP and HTTPS. Clones share connections and the cancel token.
#[derive(Debug, Clone)]
pub struct Client {
    /// Made on first use: reading the host's certificates takes milliseconds that a cached build need not spend.
    agent: Arc<OnceLock<Agent>>,
    pub(crate) cancel: CancelToken,
    limits: Limits,
    /// What every request says beside the usual.
    headers: Arc<[Header]>,
}

/// The name and value of a header.
type Header = (&'static str, String);

/// What a server answered, be it a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What login it asks for: the `WWW-Authenticate` headers.
    pub challenges: Vec<String>,
}

/// Connections, which a cancellation ends.
#[derive(Debug)]
struct Agent {
    agent: ureq::Agent,
    _guard: CancelGuard,
}

impl Client {
    /// A client that stops when `cancel` says so.
    #[must_use]
    pub fn new(cancel: CancelToken) -> Self {
        Self { agent: Arc::default(), cancel, limits: Limits::default(), headers: Arc::default() }
    }

    /// The client with other limits.
    #[cfg(test)]
    pub(crate) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The client with further headers in every request; connections are shared. What names a login does not follow a
    /// redirection.
    #[must_use]
    pub fn with_headers(&self, headers: Vec<(&'static str, String)>) -> Self {
        Self { headers: headers.into(), ..self.clone() }
    }

    /// The client with one more header.
    #[must_use]
    pub fn and_header(&self, name: &'static str, value: String) -> Self {
        self.with_headers(self.headers.iter().cloned().chain([(name, value)]).collect())
    }

    /// What stops it.
    #[must_use]
    pub fn cancel(&self) -> &CancelToken {
        &self.cancel
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

    /// Asks whether there is something, and which login that needs; the body is left aside.
    ///
    /// # Errors
    /// When the network fails for good.
    pub fn ask(&self, url: &str) -> Result<Answer, FetchError> {
        let mut pause = FIRST_PAUSE;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let reason = match self.request(url, true)? {
                Ok(response) if attempts < ATTEMPTS && is_passing(response.status().as_u16()) => {
                    format!("status {}", response.status().as_u16())
                }
                Ok(response) => {
                    let challenges = response.headers().get_all("www-authenticate").iter();
                    let challenges = challenges.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
                    return Ok(Answer { status: response.status().as_u16(), challenges });
                }
                Err(error) => error.to_string(),
            };
            self.cancel.check()?;
            if attempts >= ATTEMPTS {
                return Err(FetchError::Network { url: url.to_owned(), reason, attempts });
            }
            self.pause(pause)?;
            pause *= 2;
        }
    }

    /// Requests `url` until `consume` has taken the whole body, a failure is final, or the attempts are used up.
    pub(crate) fn patiently<T>(
        &self,
        url: &str,
        mut consume: impl FnMut(&mut dyn Read) -> Result<T, Failure>,
    ) -> Result<T, FetchError> {
        let mut pause = FIRST_PAUSE;
        let mut attempts = 0;
        let deadline = self.limits.deadline();
        loop {
            attempts += 1;
            let failure = match self.request(url, false)? {
                Ok(mut response) => {
                    let body = response.body_mut().as_reader();
                    match consume(&mut Paced::new(body, &self.limits, deadline, &self.cancel)) {
                        Ok(value) => return Ok(value),
                        Err(Failure::Final(error)) => return Err(error),
                        Err(Failure::Passing(error)) => error.to_string(),
                    }
                }
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
            // What fails because it was cancelled did not fail.
            self.cancel.check()?;
            if deadline.is_past() {
                return Err(FetchError::TooLong {
                    url: url.to_owned(),
                    minutes: self.limits.minutes(),
                    reason: failure,
                });
            }
            if attempts >= ATTEMPTS {
                return Err(FetchError::Network { url: url.to_owned(), reason: failure, attempts });
            }
            self.pause(pause)?;
            pause *= 2;
        }
    }

    /// One request, up to the answer's headers. It runs in a thread of its own, which is left to itself when cancelled:
    /// nothing else ends the look-up of a name or the wait for a connection.
    fn request(
        &self,
        url: &str,
        takes_refusals: bool,
    ) -> Result<Result<ureq::http::Response<ureq::Body>, ureq::Error>, FetchError> {
        let (sender, answer) = mpsc::channel();
        let cancelled = sender.clone();
        let _guard = self.cancel.on_cancel(move || {
            let _ = cancelled.send(None);
        });
        self.cancel.check()?;
        let mut request = self.agent().get(url).config().http_status_as_error(!takes_refusals).build();
        for (name, value) in &*self.headers {
            request = request.header(*name, value);
        }
        std::thread::Builder::new().name("request".to_owned()).spawn(move || {
            // Nobody waits for it any longer once cancelled.
            let _ = sender.send(Some(request.call()));
        })?;
        match answer.recv() {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(lamina_events::Cancelled.into()),
            Err(_) => Err(std::io::Error::other("a thread that makes requests ended").into()),
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
        let agent = self.agent.get_or_init(|| {
            let agent = new_agent(&self.limits);
            let ended = agent.clone();
            Agent { agent, _guard: self.cancel.on_cancel(move || ended.shutdown()) }
        });
        &agent.agent
    }
}

fn new_agent(limits: &Limits) -> ureq::Agent {
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
        .timeout_per_read(Some(limits.window))
        .build();
    ureq::Agent::with_parts(config, DefaultConnector::default(), RememberingResolver::default())
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
