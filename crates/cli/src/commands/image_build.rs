//! `modal image build`: an image of a Dockerfile, without a program.

use std::ffi::{OsStr, OsString};

use lamina_ground::EnvVars;

use super::USAGE;
use crate::arguments::ImageBuild;
use crate::failure::Failure;
use crate::program::{self, Program};

/// Builds it; its id is printed.
pub(crate) fn build(build: &ImageBuild) -> Result<u8, Failure> {
    let own = platform();
    if let Some(other) = build.platform.as_deref().filter(|platform| *platform != own) {
        Failure::new(format!("images of the platform `{other}` cannot run here: this machine is `{own}`"))
            .hint("leave `--platform` out")
            .print();
        return Ok(USAGE);
    }
    let file = build.file.clone().unwrap_or_else(|| build.context.join("Dockerfile"));
    let mut words: Vec<OsString> = vec!["build".into(), build.context.clone().into(), file.into()];
    let mut add = |option: &str, value: &str| words.push(format!("{option}={value}").into());
    for (option, value) in [
        ("--tag", &build.tag),
        ("--target", &build.target),
        ("--registry-secret", &build.registry_secret),
        ("--registry-secret-from-env", &build.registry_secret_from_env),
    ] {
        if let Some(value) = value {
            add(option, value);
        }
    }
    build.build_arg.iter().for_each(|argument| add("--build-arg", argument));
    build.secret.iter().for_each(|secret| add("--secret", secret));
    if build.force_build {
        words.push("--force-build".into());
    }
    let environment: [(&str, &OsStr); 1] = [(EnvVars::MODAL_ENVIRONMENT, build.environment.name.as_ref())];
    let program =
        Program { arguments: &words, environment: &environment, progress: build.output.progress, ..Program::default() };
    Ok(program::run(program)?.code)
}

/// This machine, as Docker names it.
fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}
