//! A registry, with the login that it wants for one image.

use std::sync::{Mutex, OnceLock};

use data_encoding::HEXLOWER;
use lamina_fetch::{Client, Download, FetchError};
use lamina_ground::nearest;
use lamina_image::{Digest as LayerDigest, RuntimeConfig};
use lamina_store::ArchiveRecord;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::certificates;
use crate::chunked::Location;
use crate::login::Login;
use crate::manifest::{ACCEPTED, Configuration, Document, Manifest, choose, own_platform};
use crate::settings::{Settings, Source};
use crate::unpack::Compression;
use crate::{Descriptor, Reference, RegistryError, original_form};

/// Most bytes of a manifest, as registries have it.
pub(crate) const MANIFEST_LIMIT: u64 = 4 << 20;
/// Most bytes of a configuration.
pub(crate) const CONFIGURATION_LIMIT: u64 = 8 << 20;
/// Most bytes of the answer of a token service.
const TOKEN_LIMIT: u64 = 1 << 20;
/// What token services are told that asks.
const CLIENT_ID: &str = "lamina";
/// Most tags that a registry is asked for, and that an error shows.
const MOST_TAGS: u32 = 1000;
const SHOWN_TAGS: usize = 5;
/// Most layers of an image. Overlays of Linux take 500, and steps and local files come on top.
const MOST_LAYERS: usize = 400;

/// The registry of an image.
pub struct Registry {
    reference: Reference,
    /// Where its interface is, as soon as that is known.
    endpoint: OnceLock<String>,
    login: Option<Login>,
    client: Client,
    /// What the registry was told with the last request that it took.
    authorization: Mutex<Option<String>>,
    /// What a token is asked for.
    scopes: Vec<String>,
    /// Where else the image is looked for, with the login that is told there.
    others: Vec<(Source, Option<Login>)>,
}

/// An image that is in no store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The SHA-256 of its manifest, in hexadecimal digits; none where it has no manifest.
    pub digest: Option<String>,
    /// Its layers, the lowest first.
    pub layers: Vec<Part>,
    /// Instructions for whoever builds on it by a Dockerfile: `ONBUILD`.
    pub triggers: Vec<String>,
    /// How things are run in it.
    pub config: RuntimeConfig,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// How it is fetched.
    pub(crate) download: Download,
    pub(crate) compression: Compression,
    /// Where its table of contents is, if it has one.
    pub(crate) table: Option<Location>,
    /// The SHA-256 of the archive inside, in hexadecimal digits.
    pub diff_id: String,
}

impl Part {
    /// What is to be noted of the archive that a layer came in.
    #[must_use]
    pub fn record(&self, layer: LayerDigest, below: &[LayerDigest], repository: Option<String>) -> ArchiveRecord {
        ArchiveRecord {
            layer,
            form: original_form(below),
            diff_id: self.diff_id.clone(),
            sha256: self.download.sha256.clone(),
            size: self.download.size.unwrap_or_default(),
            compression: self.compression.name().to_owned(),
            repositories: repository.into_iter().collect(),
            image: None,
        }
    }

    /// The SHA-256 of it as it is fetched, in hexadecimal digits.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.download.sha256
    }

    /// Its length in bytes, as it is fetched.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.download.size
    }
}

impl Registry {
    /// The registry of an image; the host's login counts where none is given.
    ///
    /// # Errors
    /// When the host has a file of logins that cannot be read.
    pub fn of(reference: &Reference, login: Option<Login>, client: &Client) -> Result<Self, RegistryError> {
        Self::at(&Source { reference: reference.clone(), is_insecure: false, is_named: true }, login, client)
    }

