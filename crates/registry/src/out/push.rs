//! Images on their way into a registry, as the OCI distribution specification has it: first what the manifest names, as far as the
//! registry lacks it, and the manifest last, so that nobody sees half an image.

use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use lamina_fetch::{FetchError, Message, Response, Standing};
use lamina_store::ArchiveRecord;
use url::Url;

use super::document::{MANIFEST_TYPE, configuration, manifest};
use super::{OutLayer, Outgoing};
use crate::{Registry, RegistryError};

/// Layers that are sent at the same time.
const CONNECTIONS: usize = 3;

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The SHA-256 of the manifest, in hexadecimal digits.
    pub digest: String,
    /// Layers that were sent; the registry had the others.
    pub layers_sent: usize,
    /// Bytes of these.
    pub bytes_sent: u64,
}

impl Outgoing<'_> {
    /// Sends the image to a registry, under the tag of its reference.
    ///
    /// # Errors
    /// When a layer cannot be read, or the registry does not take the image. No manifest is sent then.
    pub fn push(&self, registry: &Registry) -> Result<Pushed, RegistryError> {
        self.push_all(registry).map_err(|error| match error {
            RegistryError::Fetch(FetchError::Cancelled(_)) => error,
            RegistryError::Fetch(_) | RegistryError::Digest { .. } => {
                RegistryError::Broken { image: registry.name(), reason: Box::new(error) }
            }
            error => error,
        })
    }

    fn push_all(&self, registry: &Registry) -> Result<Pushed, RegistryError> {
        registry.log_in()?;
        let push = Push { image: self, registry };
        let sent = push.layers()?;
        let archives: Vec<ArchiveRecord> = sent.iter().map(|sent| sent.archive.clone()).collect();
        let configuration = configuration(self, &archives);
        let manifest = manifest(self, &configuration, &archives)?;
        if !push.has(&configuration.sha256)? {
            let mut file = tempfile::tempfile()?;
            std::io::Write::write_all(&mut file, &configuration.bytes)?;
            push.send(&configuration.sha256, configuration.bytes.len() as u64, &file, None)?;
        }
        self.cancel.check().map_err(FetchError::from)?;
        push.publish(&manifest.bytes, &manifest.sha256)?;
        let new = || sent.iter().filter(|sent| sent.is_new);
        Ok(Pushed {
            digest: manifest.sha256,
            layers_sent: new().count(),
            bytes_sent: new().map(|sent| sent.archive.size).sum(),
        })
    }
}

/// A layer that the registry has now.
struct Sent {
    archive: ArchiveRecord,
    is_new: bool,
}

struct Push<'a> {
    image: &'a Outgoing<'a>,
    registry: &'a Registry,
}

