//! Bytes and manifests on their way into a repository, as the OCI distribution specification has it.

use std::fs::File;

use lamina_fetch::{FetchError, Message, Response, Standing};
use url::Url;

use crate::{Registry, RegistryError};

/// The type of manifests.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// What sends to a repository.
#[derive(Clone, Copy)]
pub(crate) struct Sending<'a> {
    pub(crate) registry: &'a Registry,
}

impl Sending<'_> {
    /// Whether the registry has something.
    pub(crate) fn has(self, sha256: &str) -> Result<bool, RegistryError> {
        let url = self.registry.url("blobs", &format!("sha256:{sha256}"));
        let response = self.ask("HEAD", &url, &[], &[])?;
        match response.status {
            // Some answer a question for what they keep elsewhere with where that is.
            200..=208 | 301..=308 => Ok(true),
            404 => Ok(false),
            _ => Err(self.registry.does_not_take(&response)),
        }
    }

    /// Sends bytes, from where the registry says that it has them to.
    pub(crate) fn send(self, sha256: &str, size: u64, file: &File, begun: Option<String>) -> Result<(), RegistryError> {
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
        let client = client.with_headers(Vec::new());
        let mut sent = client.send_file(file, size, &mut stand);
        // Between the beginning and this, an archive may have been made, for longer than a login lasts, or than the registry
        // remembers. Asking how far the upload is gets a new login, or shows that it is to be begun anew.
        if sent.as_ref().is_ok_and(|response| matches!(response.status, 401 | 404 | 416)) {
            sent = client.send_file(file, size, &mut stand);
        }
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

    fn begin(self) -> Result<(String, u64), RegistryError> {
        let url = self.registry.uploads()?;
        let response = self.ask("POST", url.as_str(), &[], &[])?;
        if response.status != 202 {
            return Err(self.registry.does_not_take(&response));
        }
        Ok((self.next(&response, url.as_str())?, 0))
    }

    /// Begins an upload, which is given up at once.
    pub(crate) fn check_taking(self) -> Result<(), RegistryError> {
        let (url, _) = self.begin()?;
        // Whoever does not know that forgets it by itself.
        let _ = self.ask("DELETE", &url, &[], &[]);
        Ok(())
    }

    /// Where an upload is that broke; one that the registry has forgotten is begun anew.
    fn resume(self, url: &str) -> Result<(String, u64), RegistryError> {
        let response = self.ask("GET", url, &[], &[])?;
        let end = response.range.as_deref().and_then(|range| range.trim_start_matches("bytes=").split_once('-'));
        match (response.status, end.and_then(|(_, end)| end.parse::<u64>().ok())) {
            // `0-0` is what an upload of nothing says as well, and one byte is soon sent again.
            (200..300, Some(end)) if end > 0 => Ok((self.next(&response, url)?, end + 1)),
            _ => self.begin(),
        }
    }

    /// Makes a manifest known: from here on what it is of is there.
    pub(crate) fn publish(self, tag: &str, bytes: &[u8], sha256: &str) -> Result<(), RegistryError> {
        let url = self.registry.url("manifests", tag);
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
    pub(crate) fn ask(
        self,
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
    pub(crate) fn next(self, response: &Response, here: &str) -> Result<String, RegistryError> {
        let location = response.location.as_deref().unwrap_or(here);
        let next = Url::parse(here).and_then(|here| here.join(location));
        let next = next.map_err(|error| self.misled(&format!("`{location}`: {error}")))?;
        let is_open = next.scheme() == "http" && here.starts_with("http:");
        if next.scheme() != "https" && !is_open {
            return Err(self.misled(&format!("`{}://` is no encrypted address", next.scheme())));
        }
        Ok(next.into())
    }

    fn misled(self, reason: &str) -> RegistryError {
        RegistryError::NotTaken { image: self.registry.name(), reason: format!("it leads an upload astray: {reason}") }
    }
}

impl Registry {
    /// Headers for an address that the registry gave: its login, if that is the registry's own.
    pub(crate) fn headers_for(&self, url: &str) -> Vec<(&'static str, String)> {
        let origin = |url: &str| Url::parse(url).map(|url| url.origin()).ok();
        if origin(url) == origin(&self.url("", "")) { self.authorization().into_iter().collect() } else { Vec::new() }
    }

    /// Where uploads begin.
    pub(crate) fn uploads(&self) -> Result<Url, RegistryError> {
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
