//! Where the Docker daemon is that `docker` would speak to, and the ways there: sockets of this machine, TCP with and without
//! encryption, and `ssh` as `docker` runs it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use lamina_events::CancelToken;
use lamina_fetch::FetchError;
use lamina_ground::EnvVars;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::RegistryError;

const DEFAULT: &str = "unix:///var/run/docker.sock";
/// The context that has no file.
const DEFAULT_CONTEXT: &str = "default";
/// How long it may take to say something, in all.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long another machine has to let itself be reached.
const CONNECT: Duration = Duration::from_secs(30);
/// Ports of daemons that are named by a host alone, without encryption and with it.
const PORTS: [&str; 2] = ["2375", "2376"];
/// How long a look at the socket waits, until cancellation is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Files of certificates: the authority's, and the client's own with its key.
const AUTHORITY: &str = "ca.pem";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
/// Bytes of what `ssh` complains of that are read.
const COMPLAINT_LIMIT: u64 = 64 << 10;

/// Where a daemon is.
pub(super) struct Address {
    pub(super) text: String,
    /// The directory of certificates, where it is spoken to with encryption.
    certificates: Option<PathBuf>,
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
    #[serde(default, rename = "SkipTLSVerify")]
    is_unverified: bool,
}

impl Address {
    /// That of `DOCKER_HOST`, or of the context in use.
    pub(super) fn of_host() -> Result<Self, RegistryError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = || variable(EnvVars::HOME).map(|home| Path::new(&home).join(".docker"));
        let settings = variable(EnvVars::DOCKER_CONFIG).map(PathBuf::from).or_else(home);
        let certificates = || variable(EnvVars::DOCKER_CERT_PATH).map(PathBuf::from).or_else(|| settings.clone());
        let certificates = variable(EnvVars::DOCKER_TLS_VERIFY).and_then(|_| certificates());
        if let Some(text) = variable(EnvVars::DOCKER_HOST) {
            return Ok(Self { text, certificates });
        }
        let context = match (variable(EnvVars::DOCKER_CONTEXT), &settings) {
            (Some(name), _) => Some(name),
            (None, Some(settings)) => current_context(settings)?,
            (None, None) => None,
        };
        match (context.filter(|name| name != DEFAULT_CONTEXT), settings) {
            (Some(name), Some(settings)) => Self::of_context(&settings, &name),
            _ => Ok(Self { text: DEFAULT.to_owned(), certificates }),
        }
    }

    /// That of a context, whose files are named by the digest of its name.
    fn of_context(settings: &Path, name: &str) -> Result<Self, RegistryError> {
        let digits = HEXLOWER.encode(&Sha256::digest(name.as_bytes()));
        let path = settings.join("contexts/meta").join(&digits).join("meta.json");
        let context = Self { text: format!("context {name}"), certificates: None };
        let unusable = |reason: String| context.failed(reason);
        let text = fs_err::read(&path).map_err(|error| unusable(error.to_string()))?;
        let said: Context = serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
        let Some(Endpoint { host: Some(text), is_unverified }) = said.endpoints.docker else {
            return Err(unusable("it names no address".to_owned()));
        };
        if is_unverified {
            return Err(unusable("its daemon would not have to prove who it is".to_owned()));
        }
        let certificates = settings.join("contexts/tls").join(digits).join("docker");
        Ok(Self { text, certificates: certificates.is_dir().then_some(certificates) })
    }

    /// That it cannot be spoken to.
    pub(super) fn failed(&self, reason: impl std::fmt::Display) -> RegistryError {
        RegistryError::Daemon { address: self.text.clone(), reason: reason.to_string(), is_forbidden: false }
    }

    fn connect(&self, cancel: &CancelToken) -> io::Result<Box<dyn Stream>> {
        match self.text.split_once("://").unwrap_or(("tcp", &self.text)) {
            ("unix", path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(LOOK))?;
                Ok(Box::new(stream))
            }
            (scheme @ ("tcp" | "http" | "https"), host) => {
                let host = completed(host.trim_end_matches('/'), self.certificates.is_some());
                let stream = reach(host.clone(), cancel)?;
                stream.set_read_timeout(Some(LOOK))?;
                match &self.certificates {
                    None if scheme == "https" => {
                        Err(io::Error::other("for encryption DOCKER_TLS_VERIFY and DOCKER_CERT_PATH have to be set"))
                    }
                    None => Ok(Box::new(stream)),
                    Some(directory) => Ok(Box::new(encrypted(stream, &host, directory, cancel)?)),
                }
            }
            ("ssh", _) => Ok(Box::new(Remote::start(&self.text)?)),
            _ => Err(io::Error::other("its address is neither `unix://`, `tcp://` nor `ssh://`")),
        }
    }
}

