//! The HTTP client: one request, tried patiently.

use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use lamina_events::{CancelGuard, CancelToken};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;

use crate::FetchError;
use crate::exchange::{
    Answer, Described, Exchange, Failure, Header, IntoMemory, Patience, Question, Received, Reply, Sending, is_passing,
    wait,
};
use crate::pace::{Deadline, Limits, Paced};
use crate::redirect::{Redirected, Walk};
use crate::resolver::RememberingResolver;
use crate::trust::Trust;

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
    /// Certificates beside the host's.
    trust: Arc<Trust>,
    /// Hosts that servers have led to.
    redirected: Arc<Redirected>,
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
        Self {
            agent: Arc::default(),
            cancel,
            limits: Limits::default(),
            headers: Arc::default(),
            trust: Arc::default(),
            redirected: Arc::default(),
        }
    }

    /// The client with other limits.
    #[cfg(test)]
    pub(crate) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The client with further headers in every request; connections are shared. They do not follow a
    /// redirection to another server.
    #[must_use]
    pub fn with_headers(&self, headers: Vec<(&'static str, String)>) -> Self {
        Self { headers: headers.into(), ..self.clone() }
    }

    /// The client with one more header.
    #[must_use]
    pub fn and_header(&self, name: &'static str, value: String) -> Self {
        self.with_headers(self.headers.iter().cloned().chain([(name, value)]).collect())
    }

    /// The client with these certificates beside the host's; connections are shared only where there are none.
    #[must_use]
    pub fn with_trust(&self, trust: Trust) -> Self {
        if trust.is_empty() && self.trust.is_empty() {
            return self.clone();
        }
        Self { agent: Arc::default(), trust: Arc::new(trust), ..self.clone() }
    }

    /// The client that another token stops, with connections of its own.
    #[must_use]
    pub fn with_cancel(&self, cancel: CancelToken) -> Self {
        Self { agent: Arc::default(), cancel, ..self.clone() }
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
        self.get_described(url, limit).map(|file| file.bytes)
    }

    /// As [`Self::get`], with what the server says about it.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_described(&self, url: &str, limit: u64) -> Result<Described, FetchError> {
        self.exchange(url, &mut IntoMemory { url, limit })
    }

    /// Asks whether there is something, and which login that needs; the body is left aside.
    ///
    /// # Errors
    /// When the network fails for good.
    pub fn ask(&self, url: &str) -> Result<Answer, FetchError> {
        self.exchange(url, &mut Question)
    }

    /// Whether something answers that speaks HTTP, be it with a refusal. It is asked once.
    ///
    /// # Errors
    /// When cancelled.
    pub fn has_answer(&self, url: &str) -> Result<bool, FetchError> {
        let answer = self.request(url, Vec::new(), None)?;
        // What fails because it was cancelled did not fail.
        self.cancel.check()?;
        Ok(answer.is_ok())
    }

    /// Sends `body` with further headers, and fetches an answer of at most `limit` bytes, be it a refusal. What is sent goes to no
    /// other address.
    ///
    /// # Errors
    /// When the network fails for good, the server leads elsewhere, or more than `limit` bytes come.
    pub fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: &[u8],
        limit: u64,
    ) -> Result<Reply, FetchError> {
        self.exchange(url, &mut Sending { url, headers, body, limit })
    }

    /// Makes requests until `exchange` has taken the whole answer, a failure is final, or the attempts are used up.
    pub(crate) fn exchange<E: Exchange>(&self, url: &str, exchange: &mut E) -> Result<E::Output, FetchError> {
        let mut patience = Patience::new();
        let deadline = self.limits.deadline();
        loop {
            let failure = match self.attempt(url, exchange, deadline)? {
                Ok(output) => return Ok(output),
                Err(failure) => failure,
            };
            // What fails because it was cancelled did not fail.
            self.cancel.check()?;
            if let Failure::Final(error) = failure {
                return Err(error);
            }
            if deadline.is_past() {
                let (url, minutes) = (url.to_owned(), self.limits.minutes());
                return Err(FetchError::TooLong { url, minutes, reason: failure.reason() });
            }
            self.pause(patience.after(url, failure, exchange.has_come_further())?)?;
        }
    }

    /// One request and its answer.
    fn attempt<E: Exchange>(
        &self,
        url: &str,
        exchange: &mut E,
        deadline: Deadline,
    ) -> Result<Result<E::Output, Failure>, FetchError> {
        let (parts, mut body) = match self.request(url, exchange.headers(), exchange.body())? {
            Ok(response) => response.into_parts(),
            Err(failure) => return Ok(Err(failure)),
        };
        let status = parts.status.as_u16();
        if is_passing(status) {
            return Ok(Err(Failure::Busy { status, wait: wait(&parts.headers) }));
        }
        if !exchange.takes(status) {
            return Ok(Err(Failure::Final(FetchError::Status { url: url.to_owned(), status })));
        }
        let mut body = Paced::new(body.as_reader(), &self.limits, deadline, &self.cancel);
        Ok(exchange.receive(Received { status, headers: &parts.headers, body: &mut body }))
    }

    /// One request, up to the answer's headers. It runs in a thread of its own, which is left to itself when cancelled:
    /// nothing else ends the look-up of a name or the wait for a connection.
    fn request(
        &self,
        url: &str,
        headers: Vec<Header>,
        body: Option<Vec<u8>>,
    ) -> Result<Result<ureq::http::Response<ureq::Body>, Failure>, FetchError> {
        let (sender, answer) = mpsc::channel();
        let cancelled = sender.clone();
        let _guard = self.cancel.on_cancel(move || {
            let _ = cancelled.send(None);
        });
        self.cancel.check()?;
        let headers = self.headers.iter().cloned().chain(headers).collect();
        let (agent, redirected) = (self.agent().clone(), Arc::clone(&self.redirected));
        let mut walk = Walk::new(url, headers, body, redirected);
        std::thread::Builder::new().name("request".to_owned()).spawn(move || {
            // Nobody waits for it any longer once cancelled.
            let _ = sender.send(Some(walk.run(&agent)));
        })?;
        match answer.recv() {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(lamina_events::Cancelled.into()),
            Err(_) => Err(std::io::Error::other("a thread that makes requests ended").into()),
        }
    }

    /// Waits, but not beyond a cancellation.
    pub(crate) fn pause(&self, duration: Duration) -> Result<(), FetchError> {
        let (wake, woken) = std::sync::mpsc::channel();
        let _guard = self.cancel.on_cancel(move || {
            let _ = wake.send(());
        });
        let _ = woken.recv_timeout(duration);
        Ok(self.cancel.check()?)
    }

    /// What every request says beside the usual.
    pub(crate) fn headers(&self) -> &[Header] {
        &self.headers
    }

    pub(crate) fn agent(&self) -> &ureq::Agent {
        let agent = self.agent.get_or_init(|| {
            let agent = new_agent(&self.limits, &self.trust, Arc::clone(&self.redirected));
            let ended = agent.clone();
            Agent { agent, _guard: self.cancel.on_cancel(move || ended.shutdown()) }
        });
        &agent.agent
    }
}

fn new_agent(limits: &Limits, trust: &Trust, redirected: Arc<Redirected>) -> ureq::Agent {
    let tls = TlsConfig::builder().client_cert(trust.identity.clone());
    let tls = if trust.is_blind { tls.disable_verification(true) } else { tls.root_certs(authorities(trust)) };
    let config = ureq::Agent::config_builder()
        .tls_config(tls.build())
        .user_agent(concat!("lamina/", env!("CARGO_PKG_VERSION")))
        .max_idle_connections_per_host(16)
        .http_status_as_error(false)
        // `Walk` follows them.
        .max_redirects(0)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(RESPONSE_TIMEOUT))
        .timeout_per_read(Some(limits.window))
        .build();
    ureq::Agent::with_parts(config, DefaultConnector::default(), RememberingResolver::new(redirected))
}

/// The host's authorities, and further ones.
fn authorities(trust: &Trust) -> RootCerts {
    let certificates = rustls_native_certs::load_native_certs().certs.into_iter();
    let certificates = certificates.map(|certificate| Certificate::from_der(&certificate).to_owned());
    RootCerts::Specific(Arc::new(certificates.chain(trust.authorities.iter().cloned()).collect()))
}
