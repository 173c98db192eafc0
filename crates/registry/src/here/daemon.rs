//! Images of a Docker daemon, over its interface for programs. Requests are of HTTP 1.0, so that an answer is what comes until the
//! connection ends; the client of registries speaks to no sockets of files.

use std::io::{self, BufRead, BufReader, Read};

use lamina_events::CancelToken;
use lamina_fetch::FetchError;
use serde::Deserialize;

use super::LocalImage;
use super::dial::{Address, Patient};
use crate::RegistryError;

/// Most bytes of headers, and of what describes an image.
const HEADERS_LIMIT: u64 = 64 << 10;
const DESCRIPTION_LIMIT: u64 = 8 << 20;

/// A daemon, by its address.
pub(super) struct Daemon {
    address: Address,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    id: String,
}

#[derive(Deserialize)]
struct Refused {
    message: String,
}

impl Daemon {
    /// The daemon that `docker` would speak to: that of `DOCKER_HOST`, or of the context in use.
    pub(super) fn of_host() -> Result<Self, RegistryError> {
        Ok(Self { address: Address::of_host()? })
    }

    /// The digest of the image's configuration, by which the daemon knows it.
    pub(super) fn id(&self, image: &LocalImage, cancel: &CancelToken) -> Result<String, RegistryError> {
        let mut bytes = Vec::new();
        self.ask(image, &format!("/images/{}/json", image.place), cancel, &mut |part| {
            bytes.extend_from_slice(part);
            if bytes.len() as u64 > DESCRIPTION_LIMIT {
                return Err(self.failed("it describes the image without end"));
            }
            Ok(())
        })?;
        let described: Described = serde_json::from_slice(&bytes)
            .map_err(|error| self.failed(format!("its answer is not that of a Docker daemon: {error}")))?;
        Ok(described.id)
    }

    /// Hands on the archive of an image, as `docker save` would write it.
    pub(super) fn save(
        &self,
        image: &LocalImage,
        id: &str,
        take: &mut dyn FnMut(&[u8]) -> Result<(), RegistryError>,
        cancel: &CancelToken,
    ) -> Result<(), RegistryError> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b':';
        if !id.bytes().all(is_word) {
            return Err(self.failed(format!("`{id}` is no id of an image")));
        }
        self.ask(image, &format!("/images/{id}/get"), cancel, take)
    }

    fn ask(
        &self,
        image: &LocalImage,
        path: &str,
        cancel: &CancelToken,
        take: &mut dyn FnMut(&[u8]) -> Result<(), RegistryError>,
    ) -> Result<(), RegistryError> {
        let mut stream = BufReader::with_capacity(256 << 10, Patient::dial(&self.address, cancel)?);
        let request = format!("GET {path} HTTP/1.0\r\nHost: docker\r\nUser-Agent: lamina\r\n\r\n");
        let answer = stream.get_mut().send(request.as_bytes()).and_then(|()| status(&mut stream));
        cancel.check().map_err(FetchError::from)?;
        let status = answer.map_err(|error| self.failed(stream.get_mut().complaint().unwrap_or(error.to_string())))?;
        if status != 200 {
            let mut text = String::new();
            let _ = stream.take(HEADERS_LIMIT).read_to_string(&mut text);
            let said = serde_json::from_str::<Refused>(&text)
                .map_or_else(|_| text.trim().to_owned(), |refused| refused.message);
            return Err(RegistryError::Unreadable {
                image: image.to_string(),
                reason: format!("the Docker daemon at `{}` says: {said} (status {status})", self.address.text),
            });
        }
        loop {
            let part = stream.fill_buf();
            cancel.check().map_err(FetchError::from)?;
            let part = part.map_err(|error| self.failed(error))?;
            if part.is_empty() {
                return Ok(());
            }
            take(part)?;
            let count = part.len();
            stream.consume(count);
        }
    }

    fn failed(&self, reason: impl std::fmt::Display) -> RegistryError {
        self.address.failed(reason)
    }
}

/// Reads the first line and passes over the headers.
fn status(stream: &mut impl BufRead) -> io::Result<u16> {
    let mut left = stream.take(HEADERS_LIMIT);
    let mut first = String::new();
    left.read_line(&mut first)?;
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("its answer is none of HTTP"))?;
    let mut line = String::new();
    while left.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    Ok(status)
}
