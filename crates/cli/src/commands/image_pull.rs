//! `modal image pull` and `modal image import`: an image of a registry or of a file, without a program.

use std::ffi::{OsStr, OsString};

use lamina_ground::EnvVars;

use crate::arguments::{Environment, ImageImport, ImagePull, Output};
use crate::failure::Failure;
use crate::program::{self, Program};

/// Pulls it; its id is printed.
pub(crate) fn pull(pull: &ImagePull) -> Result<u8, Failure> {
    let mut words: Vec<OsString> = vec!["pull".into(), pull.reference.clone().into()];
    for (option, value) in [("--name", &pull.name), ("--secret", &pull.secret)] {
        words.extend(value.iter().map(|value| format!("{option}={value}").into()));
    }
    run(&words, &pull.environment, &pull.output)
}

/// Takes it; its id is printed.
pub(crate) fn import(import: &ImageImport) -> Result<u8, Failure> {
    let mut words: Vec<OsString> = vec!["import".into(), import.file.clone().into()];
    words.extend(import.name.iter().map(|name| format!("--name={name}").into()));
    run(&words, &import.environment, &import.output)
}

fn run(words: &[OsString], environment: &Environment, output: &Output) -> Result<u8, Failure> {
    let environment: [(&str, &OsStr); 1] = [(EnvVars::MODAL_ENVIRONMENT, environment.name.as_ref())];
    let program =
        Program { arguments: words, environment: &environment, progress: output.progress, ..Program::default() };
    Ok(program::run(program)?.code)
}
