//! `modal secret`: secrets that are kept under names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::Command;

use lamina_engine::named_secrets;
use lamina_ground::seconds_since_1970;
use lamina_secrets::{ListedSecret, SecretName, SecretsError};
use rustix::termios::isatty;
use serde_json::{Value, json};
use signal_hook::consts::SIGINT;

use super::ask::{confirm_removal, say};
use super::listing::time;
use super::{USAGE, dotenv, print, print_json};
use crate::arguments::{CreateSecret, Removal, Secret};
use crate::failure::Failure;
use crate::interruption::catch;
use crate::output::text;

/// Lists, makes or removes.
pub(crate) fn secret(secret: &Secret) -> Result<u8, Failure> {
    match secret {
        Secret::List { json: as_json, environment } => {
            let list = named_secrets()?.list(&environment.name)?;
            if *as_json {
                print_json(&list.iter().map(json).collect::<Vec<_>>())?;
                return Ok(0);
            }
            if list.is_empty() {
                say("There are no secrets: `modal secret create` makes them.\n");
            }
            print(table(&list, seconds_since_1970()).as_bytes())?;
            Ok(0)
        }
        Secret::Create(create) => self::create(create),
        Secret::Delete(removal) => delete(removal),
    }
}

fn create(create: &CreateSecret) -> Result<u8, Failure> {
    let name = SecretName::new(&create.environment.name, &create.name)?;
    let values = match values(create)? {
        Ok(values) => values,
        Err(usage) => {
            usage.print();
            return Ok(USAGE);
        }
    };
    named_secrets()?.create(&name, values, create.force)?;
    let shown = &create.name;
    say(&format!(
        "Created the secret `{shown}`: `secrets=[modal.Secret.from_name(\"{shown}\")]` gives it to a function.\n"
    ));
    Ok(0)
}

fn delete(removal: &Removal) -> Result<u8, Failure> {
    let (name, shown) = (SecretName::new(&removal.environment.name, &removal.name)?, &removal.name);
    let secrets = named_secrets()?;
    match secrets.get(&name, &[]) {
        Err(SecretsError::NotFound { .. }) if removal.allow_missing => return Ok(0),
        Err(error @ SecretsError::NotFound { .. }) => {
            return Err(Failure::new(error.to_string()).hint("`modal secret list` shows what there is"));
        }
        // One that cannot be read can be removed.
        _ => {}
    }
    if !confirm_removal(removal.yes, &format!("the secret `{shown}`"), "")? {
        return Ok(1);
    }
    secrets.delete(&name)?;
    say(&format!("Removed the secret `{shown}`.\n"));
    Ok(0)
}

/// The variables that the command line asks for, or how it has to be written.
fn values(create: &CreateSecret) -> Result<Result<BTreeMap<String, String>, Failure>, Failure> {
    let mut values = BTreeMap::new();
    if let Some(path) = &create.from_dotenv {
        values.extend(dotenv::parse(&read(path)?, |name| std::env::var(name).ok())?);
    }
    if let Some(path) = &create.from_json {
        match from_json(&read(path)?) {
            Ok(read) => values.extend(read),
            Err(failure) => return Ok(Err(failure)),
        }
    }
    for word in &create.variables {
        let Some((name, value)) = word.split_once('=') else {
            return Ok(Err(Failure::new("a variable is written `KEY=VALUE`, and one of the words has no `=`")
                .hint("with `KEY=-` your editor asks for the value")));
        };
        let value = if value == "-" { edited(name)? } else { value.to_owned() };
        values.insert(name.to_owned(), value);
    }
    if values.is_empty() {
        return Ok(Err(Failure::new("a secret needs at least one variable")
            .hint("write `KEY=VALUE` behind its name, or give `--from-dotenv` or `--from-json`")));
    }
    Ok(Ok(values))
}

fn read(path: &Path) -> Result<String, Failure> {
    let bytes = fs_err::read(path)?;
    String::from_utf8(bytes).map_err(|_| Failure::new(format!("`{}` is not text in UTF-8", path.display())))
}