/// A host and its port, of which `docker` lets either be missing.
fn completed(host: &str, is_encrypted: bool) -> String {
    let (name, port) = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).unwrap_or((host, ""));
    let name = if name.is_empty() { "localhost" } else { name };
    let port = if port.is_empty() { PORTS[usize::from(is_encrypted)] } else { port };
    format!("{name}:{port}")
}

/// Connects to a host, in a thread that is left to itself when that takes too long or is cancelled: nothing else ends it.
fn reach(host: String, cancel: &CancelToken) -> io::Result<TcpStream> {
    let (sender, answer) = mpsc::channel();
    let cancelled = sender.clone();
    let _guard = cancel.on_cancel(move || {
        let _ = cancelled.send(Err(io::Error::other("it was cancelled")));
    });
    std::thread::Builder::new().name("dial".to_owned()).spawn(move || {
        // Nobody may wait for it any longer.
        let _ = sender.send(TcpStream::connect(host));
    })?;
    answer.recv_timeout(CONNECT).unwrap_or_else(|_| Err(io::Error::other("it does not answer")))
}

/// A way to a daemon. Reading fails with `WouldBlock` now and then, where nothing comes.
trait Stream: Read + Write {
    /// What the program on the way says to an end that was not to be.
    fn complaint(&mut self) -> Option<String> {
        None
    }
}

impl Stream for UnixStream {}
impl Stream for TcpStream {}
impl Stream for StreamOwned<ClientConnection, TcpStream> {}

/// A way to a daemon whose reader is not kept from ending.
pub(super) struct Patient<'a> {
    stream: Box<dyn Stream>,
    cancel: &'a CancelToken,
    last: Instant,
}

impl<'a> Patient<'a> {
    pub(super) fn dial(address: &Address, cancel: &'a CancelToken) -> Result<Self, RegistryError> {
        let stream = address.connect(cancel);
        cancel.check().map_err(FetchError::from)?;
        let stream = stream.map_err(|error| RegistryError::Daemon {
            address: address.text.clone(),
            reason: error.to_string(),
            is_forbidden: error.kind() == io::ErrorKind::PermissionDenied && address.text.starts_with("unix:"),
        })?;
        Ok(Self { stream, cancel, last: Instant::now() })
    }

    pub(super) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).and_then(|()| self.stream.flush())
    }

    pub(super) fn complaint(&mut self) -> Option<String> {
        self.stream.complaint()
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = patiently(self.cancel, self.last, || self.stream.read(buffer));
        self.last = Instant::now();
        count
    }
}

/// Tries again what has nothing to read, until it takes too long or is cancelled.
fn patiently<T>(cancel: &CancelToken, since: Instant, mut action: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match action() {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                cancel.check().map_err(io::Error::other)?;
                if since.elapsed() > PATIENCE {
                    return Err(io::Error::other("it says nothing"));
                }
            }
            other => return other,
        }
    }
}

