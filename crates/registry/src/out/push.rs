//! Images on their way into a registry, as the OCI distribution specification has it: first what the manifest names, as far as the
//! registry lacks it, and the manifest last, so that nobody sees half an image.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use lamina_fetch::FetchError;
use lamina_store::ArchiveRecord;

use super::document::{configuration, manifest};
use super::{OutLayer, Outgoing};
use crate::sending::Sending;
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
    /// Layers that have other digests than those that they came with.
    pub layers_made_anew: usize,
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
        let push = Push { image: self, registry, sending: Sending { registry } };
        let sent = push.layers()?;
        let archives: Vec<ArchiveRecord> = sent.iter().map(|sent| sent.archive.clone()).collect();
        let configuration = configuration(self, &archives);
        let manifest = manifest(self, &configuration, &archives)?;
        if !push.sending.has(&configuration.sha256)? {
            let mut file = tempfile::tempfile()?;
            std::io::Write::write_all(&mut file, &configuration.bytes)?;
            push.sending.send(&configuration.sha256, configuration.bytes.len() as u64, &file, None)?;
        }
        self.cancel.check().map_err(FetchError::from)?;
        push.sending.publish(&registry.tag(), &manifest.bytes, &manifest.sha256)?;
        let new = || sent.iter().filter(|sent| sent.is_new);
        Ok(Pushed {
            digest: manifest.sha256,
            layers_sent: new().count(),
            bytes_sent: new().map(|sent| sent.archive.size).sum(),
            layers_made_anew: self.made_anew.load(Ordering::Relaxed),
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
    sending: Sending<'a>,
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
            if self.sending.has(&known.sha256)? {
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
        if begun.is_none() && self.sending.has(&archive.sha256)? {
            return self.noted(archive, false);
        }
        self.sending.send(&archive.sha256, archive.size, &file, begun)?;
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

    /// Asks the registry to take an archive from another of its repositories.
    fn mount(&self, archive: &ArchiveRecord) -> Result<Mounted, RegistryError> {
        let Some(from) = archive.repositories.iter().find_map(|other| self.registry.neighbour(other)) else {
            return Ok(Mounted::No);
        };
        let mut url = self.registry.uploads()?;
        url.query_pairs_mut().append_pair("mount", &format!("sha256:{}", archive.sha256)).append_pair("from", from);
        let response = self.sending.ask("POST", url.as_str(), &[], &[])?;
        match response.status {
            201 => Ok(Mounted::Done),
            202 => Ok(Mounted::Started(self.sending.next(&response, url.as_str())?)),
            // It may not let the login see that one, or know nothing of this.
            _ => Ok(Mounted::No),
        }
    }
}

/// What came of asking for an archive of another repository.
enum Mounted {
    Done,
    /// The registry has it not, but has begun to take it: here.
    Started(String),
    No,
}
