//! Commands of Modal's own client that are not here: each says why, instead of being unknown.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::Failure;

/// Exit code of a command line that makes no sense, as clap has it.
pub(crate) const USAGE: u8 = 2;

const NO_ACCOUNT: &str = "there is no account and no service: images are built and functions run on this machine";
const NO_TOKEN: &str = "nothing is needed before `modal run`: there is no account, and so no token";
const NO_STORAGE: &str = "return data from functions, or keep it in a volume: `modal volume`";
const NOT_SERVED: &str = "`modal deploy` keeps an app, whose functions any program of yours may call";
const SERVE: &str = "run the program again with `modal run` after a change: what did not change is cached";
const CONTAINERS: &str =
    "`modal container` lists, examines and stops the containers of functions; `modal shell` opens a shell in an image";
const BUILD: &str = "images are declared in Python and built when an app runs";

/// Why a command of Modal's client is not here, and what to do instead. `None` if Modal has no such command either.
fn instead(group: Option<&str>, command: &str) -> Option<&'static str> {
    Some(match (group, command) {
        (None, "serve") => SERVE,
        (None, "function" | "server" | "endpoint" | "launch" | "cluster" | "curl") => NOT_SERVED,
        (Some("app"), "dashboard") => NO_ACCOUNT,
        (None, "nfs") => NO_STORAGE,
        (None, "sandbox") => CONTAINERS,
        (None, "account" | "billing" | "bootstrap" | "changelog" | "dashboard" | "environment" | "workspace") => {
            NO_ACCOUNT
        }
        (None, "setup" | "token") => NO_TOKEN,
        (Some("image"), "publish") => BUILD,
        _ => return None,
    })
}

/// What to say of a command line that clap refused, if it names such a command.
pub(crate) fn explain(error: &clap::Error, words: &[String]) -> Option<Failure> {
    describe(error, words).map(|(message, hint)| Failure::new(message).hint(hint))
}

fn describe(error: &clap::Error, words: &[String]) -> Option<(String, &'static str)> {
    let Some(ContextValue::String(command)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let group = words.iter().take_while(|word| *word != command).find(|word| !word.starts_with('-'));
    let hint = instead(group.map(String::as_str), command)?;
    let name = group.map_or_else(|| command.clone(), |group| format!("{group} {command}"));
    Some((format!("`modal {name}` is not part of this version"), hint))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::Arguments;

    fn said(words: &[&str]) -> Option<String> {
        let error = Arguments::try_parse_from(std::iter::once("modal").chain(words.iter().copied())).unwrap_err();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        describe(&error, &words).map(|(message, _)| message)
    }

    #[test]
    fn commands_of_modal_say_why_they_are_not_here() {
        for words in [
            &["serve", "app.py"][..],
            &["nfs", "list"],
            &["setup"],
            &["token", "new"],
            &["app", "dashboard", "a"],
            &["image", "publish", "x"],
        ] {
            let said = said(words).unwrap_or_else(|| panic!("{words:?}"));
            assert!(said.contains("is not part of this version"), "{said}");
        }
        assert!(said(&["app", "dashboard", "x"]).is_some_and(|said| said.contains("`modal app dashboard`")));
    }

    #[test]
    fn other_mistakes_are_left_to_clap() {
        for words in [&["nonsense"][..], &["app", "serve"], &["run"], &["run", "--nonsense", "serve"]] {
            assert_eq!(said(words), None, "{words:?}");
        }
    }
}
