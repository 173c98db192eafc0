//! Records of what the engine and its helper processes do, for whoever wants to know why: `-v`, `-vv` and `MODAL_LOG`.
//!
//! Nothing is written unless it is asked for, and then to standard error. The helpers write there as well: they are given
//! what was asked for in `MODAL_LOG`, and take it from there.

use std::io;

use lamina_ground::EnvVars;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::failure::Failure;

/// Begins to record what the variable says, or else as much as `-v` was given.
pub(crate) fn start(verbosity: u8) -> Result<(), Failure> {
    match std::env::var(EnvVars::MODAL_LOG) {
        Ok(text) if !text.is_empty() => record(parse(&text)?),
        _ => match verbosity {
            0 => {}
            1 => record(Targets::new().with_default(tracing::Level::INFO)),
            _ => record(Targets::new().with_default(tracing::Level::DEBUG)),
        },
    }
    Ok(())
}

/// The same in a helper process; the command that started it has complained about a value that is not understood.
pub(crate) fn start_in_helper() {
    if let Ok(Ok(targets)) = std::env::var(EnvVars::MODAL_LOG).map(|text| parse(&text)) {
        record(targets);
    }
}

/// Whether anything is recorded.
pub(crate) fn is_on() -> bool {
    tracing::level_filters::LevelFilter::current() != tracing::level_filters::LevelFilter::OFF
}

fn parse(text: &str) -> Result<Targets, Failure> {
    text.parse().map_err(|error| {
        Failure::new(format!("`MODAL_LOG` is `{text}`, which is not understood: {error}")).hint(
            "set it to a level (error, warn, info, debug, trace), or to one for each part: `info,lamina_store=debug`",
        )
    })
}

fn record(targets: Targets) {
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    // It fails only where something records already.
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_parts_are_understood() {
        for text in ["info", "DEBUG", "lamina_store=debug", "warn,lamina_wheels=trace,lamina_store::worker=debug"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        assert!(parse("lamina_store=loud").is_err());
    }
}
