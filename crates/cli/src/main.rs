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
mod program;
mod python;
mod user_terminal;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command, Run};
use failure::Failure;

fn main() -> ExitCode {
    // Before anything else: the helper processes of the engine are this binary, too.
    if std::env::args_os().nth(1).is_some_and(|word| word == "__helpers") {
        diagnostics::start_in_helper();
        lamina_engine::helpers_entry();
    }
    let mut words = std::env::args_os().skip(1);
    let outcome = if words.next().is_some_and(|word| word == lamina_apps::BACKGROUND) {
        commands::detach::background(words)
    } else {
        match Arguments::try_parse() {
            Ok(arguments) => diagnostics::start(arguments.verbose).and_then(|()| execute(&arguments.command)),
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

fn execute(command: &Command) -> Result<u8, Failure> {
    // These open the engine at once; the foreground of a detached app has none.
    if matches!(command, Command::Run(Run { detach: false, .. }) | Command::Shell(_) | Command::Engine(_)) {
        lamina_engine::fork_ahead();
    }
    match command {
        Command::Run(run) => commands::run::run(run),
        Command::Shell(shell) => commands::shell::shell(shell),
        Command::App(app) => commands::app::app(app),
        Command::Image(image) => commands::image::image(image),
        Command::Secret(secret) => commands::secret::secret(secret),
        Command::Volume(volume) => commands::volume::volume(volume),
        Command::Doctor(doctor) => commands::doctor::doctor(doctor),
        Command::Store(store) => commands::store::store(store),
        Command::Completion { shell } => commands::completion::completion(*shell),
        Command::Engine(output) => commands::serve::serve(output),
    }
}
