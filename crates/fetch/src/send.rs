//! Sending: requests that change something on a server, and files that are sent in parts where the way breaks.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::mpsc;

use ureq::SendBody;
use ureq::http::{self, Method};

use crate::exchange::{Failure, Header, Patience, is_passing, wait};
use crate::{Client, FetchError};

/// Most bytes of an answer that are read.
const LIMIT: u64 = 1 << 20;

/// Something to send. A server that leads elsewhere is not followed.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// The method: `HEAD`, `POST`, `PUT`.
    pub method: &'a str,
    /// The address.
    pub url: &'a str,
    /// Headers beside those of the client.
    pub headers: &'a [(&'static str, String)],
    /// What is sent.
    pub body: &'a [u8],
}

/// What a server answered to something that was sent, be it a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<String>,
    /// The header `Range`.
    pub range: Option<String>,
    /// The header `Docker-Content-Digest`.
    pub digest: Option<String>,
    /// The beginning of the body.
    pub bytes: Vec<u8>,
}

/// How far a server is with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Where the rest is to be sent.
    pub url: String,
    /// How many bytes it has.
    pub offset: u64,
    /// Headers beside those of the client.
    pub headers: Vec<(&'static str, String)>,
}

impl Client {
    /// Sends something, and again where that may help.
    ///
    /// # Errors
    /// When the network fails for good.
    pub fn send(&self, message: &Message<'_>) -> Result<Response, FetchError> {
        let mut patience = Patience::new();
        loop {
            let length = message.body.len() as u64;
            let body = Body { reader: std::io::Cursor::new(message.body.to_vec()), length };
            match self.send_once(message.method, message.url, message.headers, body)? {
                Ok(response) => return Ok(response),
                Err(failure) => self.wait_after(&mut patience, message.url, failure, false)?,
            }
        }
    }

    /// Sends the bytes of a file with `PATCH`. `stand` is asked at first, and again where the way breaks.
    ///
    /// # Errors
    /// When the network fails for good, the file cannot be read, or `stand` fails.
    pub fn send_file(
        &self,
        file: &File,
        size: u64,
        stand: &mut dyn FnMut() -> Result<Standing, FetchError>,
    ) -> Result<Response, FetchError> {
        let (mut patience, mut reached) = (Patience::new(), 0);
        loop {
            let Standing { url, offset, mut headers } = stand()?;
            let has_come_further = offset > reached;
            reached = offset;
            let mut rest = file.try_clone()?;
            rest.seek(SeekFrom::Start(offset))?;
            let length = size.saturating_sub(offset);
            if offset > 0 {
                headers.push(("content-range", format!("{offset}-{}", size.saturating_sub(1))));
            }
            headers.push(("content-type", "application/octet-stream".to_owned()));
            match self.send_once("PATCH", &url, &headers, Body { reader: rest.take(length), length })? {
                Ok(response) => return Ok(response),
                Err(failure) => self.wait_after(&mut patience, &url, failure, has_come_further)?,
            }
        }
    }

    fn wait_after(
        &self,
        patience: &mut Patience,
        url: &str,
        failure: Failure,
        has_come_further: bool,
    ) -> Result<(), FetchError> {
        // What fails because it was cancelled did not fail.
        self.cancel.check()?;
        let pause = patience.after(without_query(url), failure, has_come_further).map_err(|error| match error {
            FetchError::Network { url, reason, attempts } => FetchError::Unsent { url, reason, attempts },
            error => error,
        })?;
        self.pause(pause)
    }

    /// One request. It runs in a thread of its own, which is left to itself when cancelled.
    fn send_once<R: Read + Send + 'static>(
        &self,
        method: &str,
        url: &str,
        headers: &[Header],
        body: Body<R>,
    ) -> Result<Result<Response, Failure>, FetchError> {
        let unusable = |reason: String| FetchError::Unsent { url: without_query(url).to_owned(), reason, attempts: 1 };
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| unusable(error.to_string()))?;
        let is_empty = body.length == 0 && matches!(method, Method::HEAD | Method::GET);
        let mut request = http::Request::builder().method(method).uri(url);
        for (name, value) in self.headers().iter().chain(headers) {
            request = request.header(*name, value);
        }
        if !is_empty {
            request = request.header("content-length", body.length);
        }
        let (sender, answer) = mpsc::channel();
        let cancelled = sender.clone();
        let _guard = self.cancel.on_cancel(move || {
            let _ = cancelled.send(None);
        });
        self.cancel.check()?;
        // The parts are plain data; what sends them is made in the thread.
        let request = request.body(()).map_err(|error| unusable(error.to_string()))?;
        let (agent, url) = (self.agent().clone(), url.to_owned());
        std::thread::Builder::new().name("sending".to_owned()).spawn(move || {
            let (parts, ()) = request.into_parts();
            let sent = if is_empty {
                agent.run(http::Request::from_parts(parts, ()))
            } else {
                agent.run(http::Request::from_parts(parts, SendBody::from_owned_reader(body.reader)))
            };
            // Nobody waits for it any longer once cancelled.
            let _ =
                sender.send(Some(sent.map_err(|error| Failure::of(without_query(&url), &error)).and_then(received)));
        })?;
        match answer.recv() {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(lamina_events::Cancelled.into()),
            Err(_) => Err(std::io::Error::other("a thread that sends ended").into()),
        }
    }
}

/// An address as messages have it: the queries of uploads are long, and are what lets somebody go on with them.
fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(address, _)| address)
}

/// What is sent, and its length in bytes.
struct Body<R> {
    reader: R,
    length: u64,
}

fn received(response: http::Response<ureq::Body>) -> Result<Response, Failure> {
    let (parts, mut body) = response.into_parts();
    let status = parts.status.as_u16();
    if is_passing(status) {
        return Err(Failure::Busy { status, wait: wait(&parts.headers) });
    }
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut bytes = Vec::new();
    body.as_reader().take(LIMIT).read_to_end(&mut bytes).map_err(Failure::passing)?;
    Ok(Response {
        status,
        location: header("location"),
        range: header("range"),
        digest: header("docker-content-digest"),
        bytes,
    })
}
