//! Asking before something is removed.

use std::io::{self, BufRead, Write};

use crate::failure::Failure;

/// Asks a question that is answered with yes or no; `None` when there is nobody to ask.
pub(crate) fn ask(question: &str) -> Result<Option<bool>, Failure> {
    if !(rustix::termios::isatty(io::stdin()) && rustix::termios::isatty(io::stderr())) {
        return Ok(None);
    }
    say(&format!("{question} [y/N] "));
    let mut answer = String::new();
    if io::stdin().lock().read_line(&mut answer)? == 0 {
        say("\n");
    }
    Ok(Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")))
}

/// Whether something named is to be removed: by the command's words or the user's answer.
pub(crate) fn confirm_removal(yes: bool, what: &str, more: &str) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    let Some(answer) = ask(&format!("Remove {what}{more}?"))? else {
        return Err(Failure::new(format!("{what} was not removed: there is nobody to ask")).hint("say so with `--yes`"));
    };
    if !answer {
        say("Nothing was removed.\n");
    }
    Ok(answer)
}

/// Tells the user; without a standard error there is nobody to tell.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
