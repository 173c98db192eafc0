//! Instructions that make no layer.

use lamina_dockerfile::Command;
use lamina_ground::DEFAULT_PATH;
use lamina_image::{Action, DockerfileStep, Healthcheck};

use super::{expand, expand_each, expand_one, mistake};
use crate::BuildError;
use crate::state::{Stage, State};

/// Changes what later instructions and containers start from.
pub(super) fn apply(step: &DockerfileStep, state: &mut State) -> Result<(), BuildError> {
    match &step.action {
        Action::Stage => {
            state.stage = Stage::default();
            // `$PATH` is something in every Dockerfile.
            let path = state.config.environment.entry("PATH".to_owned());
            path.or_insert_with(|| DEFAULT_PATH.to_owned());
        }
        Action::Inherit => {
            let environment = &state.config.environment;
            state.stage.arguments.retain(|name, _| !environment.contains_key(name));
            state.stage.has_command = false;
        }
        Action::Arg { name, given, default } => {
            let value = match (given, default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(expand_one(step, state, default)?),
                (None, None) => None,
            };
            // One that is only declared again stays what it was.
            if let Some(value) = value {
                state.stage.arguments.insert(name.clone(), value);
            }
        }
        Action::Env(pairs) => {
            // All of them see what was there before the instruction.
            let mut changed = Vec::new();
            for (name, value) in pairs {
                changed.push((expand_one(step, state, name)?, expand_one(step, state, value)?));
            }
            for (name, _) in &changed {
                state.stage.arguments.remove(name);
            }
            state.config.environment.extend(changed);
            // They may be settings of package managers.
            state.pristine = false;
        }
        Action::Label(pairs) => {
            for (name, value) in pairs {
                let (name, value) = (expand_one(step, state, name)?, expand_one(step, state, value)?);
                state.config.labels.insert(name, value);
            }
        }
        Action::User(user) => {
            // Nobody is root, as with Docker: a variable that is empty or not set.
            state.config.user = Some(expand_one(step, state, user)?).filter(|user| !user.is_empty());
        }
        Action::Shell(words) => state.config.shell = Some(words.clone()),
        Action::Entrypoint(command) => {
            state.config.entrypoint = in_shell(command, state);
            if !state.stage.has_command {
                state.config.command.clear();
            }
        }
        Action::Cmd(command) => {
            state.config.command = in_shell(command, state);
            state.stage.has_command = true;
        }
        Action::Expose(ports) => {
            for word in ports {
                for port in expand(step, state, |words| words.expand_all(word))? {
                    state.config.exposed_ports.extend(exposed(&port).ok_or_else(|| {
                        mistake(step, format!("`{port}` is no port: write for example `80`, `53/udp` or `8000-8010`"))
                    })?);
                }
            }
        }
        Action::Volume(paths) => {
            for path in expand_each(step, state, paths)? {
                if path.is_empty() {
                    return Err(mistake(step, "it names no directory: a variable in it is empty or not set"));
                }
                // As it is written: what a relative one is below is for whoever runs the image to say.
                state.config.volumes.insert(path);
            }
        }
        Action::Stopsignal(signal) => {
            let signal = expand_one(step, state, signal)?;
            if !is_signal(&signal) {
                let message =
                    format!("`{signal}` is no signal: write a name such as `SIGTERM`, or a number from 1 to 64");
                return Err(mistake(step, message));
            }
            state.config.stop_signal = Some(signal);
        }
        Action::Healthcheck(check) => state.config.healthcheck = Some(Healthcheck::clone(check)),
        Action::Maintainer(author) => state.config.author = Some(author.clone()),
        Action::Run(_) | Action::Copy(_) | Action::Workdir(_) => return Err(mistake(step, "it makes a layer")),
    }
    Ok(())
}

/// The words of a command, with the shell of the image where it is one for a shell.
fn in_shell(command: &Command, state: &State) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(text) => {
            let usual = || ["/bin/sh", "-c"].map(str::to_owned).to_vec();
            let mut words = state.config.shell.clone().unwrap_or_else(usual);
            words.push(text.clone());
            words
        }
    }
}

/// Names of signals, without `SIG`.
const SIGNALS: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "RTMAX", "RTMIN", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// Whether a word is a signal as Docker reads it: a number or a name, in letters of either case, with `SIG` or without.
fn is_signal(word: &str) -> bool {
    if let Ok(number) = word.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let name = word.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // Signals of programs' own are counted from both ends.
    let counted = |start: &str, most: u8| {
        let distance = name.strip_prefix(start)?;
        Some(distance.parse().is_ok_and(|distance: u8| (1..=most).contains(&distance)))
    };
    SIGNALS.contains(&name) || counted("RTMIN+", 15).or_else(|| counted("RTMAX-", 14)).unwrap_or(false)
}

/// The ports that a word stands for: `8000-8002/udp` are three.
fn exposed(word: &str) -> Option<Vec<String>> {
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    // What stands before a colon is of the host, and no matter of an image.
    let ports = ports.rsplit(':').next()?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    let known = ["tcp", "udp", "sctp"].contains(&&*protocol) && first <= last;
    known.then(|| (first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_numbers_and_names() {
        for word in ["SIGTERM", "term", "sigint", "9", "64", "SIGRTMIN", "RTMIN+3", "SIGRTMAX-14"] {
            assert!(is_signal(word), "{word}");
        }
        for word in ["NOPE", "", "0", "65", "-1", "SIG", "SIGSIGTERM", "RTMIN+16", "RTMAX-0", "RTMIN+"] {
            assert!(!is_signal(word), "{word}");
        }
    }
}
