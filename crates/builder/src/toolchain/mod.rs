//! Compilers and headers for images that have none: a layer over the image while something is compiled in it.
//!
//! Nothing of it is ever part of a layer, or of a key.

mod later;
mod look;
mod words;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::Write;
use std::time::Instant;

use lamina_bases::{BaseError, Suite, Toolchain};
use lamina_ground::{EnvVars, Hint, Stack, seconds_since_1970};
use lamina_image::{Digest, Facts, KeyMaterial};
use lamina_store::{LayerRecord, Store, StoreError};
use lamina_workshop::Workshop;

use crate::BuildError;
use crate::error::Mistake;
use crate::log::StepLog;
pub(crate) use later::{COMPILING, compiles_later, compiling};
pub(crate) use look::Look;
pub(crate) use words::Need;

/// How the layer is called in the index.
const TITLE: &str = "toolchain";
/// Grows when other packages belong to it.
const VERSION: u32 = 2;

/// When an image is lent the toolchain.
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
        let Some(lacking) = self.lacking(workshop.store)? else { return Ok(None) };
        log.line(&format!("the image lacks {}: it is lent them during this step", lacking.contents()));
        match lacking.find(workshop.store)? {
            Some(layer) => Ok(Some(layer)),
            None => match lacking.make(workshop, log) {
                // What it has may do.
                Err(error @ BuildError::Failed(_))
                    if !lacking.toolchain.packages.iter().any(|package| package == "gcc") =>
                {
                    log.line(&format!("they are not to be had, so it is tried without: {error}"));
                    Ok(None)
                }
                made => made.map(Some),
            },
        }
    }

    /// What the image lacks, if anything.
    pub(crate) fn lacking(&self, store: &Store) -> Result<Option<Lacking<'_>>, BuildError> {
        let (Some(suite), Some(base)) = (Suite::of(self.facts), self.layers.bottom()) else { return Ok(None) };
        let look = Look::new(store.view_paths(self.layers), self.search_path, self.series());
        let found = store.job(&look, &[]).map_err(StoreError::from)?;
        if found.lacking.is_empty() && found.headers {
            return Ok(None);
        }
        let headers = self.series().filter(|_| !found.headers);
        let toolchain = Toolchain { suite, packages: found.lacking, headers };
        Ok(Some(Lacking { material: material(&toolchain, base), toolchain, base: *base }))
    }

    /// The series of Debian's own Python, which has its headers in a package of their own.
    fn series(&self) -> Option<&str> {
        let python = self.facts.python.as_ref().filter(|python| python.interpreter.starts_with("/usr/bin/"))?;
        let end = python.version.match_indices('.').nth(1).map_or(python.version.len(), |(end, _)| end);
        Some(&python.version[..end])
    }
}

/// Why there are no compilers for an image.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct NotToBeHad(BaseError);

impl Hint for NotToBeHad {
    /// Without them it may do as well: what is likely to compile something need not.
    fn hint(&self) -> Option<Cow<'_, str>> {
        let never = format!("set {}=never to do without compilers", EnvVars::MODAL_TOOLCHAIN);
        Some(Cow::Owned(self.0.hint().map_or_else(|| never.clone(), |hint| format!("{hint}; or {never}"))))
    }
}

/// What tells one toolchain from another. It goes with its base: one that is made anew has newer packages.
fn material(toolchain: &Toolchain<'_>, base: &Digest) -> KeyMaterial {
    let mut material = KeyMaterial::new(std::env::consts::ARCH);
    material.add("step", TITLE);
    material.add("version", VERSION);
    material.add("base", base.hex());
    material.add("suite", toolchain.suite.name());
    material.add("packages", toolchain.packages.clone());
    material.add("headers", toolchain.headers);
    material
}

/// What an image lacks to compile.
pub(crate) struct Lacking<'a> {
    toolchain: Toolchain<'a>,
    base: Digest,
    material: KeyMaterial,
}

impl Lacking<'_> {
    /// What it is, in words.
    pub(crate) fn contents(&self) -> String {
        self.toolchain.contents()
    }

    /// The layer, if there is one.
    pub(crate) fn find(&self, store: &Store) -> Result<Option<Digest>, BuildError> {
        Ok(store.expect_layer(&self.material.key())?.map(|record| record.digest))
    }

    /// Makes the layer and records it, unless somebody else does so meanwhile.
    pub(crate) fn make(&self, workshop: &Workshop<'_>, log: &mut (dyn Write + Send)) -> Result<Digest, BuildError> {
        let (store, key) = (workshop.store, self.material.key());
        let _lock = store.lock(&format!("layer-{key}"), workshop.cancel, || ())?;
        if let Some(layer) = self.find(store)? {
            return Ok(layer);
        }
        let (created, begun) = (seconds_since_1970(), Instant::now());
        let work = self.toolchain.make(workshop, log).map_err(|error| match error {
            BaseError::Cancelled(_) => BuildError::Cancelled,
            BaseError::Store(error) => BuildError::from(error),
            error => BuildError::failed(NotToBeHad(error)),
        })?;
        let committed = store.commit_until(&work, Toolchain::commit_rules(), workshop.cancel)?;
        let seconds = begun.elapsed().as_secs_f64();
        store.record_layer(&LayerRecord {
            companion_of: Some(Stack::from_bottom_up([self.base])),
            ..LayerRecord::of(&committed, &self.material, TITLE, created, seconds)
        })?;
        Ok(committed.digest)
    }
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
    fn who_cannot_have_compilers_is_told_how_to_do_without() {
        let error = BaseError::Dependency { suite: "bookworm".to_owned(), reason: "`gcc` is missing".to_owned() };
        let error = BuildError::failed(NotToBeHad(error));
        insta::assert_snapshot!(error, @"the packages of `bookworm` do not fit together: `gcc` is missing");
        insta::assert_snapshot!(error.hint().unwrap(), @"the mirror may be in the middle of an update: try again later; or set MODAL_TOOLCHAIN=never to do without compilers");
        let error = NotToBeHad(BaseError::Architecture("m68k".to_owned()));
        insta::assert_snapshot!(error.hint().unwrap(), @"set MODAL_TOOLCHAIN=never to do without compilers");
    }

    #[test]
    fn another_base_has_another_toolchain() {
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let toolchain = Toolchain { suite: Suite::Bookworm, packages: vec!["gcc".to_owned()], headers: Some("3.11") };
        let key = |toolchain: &Toolchain<'_>, base| material(toolchain, base).key();
        let first = key(&toolchain, &one);
        assert_eq!(first, key(&toolchain, &one));
        assert_ne!(first, key(&toolchain, &other));
        assert_ne!(first, key(&Toolchain { headers: None, ..toolchain.clone() }, &one));
        assert_ne!(first, key(&Toolchain { packages: Vec::new(), ..toolchain }, &one));
    }
}
