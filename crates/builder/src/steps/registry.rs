//! `from_registry`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lamina_fetch::{Client, FetchError, Progress};
use lamina_ground::{DEFAULT_PATH, ErrorClass, Hint, Stack, seconds_since_1970};
use lamina_image::{Digest, Facts, FromRegistry, Hasher, KeyMaterial, Node, RegistryProvider, SecretValues};
use lamina_registry::{
    Arrival, Image, LocalImage, Login, MALFORMED, OpenImage, Part, Pieces, Provider, Reference, Registry,
    RegistryError, unpack, unpack_pieces,
};
use lamina_store::{CommitRules, Committed, ImageName, LayerRecord, NamedImage, Store, StoreError, Work};

use super::look::look_at;
use super::python::described;
use super::{Kind, LayerKind, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::log::StepLog;

/// Layers that are fetched at the same time.
const CONNECTIONS: usize = 4;

impl Kind for FromRegistry {}

impl LayerKind for FromRegistry {
    /// What a tag of a registry stands for is no part of the key: it is looked up once, and again when the step is forced. An
    /// image of this machine counts as it is, like any local file; where it lies does not.
    fn plan(&self, planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        if let Some(local) = LocalImage::parse(&self.reference) {
            let local = local.map_err(BuildError::invalid)?;
            material.add("kind", "local_image");
            material.add("image", planning.local.fingerprint(&local)?);
            return Ok(Box::new(Load { image: local }));
        }
        let reference: Reference = self.reference.parse().map_err(BuildError::invalid)?;
        material.add("kind", "from_registry");
        material.add("reference", reference.to_string());
        let provider = self.provider.map(|provider| match provider {
            RegistryProvider::Aws => Provider::Amazon,
            RegistryProvider::Gcp => Provider::Google,
        });
        Ok(Box::new(Pull { reference, provider }))
    }
}

struct Pull {
    reference: Reference,
    provider: Option<Provider>,
}

impl Recipe for Pull {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let workshop = &context.workshop;
        let login = login(&self, context.node, workshop.fetch)?;
        (workshop.progress)(&format!("asking {}", self.reference.registry), 0, 0);
        let found = Registry::find(&self.reference, login.as_ref(), workshop.fetch);
        let (registry, image) = found.map_err(|error| match self.meant(workshop.store) {
            Some(meant) if !matches!(error, RegistryError::Fetch(FetchError::Cancelled(_))) => {
                StepError::of(Meant { error, hint: meant_hint(&meant, context.node.place.is_some()) })
            }
            _ => failed(error),
        })?;
        // What cannot be logged is no reason to fail.
        let digest = image.digest.as_deref().unwrap_or_default();
        let _ = writeln!(log, "{} is sha256:{digest}, {} layers", self.reference, image.layers.len());
        made(context, &Origin::Registry(&registry, &self.reference), image, log)
    }
}

impl Pull {
    /// The published image that has this name, if there is one: a plain name never means it.
    fn meant(&self, store: &Store) -> Option<ImageName> {
        let Reference { registry, repository, .. } = &self.reference;
        let name = repository.strip_prefix("library/").filter(|_| registry == "docker.io")?;
        let tag = self.reference.tag.as_deref()?;
        let names = store.image_names().ok()?;
        let is_meant = |named: &NamedImage| named.name.name == name && named.name.tag == tag;
        names.into_iter().find(is_meant).map(|named| named.name)
    }
}

/// A name of no registry, but of an image here.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct Meant {
    #[source]
    error: RegistryError,
    hint: String,
}

impl Hint for Meant {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.hint))
    }
}

/// How a published image is named.
fn meant_hint(name: &ImageName, in_dockerfile: bool) -> String {
    let ImageName { environment, name: plain, tag } = name;
    let write = if in_dockerfile {
        let environment = if environment == "main" { String::new() } else { format!("{environment}/") };
        format!("`localhost/{environment}{plain}:{tag}`")
    } else {
        format!("`modal.Image.from_name(\"{plain}:{tag}\")`")
    };
    format!("if you mean the image that was published as `{name}`, write {write}")
}

/// An image that this machine has.
struct Load {
    image: LocalImage,
}

