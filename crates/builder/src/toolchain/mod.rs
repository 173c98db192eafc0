//! Compilers and headers for images that have none: a layer beneath the image while something is compiled in it.
//!
//! What the image has itself hides it, and nothing of it is ever part of a layer, or of a key.

mod look;
mod words;

use std::ffi::OsStr;

use lamina_bases::{BaseError, Suite, Toolchain};
use lamina_ground::{EnvVars, Stack, seconds_since_1970};
use lamina_image::{Digest, Facts, KeyMaterial, RecordedFacts};
use lamina_store::LayerRecord;
use lamina_workshop::Workshop;

use crate::BuildError;
use crate::error::Mistake;
use crate::log::StepLog;
pub(crate) use look::Look;
pub(crate) use words::Need;

/// How the layer is called in the index.
const TITLE: &str = "toolchain";
/// Grows when other packages belong to it.
const VERSION: u32 = 1;

/// When the toolchain lies beneath an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Where something is likely to be compiled.
    Auto,
    /// Wherever something runs.
    Always,
    Never,
}

impl When {
    /// What `MODAL_TOOLCHAIN` says.
    pub(crate) fn of_environment() -> Result<Self, BuildError> {
        Self::read(std::env::var_os(EnvVars::MODAL_TOOLCHAIN).as_deref())
    }

    fn read(value: Option<&OsStr>) -> Result<Self, BuildError> {
        match value.map(OsStr::to_string_lossy).as_deref() {
            None | Some("" | "auto") => Ok(Self::Auto),
            Some("always") => Ok(Self::Always),
            Some("never") => Ok(Self::Never),
            Some(other) => Err(BuildError::invalid(Mistake::Toolchain(other.to_owned()))),
        }
    }

    /// Whether it does, where something is likely to be compiled or not.
    pub(crate) fn includes(self, is_likely: bool) -> bool {
        match self {
            Self::Auto => is_likely,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// An image to compile in.
pub(crate) struct Image<'a> {
    pub(crate) layers: &'a Stack<Digest>,
    pub(crate) facts: &'a Facts,
    /// The directories in which it looks for programs.
    pub(crate) search_path: &'a str,
}

impl Image<'_> {
    /// The layer with what the image lacks, made now if it was not before; `None` if it lacks nothing, or nobody knows where
    /// such an image has compilers from. The log says which it is.
    pub(crate) fn toolchain(&self, workshop: &Workshop<'_>, log: &mut StepLog) -> Result<Option<Digest>, BuildError> {
        let (Some(suite), Some(base)) = (Suite::of(self.facts), self.layers.bottom()) else { return Ok(None) };
        let views = workshop.store.view_paths(self.layers);
        let look = Look::new(views, self.search_path, self.series());
        let found = workshop.store.job(&look, &[]).map_err(lamina_store::StoreError::from)?;
        if found.compilers && found.headers {
            return Ok(None);
        }
        let headers = self.series().filter(|_| !found.headers);
        let toolchain = Toolchain { suite, compilers: !found.compilers, headers };
        log.line(&format!("the image lacks {}: they lie beneath it during this step", toolchain.contents()));
        let material = material(&toolchain, base);
        let key = material.key();
        if let Some(record) = workshop.store.expect_layer(&key)? {
            return Ok(Some(record.digest));
        }
        let _lock = workshop.store.lock(&format!("layer-{key}"), workshop.cancel, || ())?;
        if let Some(record) = workshop.store.expect_layer(&key)? {
            return Ok(Some(record.digest));
        }
        make(&toolchain, base, &material, workshop, log).map(Some)
    }

    /// The series of Debian's own Python, which has its headers in a package of their own.
    fn series(&self) -> Option<&str> {
        let python = self.facts.python.as_ref().filter(|python| python.interpreter.starts_with("/usr/bin/"))?;
        let end = python.version.match_indices('.').nth(1).map_or(python.version.len(), |(end, _)| end);
        Some(&python.version[..end])
    }
}

/// What tells one toolchain from another. It goes with its base: one that is made anew has newer packages.
fn material(toolchain: &Toolchain<'_>, base: &Digest) -> KeyMaterial {
    let mut material = KeyMaterial::new(std::env::consts::ARCH);
    material.add("step", TITLE);
    material.add("version", VERSION);
    material.add("base", base.hex());
    material.add("suite", toolchain.suite.name());
    material.add("compilers", toolchain.compilers);
    material.add("headers", toolchain.headers);
    material
}

/// Makes the layer and records it.
fn make(
    toolchain: &Toolchain<'_>,
    base: &Digest,
    material: &KeyMaterial,
    workshop: &Workshop<'_>,
    log: &mut StepLog,
) -> Result<Digest, BuildError> {
    let (created, begun) = (seconds_since_1970(), std::time::Instant::now());
    let work = toolchain.make(workshop, log).map_err(|error| match error {
        BaseError::Cancelled(_) => BuildError::Cancelled,
        BaseError::Store(error) => BuildError::from(error),
        error => BuildError::failed(error),
    })?;
    let committed = workshop.store.commit_until(&work, Toolchain::commit_rules(), workshop.cancel)?;
    workshop.store.record_layer(&LayerRecord {
        key: material.key(),
        digest: committed.digest,
        content: committed.content,
        below: Stack::new(),
        companion_of: Some(Stack::from_bottom_up([*base])),
        title: TITLE.to_owned(),
        created,
        seconds: begun.elapsed().as_secs_f64(),
        files: committed.files,
        bytes: committed.bytes,
        bytes_new: committed.bytes_new,
        material: material.canonical(),
        log: None,
        facts: RecordedFacts::default(),
    })?;
    Ok(committed.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_one_of_three_words() {
        let read = |value: &str| When::read(Some(value.as_ref())).map_err(|error| error.to_string());
        assert_eq!(When::read(None).unwrap(), When::Auto);
        assert_eq!([read(""), read("auto")], [Ok(When::Auto), Ok(When::Auto)]);
        assert_eq!([read("always"), read("never")], [Ok(When::Always), Ok(When::Never)]);
        insta::assert_snapshot!(read("yes").unwrap_err(), @"`MODAL_TOOLCHAIN` is `yes`: set it to `auto`, `always` or `never`, or unset it");
        let included = [When::Auto, When::Always, When::Never].map(|when| (when.includes(true), when.includes(false)));
        assert_eq!(included, [(true, false), (true, true), (false, false)]);
    }

    #[test]
    fn another_base_has_another_toolchain() {
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let toolchain = Toolchain { suite: Suite::Bookworm, compilers: true, headers: Some("3.11") };
        let key = |toolchain: &Toolchain<'_>, base| material(toolchain, base).key();
        let first = key(&toolchain, &one);
        assert_eq!(first, key(&toolchain, &one));
        assert_ne!(first, key(&toolchain, &other));
        assert_ne!(first, key(&Toolchain { headers: None, ..toolchain }, &one));
        assert_ne!(first, key(&Toolchain { compilers: false, ..toolchain }, &one));
    }
}
