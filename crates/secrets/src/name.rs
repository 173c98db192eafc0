//! Names of secrets.

use lamina_ground::is_object_name;

use crate::SecretsError;

/// The name of a secret within an environment. It means nothing in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretName {
    pub(crate) environment: String,
    pub(crate) name: String,
}

impl SecretName {
    /// A name, if it and that of the environment can be names.
    ///
    /// # Errors
    /// When one of them cannot.
    pub fn new(environment: &str, name: &str) -> Result<Self, SecretsError> {
        check("environment", environment)?;
        check("secret", name)?;
        Ok(Self { environment: environment.to_owned(), name: name.to_owned() })
    }
}

/// Refuses what cannot be the name of a `what`.
pub(crate) fn check(what: &'static str, name: &str) -> Result<(), SecretsError> {
    if is_object_name(name) { Ok(()) } else { Err(SecretsError::Name { what, name: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_are_checked() {
        SecretName::new("main", "hf").unwrap();
        let message = |environment, name| SecretName::new(environment, name).unwrap_err().to_string();
        assert!(message("../main", "a").starts_with("`../main` cannot be the name of an environment"));
        assert!(message("main", "a/b").starts_with("`a/b` cannot be the name of a secret: take 1 to 64 letters"));
    }
}