impl Recipe for Load {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let workshop = &context.workshop;
        (workshop.progress)("reading the image", 0, 0);
        let reserve = workshop.launcher.disk_reserve().map_err(|error| failed(FetchError::Io(error).into()))?;
        let open = self.image.open(&workshop.store.layout().downloads(), reserve, workshop.cancel).map_err(failed)?;
        let image = open.image().clone();
        let _ = writeln!(log, "{} has {} layers", self.image, image.layers.len());
        made(context, &Origin::Local(&open), image, log)
    }
}

/// Where an image comes from.
enum Origin<'a> {
    Registry(&'a Registry, &'a Reference),
    Local(&'a OpenImage),
}

impl Origin<'_> {
    fn fetch(
        &self,
        parts: &[&Part],
        directory: &Path,
        progress: Progress<'_>,
        take: impl FnMut(usize, Arrival<'_>) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        match self {
            Self::Registry(registry, _) => registry.fetch(parts, directory, CONNECTIONS, progress, take),
            Self::Local(image) => image.fetch(parts, directory, progress, take),
        }
    }

    /// What the store lacks of a layer, if that is worth more than one request.
    fn fetch_lacking(
        &self,
        part: &Part,
        store: &Store,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Option<Pieces>, RegistryError> {
        match self {
            Self::Registry(registry, _) => registry.fetch_lacking(part, store, CONNECTIONS, progress),
            Self::Local(_) => Ok(None),
        }
    }

    /// The repository that the layers are in.
    fn repository(&self) -> Option<String> {
        match self {
            Self::Registry(_, reference) => Some(format!("{}/{}", reference.registry, reference.repository)),
            Self::Local(_) => None,
        }
    }
}

/// That a Dockerfile builds on an image which has instructions for it. What it would become without them is another image.
fn refuse_triggers(node: &Node, triggers: &[String]) -> Result<(), StepError> {
    let (Some(place), Some(first)) = (&node.place, triggers.first()) else { return Ok(()) };
    // They are not for whoever copies from it.
    if !place.text.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("from")) {
        return Ok(());
    }
    let message = place.message(&format!(
        "the image has instructions of `ONBUILD`, the first of them `{first}`, which are not supported"
    ));
    let hint = "build on an image without them, or begin with `modal.Image.from_registry`, which passes over them";
    Err(StepError::Failed { message, hint: Some(hint.to_owned()) })
}

/// What comes of an image.
fn made(context: &StepContext<'_>, origin: &Origin<'_>, image: Image, log: &mut StepLog) -> Result<Made, StepError> {
    let workshop = &context.workshop;
    refuse_triggers(context.node, &image.triggers)?;
    let layers = Layers { context, origin };
    let mut layers = layers.make(&image.layers, log)?;
    note(origin, &image, &layers, workshop.store)?;
    let views = Stack::from_bottom_up(layers.iter().map(|layer| layer.digest));
    let traits = look_at(workshop.store, &views, image.config.environment.get("PATH").map(String::as_str))?;
    for remark in traits.remarks() {
        log.line(remark);
    }
    let search_path = image.config.environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let python = match traits.python {
        Some(false) => None,
        _ => described(&workshop.store.view_paths(&views), search_path, workshop)?,
    };
    let facts = Box::new(Facts { config: image.config, python, ..Facts::default() });
    if let Some(top) = layers.pop() {
        return Ok(Made::Layers { below: Stack::from_bottom_up(layers), top, facts });
    }
    // An image without files.
    let work = workshop.store.new_work()?;
    Ok(Made::Work { work, rules: CommitRules::default(), facts, held: None })
}

/// What comes of a layer that cannot be had.
struct LayerError(StepError);

impl From<RegistryError> for LayerError {
    fn from(error: RegistryError) -> Self {
        Self(failed(error))
    }
}

/// Notes which archives the layers came in, so that they leave the store as those.
fn note(origin: &Origin<'_>, image: &Image, layers: &[Committed], store: &Store) -> Result<(), StepError> {
    let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    let repository = origin.repository();
    for (index, part) in image.layers.iter().enumerate() {
        let mut record = part.record(digests[index], &digests[..index], repository.clone());
        if let (Origin::Registry(_, reference), Some(digest)) = (origin, &image.digest)
            && index + 1 == digests.len()
        {
            record.image = Some((reference.to_string(), digest.clone()));
        }
        let earlier = store.archive(&record.layer, &record.form)?.filter(|earlier| earlier.sha256 == record.sha256);
        if let Some(earlier) = earlier {
            record.image = record.image.or(earlier.image);
            record
                .repositories
                .extend(earlier.repositories.into_iter().filter(|other| Some(other) != repository.as_ref()));
        }
        store.record_archive(&record)?;
    }
    Ok(())
}

