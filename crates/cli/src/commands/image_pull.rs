//! `modal image pull`: an image of a registry, without a program.

use std::ffi::{OsStr, OsString};

use lamina_ground::EnvVars;

use crate::arguments::ImagePull;
use crate::failure::Failure;
use crate::program::{self, Program};

/// Pulls it; its id is printed.
pub(crate) fn pull(pull: &ImagePull) -> Result<u8, Failure> {
    let mut words: Vec<OsString> = vec!["pull".into(), pull.reference.clone().into()];
    for (option, value) in [("--name", &pull.name), ("--secret", &pull.secret)] {
        words.extend(value.iter().map(|value| format!("{option}={value}").into()));
    }
    let environment: [(&str, &OsStr); 1] = [(EnvVars::MODAL_ENVIRONMENT, pull.environment.name.as_ref())];
    let program =
        Program { arguments: &words, environment: &environment, progress: pull.output.progress, ..Program::default() };
    Ok(program::run(program)?.code)
}