/// Speaks to a daemon with encryption. It has to have a certificate of the one authority that the directory names.
fn encrypted(
    mut stream: TcpStream,
    host: &str,
    directory: &Path,
    cancel: &CancelToken,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let wrong = |name: &str, reason: &dyn std::fmt::Display| {
        io::Error::other(format!("`{}` cannot be used: {reason}", directory.join(name).display()))
    };
    let chain = |name: &str| {
        let certificates = CertificateDer::pem_file_iter(directory.join(name)).and_then(Iterator::collect);
        let certificates: Vec<CertificateDer<'static>> = certificates.map_err(|error| wrong(name, &error))?;
        if certificates.is_empty() { Err(wrong(name, &"it has no certificate in PEM form")) } else { Ok(certificates) }
    };
    let mut authorities = RootCertStore::empty();
    for certificate in chain(AUTHORITY)? {
        authorities.add(certificate).map_err(|error| wrong(AUTHORITY, &error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(io::Error::other)?.with_root_certificates(authorities);
    // As for `docker`, who the client is need not be said.
    let config = if directory.join(CERTIFICATE).exists() || directory.join(KEY).exists() {
        let key = PrivateKeyDer::from_pem_file(directory.join(KEY)).map_err(|error| wrong(KEY, &error))?;
        builder.with_client_auth_cert(chain(CERTIFICATE)?, key).map_err(|error| wrong(CERTIFICATE, &error))?
    } else {
        builder.with_no_client_auth()
    };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let begin = Instant::now();
    while connection.is_handshaking() {
        patiently(cancel, begin, || connection.complete_io(&mut stream))?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// A daemon of another machine, by way of `ssh`.
struct Remote {
    stream: UnixStream,
    child: Child,
    /// What `ssh` says, of which a pipe would hold only so much.
    complaints: File,
}

impl Remote {
    fn start(address: &str) -> io::Result<Self> {
        let (stream, other) = UnixStream::pair()?;
        let complaints = tempfile::tempfile()?;
        stream.set_read_timeout(Some(LOOK))?;
        let mut command = Command::new("ssh");
        command.args(arguments(address)?);
        command.stdin(OwnedFd::from(other.try_clone()?)).stdout(OwnedFd::from(other)).stderr(complaints.try_clone()?);
        let child = command.spawn().map_err(|error| io::Error::other(format!("`ssh` cannot be started: {error}")))?;
        Ok(Self { stream, child, complaints })
    }
}

/// What `docker` tells `ssh`, and not to ask anything: nobody could answer while images are built.
fn arguments(address: &str) -> io::Result<Vec<OsString>> {
    let unusable = |reason: &str| io::Error::other(format!("its address {reason}"));
    let url = Url::parse(address).map_err(|error| unusable(&format!("makes no sense: {error}")))?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| unusable("names no host"))?;
    if url.password().is_some() {
        return Err(unusable("has a password, which `ssh` does not take"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(unusable("has more than a user, a host, a port and a path"));
    }
    let mut words = vec!["-o".to_owned(), "BatchMode=yes".to_owned(), "-o".to_owned(), "ConnectTimeout=30".to_owned()];
    words.push("-T".to_owned());
    if !url.username().is_empty() {
        words.extend(["-l".to_owned(), url.username().to_owned()]);
    }
    if let Some(port) = url.port() {
        words.extend(["-p".to_owned(), port.to_string()]);
    }
    words.extend(["--", host.trim_matches(['[', ']']), "docker"].map(str::to_owned));
    if !matches!(url.path(), "" | "/") {
        // The other machine's shell reads it.
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
        if !url.path().chars().all(is_plain) {
            return Err(unusable("has a path with other than letters, digits, `.`, `_`, `-` and `/`"));
        }
        words.extend(["--host".to_owned(), format!("unix://{}", url.path())]);
    }
    words.extend(["system", "dial-stdio"].map(str::to_owned));
    Ok(words.into_iter().map(OsString::from).collect())
}

impl Read for Remote {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Remote {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for Remote {
    fn complaint(&mut self) -> Option<String> {
        let mut text = Vec::new();
        // It has ended, or says nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let length = self.complaints.seek(SeekFrom::End(0)).ok()?;
        self.complaints.seek(SeekFrom::Start(length.saturating_sub(COMPLAINT_LIMIT))).ok()?;
        (&self.complaints).take(COMPLAINT_LIMIT).read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        text.trim().lines().last().map(|line| format!("`ssh` says: {line}"))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_completed_as_docker_does() {
        let cases = [
            ("host.example", "host.example:2375"),
            ("host.example:4243", "host.example:4243"),
            ("host.example:", "host.example:2375"),
            (":4243", "localhost:4243"),
            ("[::1]", "[::1]:2375"),
            ("[::1]:4243", "[::1]:4243"),
            ("", "localhost:2375"),
        ];
        for (host, expected) in cases {
            assert_eq!(completed(host, false), expected, "{host}");
        }
        assert_eq!(completed("host.example", true), "host.example:2376");
    }

    #[test]
    fn ssh_is_told_what_docker_tells_it() {
        let told = |address: &str| {
            let words = arguments(address).unwrap();
            let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
            words[5..].join(" ")
        };
        assert_eq!(told("ssh://host.example"), "-- host.example docker system dial-stdio");
        assert_eq!(told("ssh://me@[::1]:22022/"), "-l me -p 22022 -- ::1 docker system dial-stdio");
        assert_eq!(told("ssh://h/run/d.sock"), "-- h docker --host unix:///run/d.sock system dial-stdio");
        for (address, reason) in [
            ("ssh://", "names no host"),
            ("ssh://me:secret@host", "has a password"),
            ("ssh://host/a;b", "has a path with other than"),
            ("ssh://host?a=b", "has more than"),
        ] {
            let error = arguments(address).unwrap_err().to_string();
            assert!(error.contains(reason), "{address}: {error}");
        }
    }
}
