//! The `modal` command: arguments and terminal output around the engine, nothing else.

#[cfg(not(target_os = "linux"))]
compile_error!("Lamina runs on Linux; on Windows use it inside WSL2, on macOS inside a Linux virtual machine");

mod absent;
mod arguments;
mod commands;
mod diagnostics;
mod failure;
mod interruption;
mod output;
mod profiles;
mod program;
mod python;
mod user_terminal;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command, Deferred, EngineOptions, Run};
use failure::Failure;

fn main() -> ExitCode {
    // Before anything else: the helper processes of the engine are this binary, too.
    if std::env::args_os().nth(1).is_some_and(|word| word == "__helpers") {
        diagnostics::start_in_helper();
        lamina_engine::helpers_entry();
    }
    let mut words = std::env::args_os().skip(1);
    let first = words.next();
    let outcome = if first.as_ref().is_some_and(|word| word == lamina_apps::BACKGROUND) {
        commands::detach::background(words)
    } else if first.as_ref().is_some_and(|word| word == lamina_apps::HOST) {
        commands::host::host(words)
    } else {
        // Before there is any thread, and before options take their defaults from variables.
        let settings = if asks_for_settings() { Ok(()) } else { profiles::fill_environment() };
        match Arguments::try_parse() {
            Ok(Arguments { verbose, command }) => settings
                .or_else(|failure| if needs_settings(&command) { Err(failure) } else { Ok(()) })
                .and_then(|()| diagnostics::start(verbose))
                .and_then(|()| execute(&command)),
            Err(error) => return refuse(&error),
        }
    };
    let code = outcome.unwrap_or_else(|failure| {
        failure.print();
        1
    });
    diagnostics::finish(code);
    ExitCode::from(code)
}

/// Says what is wrong with the command line, or gives the help that it asks for.
fn refuse(error: &clap::Error) -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let Some(failure) = absent::explain(error, &words) else { error.exit() };
    failure.print();
    ExitCode::from(absent::USAGE)
}

/// Whether the command is `modal config`, which tells variables from what the profile says.
fn asks_for_settings() -> bool {
    let command = std::env::args_os().skip(1).find(|word| !word.as_encoded_bytes().starts_with(b"-"));
    command.is_some_and(|word| word == "config")
}

/// Whether a command is not one for looking at the settings themselves, or for none of them.
fn needs_settings(command: &Command) -> bool {
    !matches!(command, Command::Config(_) | Command::Profile(_) | Command::Completion { .. })
}

fn execute(command: &Command) -> Result<u8, Failure> {
    // These open the engine at once; the foreground of a detached app has none.
    if matches!(
        command,
        Command::Run(Deferred(Run { detach: false, .. }))
            | Command::Deploy(_)
            | Command::Shell(_)
            | Command::Engine(Deferred(EngineOptions { introduce: None, .. }))
    ) {
        lamina_engine::fork_ahead();
    }
    match command {
        Command::Run(run) => commands::run::run(run),
        Command::Deploy(deploy) => commands::deploy::deploy(deploy),
        Command::Shell(shell) => commands::shell::shell(shell),
        Command::App(app) => commands::app::app(app),
        Command::Container(container) => commands::container::container(container),
        Command::Image(image) => commands::image::image(image),
        Command::Secret(secret) => commands::secret::secret(secret),
        Command::Volume(volume) => commands::volume::volume(volume),
        Command::Dict(dict) => commands::collections::dict(dict),
        Command::Queue(queue) => commands::collections::queue(queue),
        Command::Cache(cache) => commands::cache::cache(cache),
        Command::Doctor(doctor) => commands::doctor::doctor(doctor),
        Command::Store(store) => commands::store::store(store),
        Command::Profile(profile) => commands::profile::profile(profile),
        Command::Config(config) => commands::profile::config(config),
        Command::Completion { shell } => commands::completion::completion(*shell),
        Command::Engine(output) => commands::serve::serve(output),
    }
}
