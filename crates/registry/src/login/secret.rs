//! Logins of secrets: which keys they have says which kind they are of, as with Modal.

use std::time::SystemTime;

use lamina_fetch::Client;

use super::{Login, amazon, google};
use crate::{Reference, RegistryError};

const USER: &str = "REGISTRY_USERNAME";
const PASSWORD: &str = "REGISTRY_PASSWORD";
const SERVICE_ACCOUNT: &str = "SERVICE_ACCOUNT_JSON";

/// A provider whose registries give logins of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// The Elastic Container Registry of Amazon.
    Amazon,
    /// The Artifact Registry of Google.
    Google,
}

/// What a login can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Password,
    Amazon,
    Google,
}

impl Kind {
    fn keys(self) -> &'static str {
        match self {
            Self::Password => "`REGISTRY_USERNAME` and `REGISTRY_PASSWORD`",
            Self::Amazon => "`AWS_REGION`, and `AWS_ACCESS_KEY_ID` with `AWS_SECRET_ACCESS_KEY`, or `AWS_ROLE_ARN`",
            Self::Google => "`SERVICE_ACCOUNT_JSON`",
        }
    }
}

impl Login {
    /// The login that a secret with these values has for an image, of the provider if one is wanted. Providers are asked for it.
    ///
    /// # Errors
    /// When the values are those of no login, or of several, or a provider does not take them.
    pub fn of_secret(
        value: &dyn Fn(&str) -> Option<String>,
        wanted: Option<Provider>,
        reference: &Reference,
        client: &Client,
    ) -> Result<Self, RegistryError> {
        match kind(value, wanted).map_err(RegistryError::Secret)? {
            Kind::Password => Ok(Self::password(value(USER).unwrap_or_default(), value(PASSWORD).unwrap_or_default())),
            Kind::Amazon => amazon::login(value, reference, client, SystemTime::now()),
            Kind::Google => google::login(&value(SERVICE_ACCOUNT).unwrap_or_default(), client, SystemTime::now()),
        }
    }
}

/// Which kind the keys are of.
fn kind(value: &dyn Fn(&str) -> Option<String>, wanted: Option<Provider>) -> Result<Kind, String> {
    let has = |name: &str| value(name).is_some();
    let allowed: &[Kind] = match wanted {
        None => &[Kind::Password, Kind::Amazon, Kind::Google],
        Some(Provider::Amazon) => &[Kind::Amazon],
        Some(Provider::Google) => &[Kind::Google],
    };
    let begun = |kind: Kind| match kind {
        Kind::Password => has(USER) || has(PASSWORD),
        Kind::Amazon => has(amazon::KEY) || has(amazon::SECRET_KEY) || has(amazon::ROLE),
        Kind::Google => has(SERVICE_ACCOUNT),
    };
    let found: Vec<_> = allowed.iter().copied().filter(|kind| begun(*kind)).collect();
    let keys: Vec<_> = if found.is_empty() { allowed } else { &found }.iter().map(|kind| kind.keys()).collect();
    match found[..] {
        [] => Err(format!("its secret has no login: {} are needed", keys.join(", or "))),
        [Kind::Password] if !(has(USER) && has(PASSWORD)) => {
            Err(format!("its secret has half a login: {} are needed", keys.join("")))
        }
        [Kind::Amazon] if has(amazon::KEY) != has(amazon::SECRET_KEY) => {
            Err(format!("its secret has half a login: {} are needed", keys.join("")))
        }
        [kind] => Ok(kind),
        _ => Err(format!("its secret has several logins: leave it with those of one ({})", keys.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_which_login_it_is() {
        let kind = |names: &[&str], wanted| kind(&|name| names.contains(&name).then(String::new), wanted);
        assert_eq!(kind(&[USER, PASSWORD, "OTHER"], None), Ok(Kind::Password));
        assert_eq!(kind(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"], None), Ok(Kind::Amazon));
        assert_eq!(kind(&["AWS_ROLE_ARN", "AWS_REGION"], Some(Provider::Amazon)), Ok(Kind::Amazon));
        assert_eq!(kind(&[SERVICE_ACCOUNT], None), Ok(Kind::Google));
        assert_eq!(kind(&[SERVICE_ACCOUNT, USER, PASSWORD], Some(Provider::Google)), Ok(Kind::Google));
        for (names, wanted, said) in [
            (&[][..], None, "has no login"),
            (&[USER][..], None, "half a login"),
            (&["AWS_ACCESS_KEY_ID"][..], None, "half a login"),
            (&[USER, PASSWORD, SERVICE_ACCOUNT][..], None, "several logins"),
            (&[USER, PASSWORD][..], Some(Provider::Amazon), "`AWS_REGION`"),
        ] {
            let error = kind(names, wanted).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
