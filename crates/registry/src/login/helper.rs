//! Programs that keep logins: those called `docker-credential-…`, which are asked by `get` on standard input for a server, and
//! answer in JSON. This is the protocol of Docker's credential helpers.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use lamina_events::CancelToken;
use lamina_system::{Bounds, run_bounded_with};
use serde::Deserialize;

use super::Login;
use crate::RegistryError;

const PREFIX: &str = "docker-credential-";
/// What they say on standard output when they have no login.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The name of a user where the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// Some ask the user, or a service.
const BOUNDS: Bounds = Bounds { output_bytes: 1 << 20, time: Duration::from_mins(2), ..Bounds::PACKAGE_TOOL };

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a program for the login of a server; `None` if it has none.
pub(super) fn ask(name: &str, server: &str, cancel: &CancelToken) -> Result<Option<Login>, RegistryError> {
    ask_program(&format!("{PREFIX}{name}"), server, cancel)
}

fn ask_program(program: &str, server: &str, cancel: &CancelToken) -> Result<Option<Login>, RegistryError> {
    let failed =
        |reason: String| RegistryError::Helper { program: program.to_owned(), server: server.to_owned(), reason };
    let input = input(server).map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command.arg("get");
    let outcome = run_bounded_with(&mut command, input, &BOUNDS, |killer| cancel.on_cancel(move || killer.kill()));
    cancel.check().map_err(lamina_fetch::FetchError::from)?;
    let outcome = outcome.map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&outcome.stdout);
    if let Some(what) = outcome.exceeded {
        return Err(failed(format!("it was ended because it wanted {what}")));
    }
    if !outcome.status.success() {
        if said.trim() == NOT_FOUND {
            return Ok(None);
        }
        // It may have printed a secret, but not with a failure.
        let errors = String::from_utf8_lossy(&outcome.stderr);
        let last = [said.trim(), errors.trim()].into_iter().find(|text| !text.is_empty()).unwrap_or("it said nothing");
        return Err(failed(format!("{last} ({})", outcome.status)));
    }
    // Parser's errors may quote what is secret.
    let answer: Answer = serde_json::from_str(&said)
        .map_err(|_| failed("its answer is not JSON with `Username` and `Secret`".to_owned()))?;
    Ok(match answer.username.as_str() {
        "" if answer.secret.is_empty() => None,
        TOKEN_USER => Some(Login::IdentityToken(answer.secret)),
        user => Some(Login::password(user, answer.secret)),
    })
}

/// A pipe with the name of the server: it is far shorter than what a pipe holds.
fn input(server: &str) -> std::io::Result<Stdio> {
    let (reader, mut writer) = std::io::pipe()?;
    writer.write_all(server.as_bytes())?;
    Ok(reader.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_program_is_asked_for_a_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        let ask = |script: &str| {
            fs_err::write(&path, format!("#!/bin/sh\ntest \"$1\" = get || exit 9\nread server\n{script}\n")).unwrap();
            fs_err::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            ask_program(path.to_str().unwrap(), "registry.example", &CancelToken::new())
        };
        let found = ask(r#"echo "{\"ServerURL\":\"$server\",\"Username\":\"$server\",\"Secret\":\"s\"}""#);
        assert_eq!(found.unwrap(), Some(Login::password("registry.example", "s")));
        let found = ask(r#"echo '{"Username":"<token>","Secret":"t"}'"#);
        assert_eq!(found.unwrap(), Some(Login::IdentityToken("t".to_owned())));
        assert_eq!(ask(&format!("echo '{NOT_FOUND}'; exit 1")).unwrap(), None);
        let error = ask("echo 'the wallet is locked'; exit 1").unwrap_err().to_string();
        assert!(error.contains("the wallet is locked") && error.contains("`registry.example`"), "{error}");
        let error = ask("echo 'Secret: hunter2'").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = ask("of-nobody", "registry.example", &CancelToken::new()).unwrap_err();
        assert!(error.to_string().contains("`docker-credential-of-nobody`"), "{error}");
        assert!(lamina_ground::Hint::hint(&error).is_some_and(|hint| hint.contains("PATH")));
    }
}