    fn at(source: &Source, login: Option<Login>, client: &Client) -> Result<Self, RegistryError> {
        let Source { reference, is_insecure, .. } = source;
        let login = match login {
            Some(login) => Some(login),
            None => Login::of_host(reference, client.cancel())?,
        };
        let trust = certificates::of_host(&reference.registry)?;
        // For Docker those of this machine are insecure, too; whoever has certificates for one wants it to prove who it is.
        let is_insecure = *is_insecure || reference.is_local() && trust.is_empty();
        let endpoint = if is_insecure { OnceLock::new() } else { reference.endpoint("https").into() };
        let client = client.with_trust(if is_insecure { trust.blind() } else { trust });
        Ok(Self {
            reference: reference.clone(),
            endpoint,
            login,
            client,
            others: Vec::new(),
            authorization: Mutex::default(),
            scopes: vec![format!("repository:{}:pull", reference.repository)],
        })
    }

    /// The first of the places where the host's settings say that an image is which has it, and the image. Mirrors are not told
    /// the login that is given.
    ///
    /// # Errors
    /// When the host has settings that cannot be used, or what the last place says.
    pub fn find(reference: &Reference, login: Option<&Login>, client: &Client) -> Result<(Self, Image), RegistryError> {
        let mut sources = Settings::of_host()?.sources(reference)?.into_iter().peekable();
        let of_source = |source: &Source| login.filter(|_| source.is_named).cloned();
        while let Some(source) = sources.next() {
            let found = Self::at(&source, of_source(&source), client).and_then(|registry| {
                let image = registry.image()?;
                let others =
                    sources.clone().map(|other| (of_source(&other), other)).map(|(login, other)| (other, login));
                Ok((Self { others: others.collect(), ..registry }, image))
            });
            client.cancel().check().map_err(FetchError::from)?;
            if found.is_ok() || sources.peek().is_none() {
                return found;
            }
        }
        Err(RegistryError::Blocked { image: reference.to_string() })
    }

    /// The next places that may have what this one does not give.
    pub(crate) fn others(&self) -> impl Iterator<Item = Result<Self, RegistryError>> {
        self.others.iter().map(|(source, login)| {
            let registry = Self::at(source, login.clone(), &self.client)?;
            registry.log_in()?;
            Ok(registry)
        })
    }

    /// Tags of the image, the most similar ones first; none if the registry does not say.
    fn tags(&self) -> Vec<String> {
        #[derive(Deserialize)]
        struct Answer {
            tags: Option<Vec<String>>,
        }
        let Some(wanted) = self.reference.tag.as_deref().filter(|_| self.reference.digest.is_none()) else {
            return Vec::new();
        };
        let url = format!("{}?n={MOST_TAGS}", self.url("tags", "list"));
        let answer = self.client().get(&url, MANIFEST_LIMIT).ok();
        let answer = answer.and_then(|bytes| serde_json::from_slice::<Answer>(&bytes).ok());
        let tags = answer.and_then(|answer| answer.tags).unwrap_or_default();
        let mut shown = nearest(wanted, tags.iter().map(String::as_str));
        let others: Vec<_> = tags.iter().filter(|tag| !shown.contains(tag)).cloned().collect();
        shown.extend(others);
        shown.truncate(SHOWN_TAGS);
        shown
    }