impl Push<'_> {
    /// Sees to it that the registry has all layers, several at a time.
    fn layers(&self) -> Result<Vec<Sent>, RegistryError> {
        let layers = &self.image.layers;
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results: Mutex<Vec<Option<Sent>>> = Mutex::new(layers.iter().map(|_| None).collect());
        let failure: Mutex<Option<RegistryError>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS.min(layers.len()) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(layer) = layers.get(index) else { return };
                        match self.layer(layer) {
                            Ok(sent) => {
                                results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(sent);
                                self.image.advanced(done.fetch_add(1, Ordering::Relaxed) + 1);
                            }
                            Err(error) => {
                                next.store(layers.len(), Ordering::Relaxed);
                                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                                return;
                            }
                        }
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()),
        }
    }

    /// Sees to it that the registry has a layer, in whatever form it is known to have it.
    fn layer(&self, layer: &OutLayer) -> Result<Sent, RegistryError> {
        let archives = self.image.archives();
        let mut started = None;
        if let Some(known) = archives.known(layer)? {
            if self.has(&known.sha256)? {
                return self.noted(known, false);
            }
            match self.mount(&known)? {
                Mounted::Done => return self.noted(known, false),
                Mounted::Started(url) => started = Some((known.sha256, url)),
                Mounted::No => {}
            }
        }
        let (archive, file) = archives.get(layer)?;
        // What was begun is for the bytes of which it was asked.
        let begun = started.filter(|(sha256, _)| *sha256 == archive.sha256).map(|(_, url)| url);
        if begun.is_none() && self.has(&archive.sha256)? {
            return self.noted(archive, false);
        }
        self.send(&archive.sha256, archive.size, &file, begun)?;
        self.noted(archive, true)
    }

    /// Notes that the repository has an archive.
    fn noted(&self, mut archive: ArchiveRecord, is_new: bool) -> Result<Sent, RegistryError> {
        let repository = self.registry.repository();
        if !archive.repositories.contains(&repository) {
            archive.repositories.push(repository);
            self.image.store.record_archive(&archive)?;
        }
        Ok(Sent { archive, is_new })
    }

    fn has(&self, sha256: &str) -> Result<bool, RegistryError> {
        let url = self.registry.url("blobs", &format!("sha256:{sha256}"));
        let response = self.ask("HEAD", &url, &[], &[])?;
        match response.status {
            // Some answer a question for what they keep elsewhere with where that is.
            200..=208 | 301..=308 => Ok(true),
            404 => Ok(false),
            _ => Err(self.registry.does_not_take(&response)),
        }
    }

    /// Asks the registry to take an archive from another of its repositories.
    fn mount(&self, archive: &ArchiveRecord) -> Result<Mounted, RegistryError> {
        let Some(from) = archive.repositories.iter().find_map(|other| self.registry.neighbour(other)) else {
            return Ok(Mounted::No);
        };
        let mut url = self.registry.uploads()?;
        url.query_pairs_mut().append_pair("mount", &format!("sha256:{}", archive.sha256)).append_pair("from", from);
        let response = self.ask("POST", url.as_str(), &[], &[])?;
        match response.status {
            201 => Ok(Mounted::Done),
            202 => Ok(Mounted::Started(self.next(&response, url.as_str())?)),
            // It may not let the login see that one, or know nothing of this.
            _ => Ok(Mounted::No),
        }
    }

    /// Sends bytes, from where the registry says that it has them to.
    fn send(&self, sha256: &str, size: u64, file: &File, begun: Option<String>) -> Result<(), RegistryError> {
        let client = self.registry.client();
        let mut refused = None;
        let mut upload = begun;
        let mut is_first = true;
        let mut stand = || {
            let standing = match upload.take() {
                Some(url) if is_first => Ok((url, 0)),
                Some(url) => self.resume(&url),
                None => self.begin(),
            };
            is_first = false;
            match standing {
                Ok((url, offset)) => {
                    upload = Some(url.clone());
                    Ok(Standing { headers: self.registry.headers_for(&url), url, offset })
                }
                Err(RegistryError::Fetch(error)) => Err(error),
                Err(error) => {
                    refused = Some(error);
                    Err(FetchError::Io(std::io::Error::other("the registry refuses")))
                }
            }
        };
        let sent = client.with_headers(Vec::new()).send_file(file, size, &mut stand);
        if let Some(error) = refused {
            return Err(error);
        }
        let response = sent?;
        if !(200..300).contains(&response.status) {
            return Err(self.registry.does_not_take(&response));
        }
        let here = upload.unwrap_or_default();
        let mut end = Url::parse(&self.next(&response, &here)?).map_err(|error| self.misled(&error.to_string()))?;
        end.query_pairs_mut().append_pair("digest", &format!("sha256:{sha256}"));
        let response =
            self.ask("PUT", end.as_str(), &[("content-type", "application/octet-stream".to_owned())], &[])?;
        // Where the answer to a first end was lost, the second one finds no upload any more.
        if (200..300).contains(&response.status) || self.has(sha256)? {
            return Ok(());
        }
        Err(self.registry.does_not_take(&response))
    }

    fn begin(&self) -> Result<(String, u64), RegistryError> {
        let url = self.registry.uploads()?;
        let response = self.ask("POST", url.as_str(), &[], &[])?;
        if response.status != 202 {
            return Err(self.registry.does_not_take(&response));
        }
        Ok((self.next(&response, url.as_str())?, 0))
    }

    /// Where an upload is that broke; one that the registry has forgotten is begun anew.
    fn resume(&self, url: &str) -> Result<(String, u64), RegistryError> {
        let response = self.ask("GET", url, &[], &[])?;
        let end = response.range.as_deref().and_then(|range| range.trim_start_matches("bytes=").split_once('-'));
        match (response.status, end.and_then(|(_, end)| end.parse::<u64>().ok())) {
            // `0-0` is what an upload of nothing says as well, and one byte is soon sent again.
            (200..300, Some(end)) if end > 0 => Ok((self.next(&response, url)?, end + 1)),
            _ => self.begin(),
        }
    }

    /// Makes the manifest known: from here on the image is there.
    fn publish(&self, bytes: &[u8], sha256: &str) -> Result<(), RegistryError> {
        let url = self.registry.url("manifests", &self.registry.tag());
        let headers = [("content-type", MANIFEST_TYPE.to_owned())];
        let response = self.ask("PUT", &url, &headers, bytes)?;
        if !(200..300).contains(&response.status) {
            return Err(self.registry.does_not_take(&response));
        }
        match response.digest.as_deref().and_then(|digest| digest.strip_prefix("sha256:")) {
            Some(found) if found != sha256 => {
                Err(RegistryError::Digest { expected: sha256.to_owned(), found: found.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Sends something, with a new login where the present one has come to its end.
    fn ask(
        &self,
        method: &str,
        url: &str,
        headers: &[(&'static str, String)],
        body: &[u8],
    ) -> Result<Response, RegistryError> {
        let send = || {
            let headers = [headers, &self.registry.headers_for(url)].concat();
            self.registry.client().with_headers(Vec::new()).send(&Message { method, url, headers: &headers, body })
        };
        let response = send()?;
        if response.status != 401 {
            return Ok(response);
        }
        self.registry.log_in()?;
        Ok(send()?)
    }

    /// Where an upload goes on.
    fn next(&self, response: &Response, here: &str) -> Result<String, RegistryError> {
        let location = response.location.as_deref().unwrap_or(here);
        let next = Url::parse(here).and_then(|here| here.join(location));
        let next = next.map_err(|error| self.misled(&format!("`{location}`: {error}")))?;
        let is_open = next.scheme() == "http" && here.starts_with("http:");
        if next.scheme() != "https" && !is_open {
            return Err(self.misled(&format!("`{}://` is no encrypted address", next.scheme())));
        }
        Ok(next.into())
    }

    fn misled(&self, reason: &str) -> RegistryError {
        RegistryError::NotTaken { image: self.registry.name(), reason: format!("it leads an upload astray: {reason}") }
    }
}

/// What came of asking for an archive of another repository.
enum Mounted {
    Done,
    /// The registry has it not, but has begun to take it: here.
    Started(String),
    No,
}

impl Registry {
    /// Headers for an address that the registry gave: its login, if that is the registry's own.
    fn headers_for(&self, url: &str) -> Vec<(&'static str, String)> {
        let origin = |url: &str| Url::parse(url).map(|url| url.origin()).ok();
        if origin(url) == origin(&self.url("", "")) { self.authorization().into_iter().collect() } else { Vec::new() }
    }

    /// Where uploads begin.
    fn uploads(&self) -> Result<Url, RegistryError> {
        Url::parse(&self.url("blobs", "uploads/")).map_err(|error| RegistryError::Malformed(error.to_string()))
    }

    /// What the registry says to something that it does not take.
    fn does_not_take(&self, response: &Response) -> RegistryError {
        #[derive(serde::Deserialize)]
        struct Answer {
            errors: Vec<Reason>,
        }
        #[derive(serde::Deserialize)]
        struct Reason {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let answer = serde_json::from_slice::<Answer>(&response.bytes).ok();
        let said = answer.and_then(|answer| answer.errors.into_iter().next());
        let said = said.map(|reason| format!(", {}: {}", reason.code, reason.message)).unwrap_or_default();
        let reason = format!("status {}{said}", response.status);
        if matches!(response.status, 401 | 403) {
            return self.denied(&reason);
        }
        RegistryError::NotTaken { image: self.name(), reason }
    }
}