/// The layers of an image on their way into the store.
struct Layers<'a> {
    context: &'a StepContext<'a>,
    origin: &'a Origin<'a>,
}

impl Layers<'_> {
    /// Makes the layers that the store lacks, the lowest first, and answers all of them.
    fn make(&self, parts: &[Part], log: &mut StepLog) -> Result<Vec<Committed>, StepError> {
        let mut made = self.find(parts)?;
        let missing = &parts[made.len()..];
        if missing.is_empty() {
            log.line("all of its layers are here");
            return Ok(made);
        }
        let downloads = self.context.workshop.store.layout().downloads();
        let pieces = self.fetch_lacking(missing, log)?;
        let whole: Vec<_> = (0..missing.len()).filter(|index| pieces[*index].is_none()).collect();
        let wanted: Vec<_> = whole.iter().map(|index| &missing[*index]).collect();
        // What is in the image several times comes once.
        let distinct: HashMap<_, _> = wanted.iter().map(|part| (part.sha256(), part.size())).collect();
        let total: u64 = distinct.into_values().flatten().sum();
        let have_come = AtomicU64::new(0);
        let progress = |bytes| {
            have_come.store(bytes, Ordering::Relaxed);
            (self.context.workshop.progress)("downloading", bytes, total);
        };
        progress(0);
        let mut next = 0;
        let mut make_until = |end: usize, arrival: Arrival<'_>| {
            for index in next..end {
                if have_come.load(Ordering::Relaxed) >= total {
                    (self.context.workshop.progress)("unpacking", index as u64, missing.len() as u64);
                }
                let layer = self.make_one(&missing[index], pieces[index].as_ref(), arrival, &made, &downloads)?;
                let size = missing[index].size().unwrap_or_default();
                let _ = writeln!(log, "{} files from a layer of {size} bytes", layer.files);
                made.push(layer);
            }
            next = end;
            Ok(())
        };
        self.origin
            .fetch(&wanted, &downloads, &progress, |index, arrival| {
                make_until(whole[index] + 1, arrival).map_err(LayerError)
            })
            .map_err(|LayerError(error)| error)?;
        make_until(missing.len(), Arrival::HERE)?;
        Ok(made)
    }

    /// What was fetched of each layer that the store has a good part of.
    fn fetch_lacking(&self, parts: &[Part], log: &mut StepLog) -> Result<Vec<Option<Pieces>>, StepError> {
        let progress = |bytes, total| (self.context.workshop.progress)("downloading", bytes, total);
        let fetch = |part: &Part| {
            let pieces = self.origin.fetch_lacking(part, self.context.workshop.store, &progress).map_err(failed)?;
            if let (Some(pieces), Some(size)) = (&pieces, part.size()) {
                let _ = writeln!(log, "{} of {size} bytes of a layer were fetched; the rest was here", pieces.fetched);
            }
            Ok(pieces)
        };
        parts.iter().map(fetch).collect()
    }

    /// Unpacks a layer. Where it does not come of its pieces, all of it is fetched.
    fn unpack(
        &self,
        part: &Part,
        pieces: Option<&Pieces>,
        arrival: Arrival<'_>,
        below: &Stack<Digest>,
        downloads: &Path,
        reserve: u64,
    ) -> Result<Work, RegistryError> {
        let store = self.context.workshop.store;
        if let Some(pieces) = pieces {
            match unpack_pieces(part, pieces, below, store, reserve) {
                Err(RegistryError::Job(error)) if error.kind == MALFORMED => {}
                unpacked => return unpacked,
            }
            let progress = |bytes| {
                (self.context.workshop.progress)("downloading", bytes, part.size().unwrap_or_default());
            };
            if let Origin::Registry(registry, _) = self.origin {
                registry.fetch(&[part], downloads, CONNECTIONS, &progress, |_, _| Ok::<_, RegistryError>(()))?;
            }
            return unpack(part, Arrival::HERE, downloads, below, store, reserve);
        }
        unpack(part, arrival, downloads, below, store, reserve)
    }

    /// The lowest layers that the store has already, of this image or of others that begin in the same way.
    fn find(&self, parts: &[Part]) -> Result<Vec<Committed>, StepError> {
        let mut found = Vec::new();
        for part in parts {
            let Some(record) = self.context.workshop.store.find_layer(&material(part, &found).key())? else { break };
            found.push(Committed {
                digest: record.digest,
                content: record.content,
                files: record.files,
                bytes: record.bytes,
                bytes_new: 0,
            });
        }
        Ok(found)
    }

    fn make_one(
        &self,
        part: &Part,
        pieces: Option<&Pieces>,
        arrival: Arrival<'_>,
        below: &[Committed],
        downloads: &Path,
    ) -> Result<Committed, StepError> {
        let workshop = &self.context.workshop;
        let (created, begun) = (seconds_since_1970(), Instant::now());
        let views = Stack::from_bottom_up(below.iter().map(|layer| layer.digest));
        let reserve = workshop.launcher.disk_reserve().map_err(|error| failed(FetchError::Io(error).into()))?;
        let _held = workshop.store.hold_off_collection()?;
        let work = self.unpack(part, pieces, arrival, &views, downloads, reserve).map_err(failed)?;
        let committed = workshop.store.commit_until(&work, CommitRules::default(), workshop.cancel)?;
        let material = material(part, below);
        let (title, seconds) = (&self.context.node.title, begun.elapsed().as_secs_f64());
        workshop.store.record_layer(&LayerRecord::of(&committed, &material, title, created, seconds))?;
        Ok(committed)
    }
}

