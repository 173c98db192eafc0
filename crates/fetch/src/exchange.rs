//! A request and its answer, and how patiently it is tried again.

use std::io::Read;
use std::time::{Duration, SystemTime};

use rustls::InvalidMessage;
use ureq::http::HeaderMap;

use crate::FetchError;

/// How often a request is tried without anything coming of it.
const ATTEMPTS: u32 = 6;
/// Pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause that a server may ask for: who is told of hours is to say so rather than to wait.
const LONGEST_WAIT: Duration = Duration::from_mins(2);

/// The name and value of a header.
pub(crate) type Header = (&'static str, String);

/// A request and what becomes of its answer, which may take several attempts.
pub(crate) trait Exchange {
    /// What comes of it.
    type Output;

    /// What the next request says beside the usual.
    fn headers(&self) -> Vec<Header> {
        Vec::new()
    }

    /// What the request sends, if it sends anything.
    fn body(&self) -> Option<Vec<u8>> {
        None
    }

    /// Whether an answer with this status is one.
    fn takes(&self, status: u16) -> bool {
        (200..300).contains(&status)
    }

    /// Takes an answer.
    fn receive(&mut self, answer: Received<'_>) -> Result<Self::Output, Failure>;

    /// Whether the last attempt brought a part of the whole, so that the next one has less to do.
    fn has_come_further(&mut self) -> bool {
        false
    }
}

/// An answer that is coming.
pub(crate) struct Received<'a> {
    pub(crate) status: u16,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a mut dyn Read,
}

impl Received<'_> {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }
}

/// Why nothing came of an attempt.
pub(crate) enum Failure {
    /// Trying again may help.
    Passing(String),
    /// The server cannot answer now, and may have said for how long.
    Busy { status: u16, wait: Option<Duration> },
    /// Trying again will not help.
    Final(FetchError),
}

impl Failure {
    /// That no answer came from an address.
    pub(crate) fn of(url: &str, error: &ureq::Error) -> Self {
        let inner = match error {
            ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
            ureq::Error::Rustls(error) => Some(error),
            _ => None,
        };
        let reason = match inner {
            Some(rustls::Error::InvalidCertificate(reason)) => format!("its certificate does not count, {reason}"),
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => "it speaks no TLS".to_owned(),
            _ => return Self::passing(error),
        };
        Self::Final(FetchError::Untrusted { url: url.to_owned(), reason })
    }

    pub(crate) fn passing(error: impl std::fmt::Display) -> Self {
        Self::Passing(error.to_string())
    }

    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Passing(reason) => reason.clone(),
            Self::Busy { status, .. } => format!("status {status}"),
            Self::Final(error) => error.to_string(),
        }
    }
}

/// How often something was tried, and how long the next pause is.
pub(crate) struct Patience {
    attempts: u32,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { attempts: 0, pause: FIRST_PAUSE }
    }

    /// How long to wait after a failure.
    pub(crate) fn after(
        &mut self,
        url: &str,
        failure: Failure,
        has_come_further: bool,
    ) -> Result<Duration, FetchError> {
        if has_come_further {
            *self = Self::new();
        }
        self.attempts += 1;
        let (url, is_last) = (url.to_owned(), self.attempts >= ATTEMPTS);
        match failure {
            Failure::Final(error) => return Err(error),
            Failure::Busy { status, wait: Some(wait) } if wait > LONGEST_WAIT => {
                return Err(FetchError::Busy { url, status, seconds: wait.as_secs() });
            }
            Failure::Busy { status, .. } if is_last => return Err(FetchError::Status { url, status }),
            Failure::Passing(reason) if is_last => {
                return Err(FetchError::Network { url, reason, attempts: self.attempts });
            }
            Failure::Busy { wait: Some(wait), .. } => return Ok(wait),
            Failure::Busy { .. } | Failure::Passing(_) => {}
        }
        let pause = self.pause;
        self.pause *= 2;
        Ok(pause)
    }
}

/// Whether a status may be another one a moment later.
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// How long a server asks to wait: a number of seconds, or a date.
pub(crate) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A file in memory, and what its server says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Its media type, without parameters and in small letters.
    pub media_type: Option<String>,
    /// What a registry says its digest is: the header `Docker-Content-Digest`.
    pub digest: Option<String>,
    /// When it was changed last.
    pub modified: Option<SystemTime>,
}

