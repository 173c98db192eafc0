//! The image that leaves the store, which may be made of a program first.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;

use lamina_engine::{Engine, How, Origin, Parcel};
use lamina_ground::EnvVars;
use serde::Deserialize;

use super::ask::say;
use crate::arguments::{Chosen, Environment};
use crate::failure::Failure;
use crate::program::{self, Program};

/// Empties a terminal's line.
const CLEAR: &str = "\r\x1b[K";

/// The image of a program's functions, as `modal._cli.bundle` describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Bundle {
    image: String,
    /// What it is called.
    name: String,
    /// What it was made by.
    origin: Origin,
}

/// Builds the image of a program's functions, if that is what is meant: an error is the exit code of a program that failed.
pub(crate) fn build(chosen: &Chosen, environment: &Environment) -> Result<Result<Option<Bundle>, u8>, Failure> {
    if !chosen.with_functions {
        return Ok(Ok(None));
    }
    let result = tempfile::NamedTempFile::new()?;
    let mut words: Vec<OsString> = vec!["bundle".into()];
    words.extend(chosen.module.then(|| "-m".into()));
    words.extend([chosen.reference.clone().into(), result.path().into()]);
    let environment: [(&str, &OsStr); 1] = [(EnvVars::MODAL_ENVIRONMENT, environment.name.as_ref())];
    let ended = program::run(Program { arguments: &words, environment: &environment, ..Program::default() })?;
    if ended.code != 0 {
        return Ok(Err(ended.code));
    }
    let bundle = serde_json::from_slice(&fs_err::read(result.path())?).map_err(std::io::Error::from)?;
    Ok(Ok(Some(bundle)))
}

/// Shows on a terminal how many layers are done, until all are.
pub(crate) fn count_layers(total: usize) -> impl Fn(usize) + Sync {
    let is_shown = std::io::stderr().is_terminal();
    move |done| match done {
        _ if !is_shown => {}
        done if done == total => say(CLEAR),
        done => say(&format!("{CLEAR}{done} of {total} layers")),
    }
}

/// Says that layers do not leave with the digests that they came with, if that is so.
pub(crate) fn say_made_anew(layers: usize) {
    if layers > 0 {
        let (noun, verb) = if layers == 1 { ("layer", "has") } else { ("layers", "have") };
        say(&format!(
            "warning: {layers} {noun} of a registry {verb} another digest than there, because what was downloaded is not kept any more\n"
        ));
    }
}

/// The image, with what it is called if that is known. What a container gets beside its image is part of one with functions; of
/// another one it is said that it is not.
pub(crate) fn find(
    engine: &Engine,
    chosen: &Chosen,
    environment: &Environment,
    bundle: Option<Bundle>,
    how: How,
) -> Result<(Parcel, Option<String>), Failure> {
    let Some(bundle) = bundle else {
        let (image, named) = engine.find_image(&chosen.reference, &environment.name)?;
        if let Some(first) = image.attached.first() {
            say(&format!(
                "warning: local files are not in it that containers get when they start, such as `{first}`: add them with \
                 `copy=True`, or write a program's functions with `--with-functions`\n"
            ));
        }
        let (name, origin) = named.map(|named| (named.name.to_string(), named.origin)).unzip();
        return Ok((Parcel { image, how, origin: origin.unwrap_or_default() }, name));
    };
    let mut image = engine.image(&bundle.image)?;
    engine.serve_functions(&mut image)?;
    Ok((Parcel { image, how, origin: bundle.origin }, Some(bundle.name)))
}
