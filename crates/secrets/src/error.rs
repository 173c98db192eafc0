//! Errors of named secrets.

use std::borrow::Cow;
use std::path::PathBuf;

use lamina_ground::{ErrorClass, Hint, Refusal, Subject};

/// What can go wrong with named secrets. No message holds a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// This cannot be a name.
    #[error("`{name}` cannot be the name of {article} {what}: take 1 to 64 letters, digits, `-`, `_` and `.`", article = article(.what))]
    Name {
        /// Of what.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// There is no such secret.
    #[error("there is no secret `{name}`{}", in_environment(.environment))]
    NotFound {
        /// Its name.
        name: String,
        /// The environment that it was looked for in.
        environment: String,
        /// The variables that a program needs of it.
        required: Vec<String>,
    },
    /// There is one of that name already.
    #[error("there is a secret `{name}` already{}", in_environment(.environment))]
    Exists {
        /// Its name.
        name: String,
        /// Its environment.
        environment: String,
    },
    /// A secret lacks variables that a program needs.
    #[error("the secret `{name}` has no variable {}: it has {}", list(.missing), if .known.is_empty() { "none".to_owned() } else { list(.known) })]
    MissingKeys {
        /// Its name.
        name: String,
        /// Its environment.
        environment: String,
        /// Those that are not there.
        missing: Vec<String>,
        /// Those that are.
        known: Vec<String>,
    },
    /// This cannot be an environment variable.
    #[error(
        "`{0}` cannot be a variable of a secret: its name needs at least one character, and neither `=` nor a zero byte"
    )]
    Variable(String),
    /// A value that no process can have in its environment.
    #[error("the value of `{0}` has a zero byte, which no environment variable can hold")]
    Value(String),
    /// A file makes no sense.
    #[error("the file of a secret `{path}` is damaged: make the secret again with `modal secret create --force`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was wrong; without the text, which may hold values.
        line: usize,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl SecretsError {
    /// What it is in Python.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Name { .. } | Self::Variable(_) | Self::Value(_) => ErrorClass::InvalidError,
            Self::NotFound { .. } | Self::MissingKeys { .. } => ErrorClass::NotFoundError,
            Self::Exists { .. } => ErrorClass::AlreadyExistsError,
            Self::Damaged { .. } | Self::Io(_) => ErrorClass::ExecutionError,
        }
    }
}

impl Hint for SecretsError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::NotFound { name, environment, required } => {
                let pairs = if required.is_empty() { "NAME=VALUE".to_owned() } else { pairs(required) };
                Some(format!("make it with `modal secret create{} {name} {pairs}`", option(environment)).into())
            }
            Self::MissingKeys { name, environment, missing, .. } => {
                let (option, pairs) = (option(environment), pairs(missing));
                let command = format!("modal secret create --force{option} {name} {pairs} …");
                Some(format!("make it anew with all of them: `{command}`").into())
            }
            Self::Exists { name, environment } => {
                let command = format!("modal secret create --force{} {name} …", option(environment));
                Some(format!("`{command}` replaces it; or take another name").into())
            }
            Self::Io(error) => Refusal::of(Subject::Store, error)?.hint().map(Cow::Borrowed),
            _ => None,
        }
    }
}

fn article(what: &str) -> &'static str {
    if what.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// The usual environment is not worth a word.
fn in_environment(environment: &str) -> String {
    if environment == "main" { String::new() } else { format!(" in the environment `{environment}`") }
}

fn option(environment: &str) -> String {
    if environment == "main" { String::new() } else { format!(" --env {environment}") }
}

/// Variables as words of a command.
fn pairs(names: &[String]) -> String {
    names.iter().map(|name| format!("{name}=VALUE")).collect::<Vec<_>>().join(" ")
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
