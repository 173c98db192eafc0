//! `modal deploy`: an app that stays.

use std::ffi::{OsStr, OsString};

use lamina_ground::EnvVars;

use super::deployed;
use crate::arguments::Deploy;
use crate::failure::Failure;
use crate::interruption;
use crate::program::{self, Program};

/// Deploys it.
pub(crate) fn deploy(deploy: &Deploy) -> Result<u8, Failure> {
    let mut words: Vec<OsString> = vec!["deploy".into(), deploy.reference.clone()];
    if deploy.module {
        words.push("-m".into());
    }
    if let Some(name) = &deploy.name {
        words.extend(["--name".into(), name.into()]);
    }
    words.extend(["--tag".into(), OsString::from(&deploy.tag)]);
    words.extend(["--strategy".into(), deploy.strategy.word().into()]);
    let environment: Vec<(&str, &OsStr)> =
        deploy.env.iter().map(|name| (EnvVars::MODAL_ENVIRONMENT, name.as_ref())).collect();
    let program = Program {
        arguments: &words,
        environment: &environment,
        progress: deploy.output.progress,
        ..Program::default()
    };
    let ended = program::run(program)?;
    match &ended.recorded {
        Some(recorded) if deploy.stream_logs && ended.code == 0 => {
            interruption::let_go();
            deployed::stream(recorded, deploy.timestamps)
        }
        _ => Ok(ended.code),
    }
}