    /// The registry for an image that is to get there, with layers that these repositories have.
    ///
    /// # Errors
    /// When the image is named by a digest, or the host has settings or logins that cannot be used.
    pub fn for_push<'a>(
        reference: &Reference,
        client: &Client,
        repositories: impl Iterator<Item = &'a str>,
    ) -> Result<Self, RegistryError> {
        if reference.digest.is_some() {
            return Err(RegistryError::NoTag(reference.to_string()));
        }
        Ok(Self::named(reference, client)?.that_takes(repositories))
    }

    /// The registry that is named, and no mirror of it, with the host's login.
    pub(crate) fn named(reference: &Reference, client: &Client) -> Result<Self, RegistryError> {
        let source = Settings::of_host()?.sources(reference)?.into_iter().rfind(|source| source.is_named);
        let source = source.ok_or_else(|| RegistryError::Blocked { image: reference.to_string() })?;
        Self::at(&source, None, client)
    }

    /// The same for writing, with what these repositories have.
    pub(crate) fn that_takes<'a>(self, repositories: impl Iterator<Item = &'a str>) -> Self {
        let own = &self.reference.repository;
        let neighbours = repositories.filter_map(|other| self.neighbour(other));
        let mut scopes: Vec<_> = neighbours.map(|other| format!("repository:{other}:pull")).collect();
        scopes.sort();
        scopes.dedup();
        scopes.insert(0, format!("repository:{own}:pull,push"));
        Self { scopes, ..self }
    }

    /// Another repository of this registry, without its host.
    pub(crate) fn neighbour<'a>(&self, repository: &'a str) -> Option<&'a str> {
        let other = repository.strip_prefix(&self.reference.registry)?.strip_prefix('/')?;
        (other != self.reference.repository).then_some(other)
    }

    /// The image's repository, with its host.
    pub(crate) fn repository(&self) -> String {
        format!("{}/{}", self.reference.registry, self.reference.repository)
    }

    /// The image, in the full form of its name.
    pub(crate) fn name(&self) -> String {
        self.reference.to_string()
    }

    /// The tag of the image.
    pub(crate) fn tag(&self) -> String {
        self.reference.manifest()
    }

    /// The header that lets a request in.
    pub(crate) fn authorization(&self) -> Option<(&'static str, String)> {
        let authorization = self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        authorization.map(|value| ("authorization", value))
    }

    /// What the image is now, for this machine.
    ///
    /// # Errors
    /// When the registry does not have it or does not give it, or it is no image for this machine.
    pub fn image(&self) -> Result<Image, RegistryError> {
        self.log_in()?;
        let (digest, manifest) = self.manifest()?;
        let config = self.bytes("blobs", &manifest.config.digest, CONFIGURATION_LIMIT)?;
        check(manifest.config.sha256()?, &config)?;
        let configuration = Configuration::parse(&config)?;
        let layers = parts(&self.name(), &manifest, configuration.diff_ids(), |digest| self.url("blobs", digest))?;
        Ok(Image { digest: Some(digest), layers, triggers: configuration.triggers(), config: configuration.runtime() })
    }

    /// A client that is let in.
    pub(crate) fn client(&self) -> Client {
        self.client.with_headers(self.authorization().into_iter().collect())
    }

    pub(crate) fn url(&self, kind: &str, name: &str) -> String {
        format!("{}/{}/{kind}/{name}", self.endpoint(), self.reference.repository)
    }

    /// Where its interface is. One that is insecure is asked whether it speaks TLS, and spoken to without only if it does not, as
    /// podman does it. If that is cancelled, so is whatever needs the answer.
    fn endpoint(&self) -> &str {
        self.endpoint.get_or_init(|| {
            let encrypted = self.reference.endpoint("https");
            let is_encrypted = self.client.has_answer(&format!("{encrypted}/")).unwrap_or_default();
            if is_encrypted { encrypted } else { self.reference.endpoint("http") }
        })
    }

    /// Finds out which login the registry wants, and gets it.
    pub(crate) fn log_in(&self) -> Result<(), RegistryError> {
        let answer = self.client.ask(&format!("{}/", self.endpoint()))?;
        if answer.status != 401 {
            return Ok(());
        }
        let challenges = answer.challenges.iter().filter_map(|text| Challenge::parse(text));
        let challenges: Vec<_> = challenges.collect();
        let authorization = if let Some(Challenge::Bearer { realm, service }) =
            challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }))
        {
            format!("Bearer {}", self.token(realm, service.as_deref())?)
        } else if challenges.contains(&Challenge::Basic) {
            let login = self.login.as_ref().ok_or_else(|| self.denied("it wants a login"))?;
            login.header().ok_or_else(|| self.denied("it wants a name and a password, and the login is a token"))?
        } else {
            return Err(self.denied("it wants a login of a kind that is not known here"));
        };
        *self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(authorization);
        Ok(())
    }

    /// A token for reading the image, from the service that the registry names.
    fn token(&self, realm: &str, service: Option<&str>) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let malformed = |reason: String| RegistryError::Malformed(format!("the registry's token service: {reason}"));
        let mut url = Url::parse(realm).map_err(|error| malformed(format!("`{realm}`: {error}")))?;
        // A password is not sent where anybody could read it, but where the registry is spoken to like that already.
        let is_open = url.scheme() == "http" && self.endpoint().starts_with("http:");
        if url.scheme() != "https" && !is_open {
            return Err(malformed(format!("`{realm}` is no address that is encrypted")));
        }
        let answer = match &self.login {
            Some(Login::IdentityToken(token)) => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.extend_pairs([("grant_type", "refresh_token"), ("client_id", CLIENT_ID)])
                    .extend_pairs([("refresh_token", token.as_str()), ("scope", &*self.scopes.join(" "))])
                    .extend_pairs(service.map(|service| ("service", service)));
                let headers = [("content-type", "application/x-www-form-urlencoded".to_owned())];
                let reply = self.client.post(url.as_str(), &headers, form.finish().as_bytes(), TOKEN_LIMIT)?;
                if !(200..300).contains(&reply.status) {
                    return Err(self.denied(&format!("its token service took no token (status {})", reply.status)));
                }
                reply.bytes
            }
            login => {
                url.query_pairs_mut()
                    .extend_pairs(service.map(|service| ("service", service)))
                    .extend_pairs(self.scopes.iter().map(|scope| ("scope", scope)));
                let header = login.as_ref().and_then(Login::header).map(|header| ("authorization", header));
                let client = self.client.with_headers(header.into_iter().collect());
                client.get(url.as_str(), TOKEN_LIMIT).map_err(|error| match error {
                    FetchError::Status { status: 401 | 403, .. } => self.denied("the login is not right"),
                    other => other.into(),
                })?
            }
        };
        let answer: Answer = serde_json::from_slice(&answer).map_err(|error| malformed(error.to_string()))?;
        answer.token.or(answer.access_token).ok_or_else(|| malformed("it gave no token".to_owned()))
    }

    /// The manifest for this machine, and its digest.
    fn manifest(&self) -> Result<(String, Manifest), RegistryError> {
        let bytes = self.bytes("manifests", &self.reference.manifest(), MANIFEST_LIMIT)?;
        let digest = match &self.reference.digest {
            Some(digest) => check(digest, &bytes)?,
            None => sha256(&bytes),
        };
        match Document::parse(&bytes)? {
            Document::Manifest(manifest) => Ok((digest, manifest)),
            Document::Index(manifests) => {
                let chosen = choose(&manifests, &own_platform())?;
                let bytes = self.bytes("manifests", &chosen.digest, MANIFEST_LIMIT)?;
                let digest = check(chosen.sha256()?, &bytes)?;
                match Document::parse(&bytes)? {
                    Document::Manifest(manifest) => Ok((digest, manifest)),
                    Document::Index(_) => Err(RegistryError::Malformed("its index leads to another index".to_owned())),
                }
            }
        }
    }

    fn bytes(&self, kind: &str, name: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let url = self.url(kind, name);
        if kind != "manifests" {
            return self.client().get(&url, limit).map_err(|error| self.refused(error));
        }
        let client = self.client().and_header("accept", ACCEPTED.to_owned());
        let manifest = client.get_described(&url, limit).map_err(|error| self.refused(error))?;
        if let Some(other) = manifest.media_type.as_deref().filter(|media_type| !is_of_a_manifest(media_type)) {
            return Err(RegistryError::Malformed(format!(
                "`{url}` is of the type `{other}`, which no manifest has; is there a registry, or a proxy on the way that \
                 answers in its place?"
            )));
        }
        // What a tag stands for has no digest that was known before, but the registry may name one.
        if let Some(announced) = manifest.digest.as_deref().and_then(|digest| digest.strip_prefix("sha256:")) {
            check(announced, &manifest.bytes)?;
        }
        Ok(manifest.bytes)
    }

    /// What a refusal says about the image.
    pub(crate) fn refused(&self, error: FetchError) -> RegistryError {
        let (registry, image) = (self.reference.registry.clone(), self.reference.to_string());
        match error {
            FetchError::Status { status: 404, url } => match url.rsplit_once("/blobs/") {
                Some((_, part)) => RegistryError::Incomplete { registry, image, part: part.to_owned() },
                None => {
                    RegistryError::NotFound { registry, image, is_logged_in: self.login.is_some(), tags: self.tags() }
                }
            },
            FetchError::Status { status: status @ (401 | 403), .. } => self.denied(&format!("status {status}")),
            other => other.into(),
        }
    }

    pub(crate) fn denied(&self, reason: &str) -> RegistryError {
        RegistryError::Denied {
            registry: self.reference.registry.clone(),
            image: self.reference.to_string(),
            reason: reason.to_owned(),
            is_logged_in: self.login.is_some(),
            is_for_push: self.scopes.iter().any(|scope| scope.ends_with(",push")),
        }
    }
}

