//! `modal cache`: layers for other machines.

use lamina_engine::{Engine, Options};
use lamina_events::CancelToken;

use super::ask::say;
use crate::arguments::Cache;
use crate::failure::Failure;
use crate::interruption::{self, Interruption};
use crate::output::text;

/// Uploads.
pub(crate) fn cache(cache: &Cache) -> Result<u8, Failure> {
    match cache {
        Cache::Upload { quiet } => upload(*quiet),
    }
}

fn upload(quiet: bool) -> Result<u8, Failure> {
    let cancel = CancelToken::new();
    let interruption = Interruption::listen(interruption::catch()?, cancel.clone(), None, || ());
    let engine = Engine::open(&Options { cancel, ..Options::default() })?;
    let waiting = || {
        if !quiet {
            say("Waiting for another process that uploads ...\n");
        }
    };
    let uploaded = engine.upload(waiting);
    if let Some(code) = interruption.exit_code() {
        return Ok(code);
    }
    let uploaded = uploaded?;
    if !quiet {
        let steps = if uploaded.steps == 1 { "1 step".to_owned() } else { format!("{} steps", uploaded.steps) };
        say(&format!("Uploaded the layers of {steps}, {}.\n", text::bytes(uploaded.bytes)));
    }
    for failure in &uploaded.failures {
        Failure::new(failure.clone()).print();
    }
    Ok(u8::from(!uploaded.failures.is_empty()))
}
