//! Secrets that are kept under names: what programs ask of them, and giving their values to what names them.

use std::borrow::Cow;

use lamina_ground::{Hint, causes};
use lamina_image::{KeptSecret, SecretValues};
use lamina_secrets::{ListedSecret, NamedSecrets, SecretName, SecretsError};
use serde_json::{Value, json};

use crate::protocol::{AppRequest, Failure, SecretErrand};

impl From<SecretsError> for Failure {
    fn from(error: SecretsError) -> Self {
        Self { hint: error.hint().map(Cow::into_owned), ..Self::new(error.class(), causes(&error)) }
    }
}

/// The app, in which every secret has its values.
pub(crate) fn with_values<'a>(app: &'a AppRequest, named: &NamedSecrets) -> Result<Cow<'a, AppRequest>, Failure> {
    let of_images = app.images.nodes.iter().flat_map(|node| &node.secrets);
    let of_functions = app.functions.iter().flat_map(|function| &function.secrets);
    if of_images.chain(of_functions).all(|secret| secret.kept.is_none()) {
        return Ok(Cow::Borrowed(app));
    }
    let mut filled = app.clone();
    let of_images = filled.images.nodes.iter_mut().flat_map(|node| &mut node.secrets);
    let of_functions = filled.functions.iter_mut().flat_map(|function| &mut function.secrets);
    for secret in of_images.chain(of_functions) {
        fill(secret, named)?;
    }
    Ok(Cow::Owned(filled))
}

/// Gives a secret its values.
fn fill(secret: &mut SecretValues, named: &NamedSecrets) -> Result<(), Failure> {
    let Some(KeptSecret { name, environment, required_keys }) = secret.kept.take() else { return Ok(()) };
    secret.values = named.get(&SecretName::new(&environment, &name)?, &required_keys)?;
    match secret.allowed.iter().find(|variable| !secret.values.contains_key(*variable)) {
        None => Ok(()),
        Some(missing) => {
            let missing = vec![missing.clone()];
            let known = secret.values.keys().cloned().collect();
            Err(SecretsError::MissingKeys { name, environment, missing, known }.into())
        }
    }
}

/// Does an errand of a program; gives what it asked for.
pub(crate) fn run(errand: SecretErrand, named: &NamedSecrets) -> Result<Value, Failure> {
    match errand {
        SecretErrand::Create { environment, name, values, allow_existing } => {
            match named.create(&SecretName::new(&environment, &name)?, values, false) {
                Err(SecretsError::Exists { .. }) if allow_existing => {}
                created => created?,
            }
        }
        SecretErrand::Update { environment, name, values } => {
            named.update(&SecretName::new(&environment, &name)?, values)?;
        }
        SecretErrand::Delete { environment, name } => named.delete(&SecretName::new(&environment, &name)?)?,
        SecretErrand::Find { environment, name, required_keys } => {
            return Ok(described(&named.find(&SecretName::new(&environment, &name)?, &required_keys)?));
        }
        SecretErrand::List { environment } => {
            return Ok(named.list(&environment)?.iter().map(described).collect());
        }
    }
    Ok(Value::Null)
}

/// A secret as programs know it.
fn described(secret: &ListedSecret) -> Value {
    json!({ "id": secret.id, "name": secret.name, "created": secret.created })
}

#[cfg(test)]
mod tests {
    use lamina_ground::ErrorClass;

    use super::*;

    fn app(secret: &str) -> AppRequest {
        let text = format!(
            r#"{{"request":1,"images":[{{"id":"0","step":{{"kind":"debian_slim","local_python":"3.11"}},"title":"x",
                 "secrets":[{secret}]}}],
                 "functions":[{{"name":"f","image":"0","module":{{"kind":"module","name":"m"}},"timeout":300,
                                "secrets":[{{"name":"dict","values":{{"A":"1"}}}},{secret}]}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    const KEPT: &str =
        r#"{"name":"from_name(hf)","kept":{"name":"hf","environment":"main","required_keys":["TOKEN"]}}"#;

    #[test]
    fn steps_and_functions_get_the_values() {
        let directory = tempfile::tempdir().unwrap();
        let named = NamedSecrets::new(directory.path().join("secrets"));
        let text = r#"{"do":"create","environment":"main","name":"hf","values":{"TOKEN":"hunter2"}}"#;
        let create = || run(serde_json::from_str(text).unwrap(), &named);
        let app = app(KEPT);
        let missing = with_values(&app, &named).unwrap_err();
        assert_eq!((missing.error, &*missing.message), (ErrorClass::NotFoundError, "there is no secret `hf`"));
        assert!(missing.hint.unwrap().contains("`modal secret create hf TOKEN=VALUE`"));
        create().unwrap();
        assert_eq!(create().unwrap_err().error, ErrorClass::AlreadyExistsError);
        let filled = with_values(&app, &named).unwrap();
        assert_eq!(filled.images.nodes[0].secrets[0].values["TOKEN"], "hunter2");
        assert_eq!(filled.functions[0].secrets[0].values["A"], "1");
        assert_eq!(filled.functions[0].secrets[1].values["TOKEN"], "hunter2");
        assert!(!format!("{filled:?}").contains("hunter2"));
    }

    #[test]
    fn variables_that_are_required_or_allowed_have_to_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let named = NamedSecrets::new(directory.path().join("secrets"));
        named.create(&SecretName::new("main", "hf").unwrap(), [("USER".into(), "ada".into())].into(), false).unwrap();
        let required = with_values(&app(KEPT), &named).unwrap_err();
        assert_eq!(required.message, "the secret `hf` has no variable `TOKEN`: it has `USER`");
        let allowed = r#"{"name":"x","allowed":["URL"],"kept":{"name":"hf","environment":"main"}}"#;
        assert!(with_values(&app(allowed), &named).unwrap_err().message.contains("no variable `URL`"));
        assert!(matches!(with_values(&app(r#"{"name":"x"}"#), &named).unwrap(), Cow::Borrowed(_)));
    }
}