/// The layers of an image, called `name` in messages, whose blobs are at the addresses of their digests.
pub(crate) fn parts(
    name: &str,
    manifest: &Manifest,
    diff_ids: &[String],
    address: impl Fn(&str) -> String,
) -> Result<Vec<Part>, RegistryError> {
    if manifest.layers.len() != diff_ids.len() {
        return Err(RegistryError::Malformed(format!(
            "its manifest has {} layers, its configuration {}",
            manifest.layers.len(),
            diff_ids.len()
        )));
    }
    check_count(name, diff_ids.len())?;
    let parts = manifest.layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
        let diff_id = Descriptor::of_digest(diff_id).sha256()?.to_owned();
        let sha256 = layer.sha256()?.to_owned();
        let url = address(&layer.digest);
        let compression = compression(layer)?;
        Ok(Part {
            download: Download { url, sha256, size: Some(layer.size) },
            compression,
            table: Location::of(layer),
            diff_id,
        })
    });
    parts.collect()
}

/// Refuses more layers than images may have.
pub(crate) fn check_count(name: &str, layers: usize) -> Result<(), RegistryError> {
    if layers > MOST_LAYERS {
        return Err(RegistryError::TooManyLayers { image: name.to_owned(), layers, most: MOST_LAYERS });
    }
    Ok(())
}