/// What decides about a layer: its archive, and what lies below, which it may leave parts of as they are.
fn material(part: &Part, below: &[Committed]) -> KeyMaterial {
    let mut hasher = Hasher::new();
    for layer in below {
        hasher.update(layer.content.as_bytes());
    }
    let mut material = KeyMaterial::new(std::env::consts::ARCH);
    material.add("kind", "registry_layer");
    material.add("parent", Digest::hex(&hasher.finish()));
    material.add("archive", part.diff_id.as_str());
    material
}

/// The login that a secret of the step holds; none if it has no secret.
fn login(pull: &Pull, node: &Node, client: &Client) -> Result<Option<Login>, StepError> {
    if node.secrets.is_empty() {
        return Ok(None);
    }
    let value =
        |name: &str| node.secrets.iter().rev().find_map(|secret: &SecretValues| secret.values.get(name).cloned());
    Login::of_secret(&value, pull.provider, &pull.reference, client).map(Some).map_err(failed)
}

pub(super) fn failed(error: RegistryError) -> StepError {
    match error {
        RegistryError::Fetch(FetchError::Cancelled(_)) => StepError::Other(BuildError::Cancelled),
        RegistryError::Store(error) => StepError::from(error),
        RegistryError::Job(error) => StepError::from(StoreError::from(error)),
        error @ RegistryError::Secret(_) => StepError::Other(BuildError::Refused {
            class: ErrorClass::InvalidError,
            message: error.to_string(),
            hint: error.hint().map(Cow::into_owned),
        }),
        error => StepError::of(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfile_does_not_pass_over_instructions_for_it() {
        let node = |place: Option<&str>| -> Node {
            let place = place.map(|text| serde_json::json!({"file": "Dockerfile", "line": 3, "text": text}));
            let step = serde_json::json!({"kind": "from_registry", "reference": "python:3.11"});
            serde_json::from_value(serde_json::json!({"id": "0", "title": "t", "step": step, "place": place})).unwrap()
        };
        let triggers = ["RUN make".to_owned()];
        let refused = |place, triggers: &[String]| refuse_triggers(&node(place), triggers).err();
        let Some(StepError::Failed { message, .. }) = refused(Some("from python:3.11 AS one"), &triggers) else {
            panic!("it is not refused");
        };
        assert!(message.starts_with("Dockerfile:3: ") && message.contains("`RUN make`"), "{message}");
        assert!(refused(Some("FROM python:3.11"), &[]).is_none());
        assert!(refused(Some("COPY --from=python:3.11 /a /b"), &triggers).is_none());
        assert!(refused(None, &triggers).is_none(), "Modal's own base");
    }
}
