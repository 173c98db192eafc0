//! Images of a Docker daemon, over its interface for programs. Requests are of HTTP 1.0, so that an answer is what comes until the
//! connection ends; the client of registries speaks to no sockets of files.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use lamina_events::CancelToken;
use lamina_fetch::FetchError;
use lamina_ground::EnvVars;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::LocalImage;
use crate::RegistryError;

const DEFAULT: &str = "unix:///var/run/docker.sock";
/// The context that has no file.
const DEFAULT_CONTEXT: &str = "default";
/// How long it may take to say something, in all.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long a look at the socket waits, until cancellation is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Most bytes of headers, and of what describes an image.
const HEADERS_LIMIT: u64 = 64 << 10;
const DESCRIPTION_LIMIT: u64 = 8 << 20;

/// A daemon, by its address.
pub(super) struct Daemon {
    address: String,
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

/// What is said of a context.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Context {
    endpoints: Endpoints,
}

#[derive(Deserialize)]
struct Endpoints {
    docker: Option<Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    host: Option<String>,
}

impl Daemon {
    /// The daemon that `docker` would speak to: that of `DOCKER_HOST`, or of the context in use.
    pub(super) fn of_host() -> Result<Self, RegistryError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(address) = variable(EnvVars::DOCKER_HOST) {
            return Ok(Self { address });
        }
        let home = || variable(EnvVars::HOME).map(|home| Path::new(&home).join(".docker"));
        let Some(settings) = variable(EnvVars::DOCKER_CONFIG).map(PathBuf::from).or_else(home) else {
            return Ok(Self { address: DEFAULT.to_owned() });
        };
        let context = match variable(EnvVars::DOCKER_CONTEXT) {
            Some(name) => Some(name),
            None => current_context(&settings)?,
        };
        let address = match context.filter(|name| name != DEFAULT_CONTEXT) {
            Some(name) => address_of(&settings, &name)?,
            None => DEFAULT.to_owned(),
        };
        Ok(Self { address })
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
        let failed = |error: io::Error| self.failed(error);
        let stream = self.connect()?;
        let mut stream = BufReader::with_capacity(256 << 10, Patient { stream, cancel, last: Instant::now() });
        let request = format!("GET {path} HTTP/1.0\r\nHost: docker\r\nUser-Agent: lamina\r\n\r\n");
        let sent = stream.get_mut().stream.write_all(request.as_bytes());
        sent.map_err(failed)?;
        let read = status(&mut stream);
        cancel.check().map_err(FetchError::from)?;
        let status = read.map_err(failed)?;
        if status != 200 {
            let mut text = String::new();
            let _ = stream.take(HEADERS_LIMIT).read_to_string(&mut text);
            let said = serde_json::from_str::<Refused>(&text)
                .map_or_else(|_| text.trim().to_owned(), |refused| refused.message);
            return Err(RegistryError::Unreadable {
                image: image.to_string(),
                reason: format!("the Docker daemon at `{}` says: {said} (status {status})", self.address),
            });
        }
        loop {
            let part = stream.fill_buf();
            cancel.check().map_err(FetchError::from)?;
            let part = part.map_err(failed)?;
            if part.is_empty() {
                return Ok(());
            }
            take(part)?;
            let count = part.len();
            stream.consume(count);
        }
    }

    fn connect(&self) -> Result<Box<dyn Stream>, RegistryError> {
        let away = |error: io::Error| self.failed(error);
        if let Some(path) = self.address.strip_prefix("unix://") {
            let stream = UnixStream::connect(path).map_err(away)?;
            stream.set_read_timeout(Some(LOOK)).map_err(away)?;
            return Ok(Box::new(stream));
        }
        let is_encrypted = std::env::var_os(EnvVars::DOCKER_TLS_VERIFY).is_some_and(|value| !value.is_empty());
        match self.address.strip_prefix("tcp://").or_else(|| self.address.strip_prefix("http://")) {
            Some(host) if !is_encrypted => {
                let stream = TcpStream::connect(host.trim_end_matches('/')).map_err(away)?;
                stream.set_read_timeout(Some(LOOK)).map_err(away)?;
                Ok(Box::new(stream))
            }
            _ => Err(self.failed("only sockets of this machine and addresses without encryption are spoken to")),
        }
    }

    fn failed(&self, reason: impl std::fmt::Display) -> RegistryError {
        RegistryError::Daemon { address: self.address.clone(), reason: reason.to_string() }
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

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// A stream whose reader is not kept from ending.
struct Patient<'a> {
    stream: Box<dyn Stream>,
    cancel: &'a CancelToken,
    last: Instant,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    self.cancel.check().map_err(io::Error::other)?;
                    if self.last.elapsed() > PATIENCE {
                        return Err(io::Error::other("it says nothing"));
                    }
                }
                other => {
                    self.last = Instant::now();
                    return other;
                }
            }
        }
    }
}

fn current_context(settings: &Path) -> Result<Option<String>, RegistryError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct File {
        current_context: Option<String>,
    }
    let path = settings.join("config.json");
    let Ok(text) = fs_err::read(&path) else { return Ok(None) };
    let file: File = serde_json::from_slice(&text)
        .map_err(|error| RegistryError::Logins { path: path.display().to_string(), reason: error.to_string() })?;
    Ok(file.current_context.filter(|name| !name.is_empty()))
}

/// The address that a context has, whose file is named by the digest of its name.
fn address_of(settings: &Path, name: &str) -> Result<String, RegistryError> {
    let digits = HEXLOWER.encode(&Sha256::digest(name.as_bytes()));
    let path = settings.join("contexts/meta").join(digits).join("meta.json");
    let unusable = |reason: String| RegistryError::Daemon { address: format!("context {name}"), reason };
    let text = fs_err::read(&path).map_err(|error| unusable(error.to_string()))?;
    let context: Context = serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
    context.endpoints.docker.and_then(|docker| docker.host).ok_or_else(|| unusable("it names no address".to_owned()))
}