/// Fetches a file of at most `limit` bytes into memory.
pub(crate) struct IntoMemory<'a> {
    pub(crate) url: &'a str,
    pub(crate) limit: u64,
}

impl Exchange for IntoMemory<'_> {
    type Output = Described;

    fn receive(&mut self, answer: Received<'_>) -> Result<Described, Failure> {
        let media_type = answer.header("content-type");
        let media_type = media_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        let digest = answer.header("docker-content-digest");
        let modified = answer.header("last-modified").and_then(|time| httpdate::parse_http_date(&time).ok());
        let mut bytes = Vec::new();
        answer.body.take(self.limit + 1).read_to_end(&mut bytes).map_err(Failure::passing)?;
        if bytes.len() as u64 > self.limit {
            return Err(Failure::Final(FetchError::TooLarge { url: self.url.to_owned(), limit: self.limit }));
        }
        Ok(Described { bytes, media_type, digest, modified })
    }
}

/// What a server answered to what it was sent, be it a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub bytes: Vec<u8>,
}

/// Sends something, and takes an answer of at most `limit` bytes.
pub(crate) struct Sending<'a> {
    pub(crate) url: &'a str,
    pub(crate) headers: &'a [Header],
    pub(crate) body: &'a [u8],
    pub(crate) limit: u64,
}

impl Exchange for Sending<'_> {
    type Output = Reply;

    fn headers(&self) -> Vec<Header> {
        self.headers.to_vec()
    }

    fn body(&self) -> Option<Vec<u8>> {
        Some(self.body.to_vec())
    }

    fn takes(&self, _status: u16) -> bool {
        true
    }

    fn receive(&mut self, answer: Received<'_>) -> Result<Reply, Failure> {
        let status = answer.status;
        let Described { bytes, .. } = IntoMemory { url: self.url, limit: self.limit }.receive(answer)?;
        Ok(Reply { status, bytes })
    }
}

/// What a server answered, be it a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What login it asks for: the `WWW-Authenticate` headers.
    pub challenges: Vec<String>,
}

/// Asks without looking at the body.
pub(crate) struct Question;

impl Exchange for Question {
    type Output = Answer;

    fn takes(&self, _status: u16) -> bool {
        true
    }

    fn receive(&mut self, answer: Received<'_>) -> Result<Answer, Failure> {
        let challenges = answer.headers.get_all("www-authenticate").iter();
        let challenges = challenges.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
        Ok(Answer { status: answer.status, challenges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_waited_for_as_long_as_it_says() {
        let mut patience = Patience::new();
        let busy = |wait: Option<u64>| Failure::Busy { status: 429, wait: wait.map(Duration::from_secs) };
        assert_eq!(patience.after("u", busy(Some(7)), false).unwrap(), Duration::from_secs(7));
        assert_eq!(patience.after("u", busy(None), false).unwrap(), FIRST_PAUSE);
        assert_eq!(patience.after("u", Failure::passing("x"), false).unwrap(), FIRST_PAUSE * 2);
        assert!(matches!(patience.after("u", busy(Some(600)), false), Err(FetchError::Busy { seconds: 600, .. })));
        assert_eq!(patience.after("u", Failure::passing("x"), true).unwrap(), FIRST_PAUSE);
        for _ in 2..ATTEMPTS {
            patience.after("u", Failure::passing("x"), false).unwrap();
        }
        assert!(matches!(patience.after("u", busy(Some(1)), false), Err(FetchError::Status { status: 429, .. })));
    }

    #[test]
    fn the_wait_is_a_number_or_a_date() {
        let read = |text: &str| wait(&HeaderMap::from_iter([("retry-after".parse().unwrap(), text.parse().unwrap())]));
        assert_eq!(read("120"), Some(Duration::from_mins(2)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let later = SystemTime::now() + Duration::from_hours(1);
        assert!(read(&httpdate::fmt_http_date(later)).is_some_and(|wait| wait > Duration::from_mins(59)));
        assert_eq!(read("soon"), None);
    }
}