/// The variables of a JSON object.
fn from_json(text: &str) -> Result<BTreeMap<String, String>, Failure> {
    // What the error says could hold a value.
    let object = serde_json::from_str::<serde_json::Map<String, Value>>(text)
        .map_err(|_| Failure::new("the JSON file does not hold an object").hint(r#"write {"NAME": "value"}"#))?;
    let string = |(name, value): (String, Value)| match value {
        Value::String(value) => Ok((name, value)),
        _ => Err(Failure::new(format!("the value of `{name}` in the JSON file is no string")).hint("put it in quotes")),
    };
    object.into_iter().map(string).collect()
}

/// What the user writes in an editor, without the last line's end.
fn edited(name: &str) -> Result<String, Failure> {
    let editor = ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok().filter(|it| !it.is_empty()));
    let editor = match editor {
        Some(editor) => editor,
        None if isatty(io::stdin()) && isatty(io::stdout()) => "vi".to_owned(),
        None => {
            return Err(Failure::new(format!("`{name}` got no value: there is no terminal to edit it in"))
                .hint("write it into a file for `--from-dotenv` or `--from-json`, or say with `EDITOR` what to run"));
        }
    };
    // Only its user may read it, and it is gone at the end: Ctrl-C is for the editor alone.
    let mut signals = catch()?;
    let file = tempfile::Builder::new().prefix("modal-secret-").tempfile()?;
    say(&format!("Waiting for the value of `{name}` from `{editor}` ...\n"));
    let status =
        Command::new("/bin/sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file.path()).status()?;
    if !status.success() {
        return Err(Failure::new(format!("`{editor}` gave no value for `{name}`: it ended with {status}"))
            .hint("`EDITOR` names the editor"));
    }
    if let Some(ended) = signals.pending().find(|origin| origin.signal != SIGINT) {
        return Err(Failure::new(format!("`{name}` got no value: signal {} came meanwhile", ended.signal)));
    }
    let text = read(file.path())?;
    let value = text.strip_suffix('\n').unwrap_or(&text);
    if value.is_empty() {
        return Err(Failure::new(format!("`{name}` got no value: the file was left empty")));
    }
    Ok(value.to_owned())
}

/// A secret as `--json` shows it.
fn json(secret: &ListedSecret) -> Value {
    json!({ "name": secret.name, "created_at": time(secret.created) })
}

/// The secrets, one a line.
fn table(secrets: &[ListedSecret], now: u64) -> String {
    let mut table = String::new();
    if secrets.is_empty() {
        return table;
    }
    let width = secrets.iter().map(|secret| secret.name.len()).max().unwrap_or(0).max("name".len());
    // Writing to a string does not fail.
    let _ = writeln!(table, "{:width$}  {:12}  variables", "name", "created");
    for ListedSecret { name, created, variables, .. } in secrets {
        let variables = text::clip(&text::clean(&variables.join(", ")), 60);
        let _ = writeln!(table, "{name:width$}  {:12}  {variables}", text::age(now.saturating_sub(*created)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_a_table_without_values() {
        let secret = |name: &str, variables: &[&str]| ListedSecret {
            id: "st-1".to_owned(),
            name: name.to_owned(),
            created: 1_000,
            variables: variables.iter().map(|name| (*name).to_owned()).collect(),
        };
        let secrets = [secret("huggingface", &["HF_TOKEN"]), secret("db", &["HOST", "USER"])];
        insta::assert_snapshot!(table(&secrets, 1_200), @r"
        name         created       variables
        huggingface  3 min ago     HF_TOKEN
        db           3 min ago     HOST, USER
        ");
        insta::assert_snapshot!(json(&secrets[0]), @r#"{"created_at":"1970-01-01T00:16:40Z","name":"huggingface"}"#);
    }

    #[test]
    fn only_strings_are_taken_from_json() {
        assert_eq!(from_json(r#"{"A": "b"}"#).unwrap(), [("A".to_owned(), "b".to_owned())].into());
        for text in [r#"{"A": 1, "B": "hunter2"}"#, r#"["hunter2"]"#, "hunter2"] {
            let failure = format!("{:?}", from_json(text).unwrap_err());
            assert!(!failure.contains("hunter2"), "{failure}");
        }
    }
}
