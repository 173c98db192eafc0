//! `modal engine`: serving a Python program that started this process.

use lamina_engine::{Engine, Options};
use lamina_events::CancelToken;
use lamina_ground::EnvVars;
use lamina_system::inherited_socket;

use crate::arguments::EngineOptions;
use crate::failure::Failure;
use crate::interruption::Interruption;
use crate::output::Screen;
use crate::user_terminal::{SharedTerminal, UserTerminal};

/// Serves the program until it closes the connection.
pub(crate) fn serve(options: &EngineOptions) -> Result<u8, Failure> {
    let socket = std::env::var(EnvVars::MODAL_ENGINE_FD)
        .ok()
        .and_then(|number| number.parse().ok())
        .and_then(|number| inherited_socket(number).ok())
        .ok_or_else(|| {
            Failure::new(format!("`{}` names no socket that this process inherited", EnvVars::MODAL_ENGINE_FD))
                .hint("`app.run()` starts this command; use `modal run` yourself")
        })?;
    if let Some([environment, app]) = options.introduce.as_deref() {
        lamina_engine::introduce(socket, environment, app)?;
        return Ok(0);
    }
    let cancel = CancelToken::new();
    Interruption::listen_for_program(cancel.clone())?;
    let screen = Screen::start(options.output.progress, cancel.clone());
    let terminal = options.interactive.then(|| SharedTerminal::open(UserTerminal::new(), &screen)).transpose()?;
    let engine = Engine::open(&Options { cancel, terminal, expects_sandbox: true, ..Options::default() })?;
    engine.look_ahead();
    let outcome = lamina_engine::serve(&engine, socket, &screen.sink());
    screen.finish();
    outcome?;
    Ok(0)
}