/// Whether a manifest may come as this: registries that are files on a web server know no better.
fn is_of_a_manifest(media_type: &str) -> bool {
    media_type.is_empty()
        || media_type.ends_with("json")
        || matches!(media_type, "application/octet-stream" | "text/plain")
        || media_type.starts_with("application/vnd.docker.distribution.manifest.")
}

/// How a layer is compressed, by its media type.
fn compression(layer: &Descriptor) -> Result<Compression, RegistryError> {
    let media_type = layer.media_type.as_str();
    if media_type.contains("nondistributable") || media_type.contains("foreign") {
        return Err(RegistryError::Foreign(layer.digest.clone()));
    }
    match media_type {
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Ok(Compression::Gzip)
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" => Ok(Compression::Zstd),
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Ok(Compression::None)
        }
        other => {
            Err(RegistryError::Malformed(format!("the layer `{}` is of an unknown kind: `{other}`", layer.digest)))
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

pub(crate) fn check(expected: &str, bytes: &[u8]) -> Result<String, RegistryError> {
    let found = sha256(bytes);
    if found == expected {
        return Ok(found);
    }
    Err(RegistryError::Digest { expected: expected.to_owned(), found })
}

/// A kind of login that a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header with one challenge.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut rest) = (None, None, rest);
        while let Some((name, after)) = rest.split_once('=') {
            let (value, left) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match name.trim_matches([',', ' ']) {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => {}
            }
            rest = left;
        }
        Some(Self::Bearer { realm: realm?, service })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        let cases = [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://auth.example/t\",service=\"r.example\"",
                bearer("https://auth.example/t", Some("r.example")),
            ),
            (
                "bearer service=r, realm=\"https://a.example/?x=1,2\", scope=\"a:b,c\"",
                bearer("https://a.example/?x=1,2", Some("r")),
            ),
            ("Bearer service=\"r\"", None),
            ("Bearer realm=\"unclosed", None),
            ("Negotiate", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Challenge::parse(text), expected, "{text}");
        }
    }
}
