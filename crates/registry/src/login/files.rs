//! The files in which `docker login` and `podman login` keep logins, or say which program does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use lamina_events::CancelToken;
use lamina_ground::EnvVars;
use serde::Deserialize;

use super::{Login, helper};
use crate::RegistryError;
use crate::reference::{DEFAULT_REGISTRY, Reference};

/// What Docker calls its own registry in such a file.
const DOCKERS_OWN: &str = "https://index.docker.io/v1/";

impl Login {
    /// The login that this machine has for an image: that of the longest name which the image's begins with, in the first
    /// file that has one. A file may name a program that keeps it.
    ///
    /// # Errors
    /// When there is a file that cannot be read, or a program that fails.
    pub fn of_host(reference: &Reference, cancel: &CancelToken) -> Result<Option<Self>, RegistryError> {
        for path in files() {
            let text = match fs_err::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unusable(&path, error.to_string())),
            };
            let logins = Logins::parse(&text).map_err(|reason| unusable(&path, reason))?;
            if let Some(program) = logins.helper(reference) {
                let server = if reference.registry == DEFAULT_REGISTRY { DOCKERS_OWN } else { &reference.registry };
                let found = helper::ask(program, server, cancel)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            let found = logins.find(reference).map_err(|reason| unusable(&path, reason))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

fn unusable(path: &Path, reason: String) -> RegistryError {
    RegistryError::Logins { path: path.display().to_string(), reason }
}

/// Where logins are, in the order in which podman and docker look.
fn files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable(EnvVars::REGISTRY_AUTH_FILE) {
        return vec![path];
    }
    let home = variable(EnvVars::HOME);
    let docker = variable(EnvVars::DOCKER_CONFIG).or_else(|| home.as_ref().map(|home| home.join(".docker")));
    let runtime = variable(EnvVars::XDG_RUNTIME_DIR).map_or_else(
        || PathBuf::from(format!("/run/containers/{}/auth.json", rustix::process::getuid().as_raw())),
        |directory| directory.join("containers/auth.json"),
    );
    let config = variable(EnvVars::XDG_CONFIG_HOME).or_else(|| home.as_ref().map(|home| home.join(".config")));
    let config = config.map(|directory| directory.join("containers/auth.json"));
    [runtime].into_iter().chain(config).chain(docker.map(|directory| directory.join("config.json"))).collect()
}

/// What such a file says.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Logins {
    auths: BTreeMap<String, Entry>,
    /// Programs that keep the logins of one registry.
    cred_helpers: BTreeMap<String, String>,
    /// The program that keeps all others.
    creds_store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl Logins {
    fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The end of the name of the program that keeps the login.
    fn helper(&self, reference: &Reference) -> Option<&str> {
        let own = (reference.registry == DEFAULT_REGISTRY).then(|| self.cred_helpers.get(DOCKERS_OWN)).flatten();
        let program = self.cred_helpers.get(&reference.registry).or(own).unwrap_or(&self.creds_store);
        Some(program.as_str()).filter(|program| !program.is_empty())
    }

    fn find(&self, reference: &Reference) -> Result<Option<Login>, String> {
        let Reference { registry, repository, .. } = reference;
        let own = (registry == DEFAULT_REGISTRY).then_some(DOCKERS_OWN.to_owned());
        let parts: Vec<_> = repository.split('/').collect();
        let longer = (1..=parts.len()).rev().map(|count| format!("{registry}/{}", parts[..count].join("/")));
        let hosts = [registry.clone(), format!("https://{registry}"), format!("https://{registry}/v1/")];
        longer
            .chain(hosts)
            .chain(own)
            .find_map(|name| self.auths.get(&name).map(|entry| entry.login(&name)))
            .transpose()
            .map(Option::flatten)
    }
}

impl Entry {
    fn login(&self, name: &str) -> Result<Option<Login>, String> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Login::IdentityToken(self.identitytoken.clone())));
        }
        if !self.username.is_empty() {
            return Ok(Some(Login::password(&self.username, &self.password)));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let wrong = || format!("the one of `{name}` is not a name and a password in base64");
        let decoded = BASE64.decode(self.auth.as_bytes()).map_err(|_| wrong())?;
        let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
        let (user, password) = decoded.split_once(':').ok_or_else(wrong)?;
        Ok(Some(Login::password(user, password.trim_end_matches('\0'))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, image: &str) -> Result<Option<(String, String)>, String> {
        let found = Logins::parse(text)?.find(&image.parse().unwrap())?;
        Ok(found.map(|login| match login {
            Login::Password { user, password } => (user, password),
            Login::IdentityToken(token) => ("<token>".to_owned(), token),
        }))
    }

    #[test]
    fn programs_keep_logins_of_one_registry_or_of_all() {
        let text = serde_json::json!({"credHelpers": {"ecr.example": "ecr-login"}, "credsStore": "pass"}).to_string();
        let helper =
            |text: &str, image: &str| Logins::parse(text).unwrap().helper(&image.parse().unwrap()).map(str::to_owned);
        assert_eq!(helper(&text, "ecr.example/x").as_deref(), Some("ecr-login"));
        assert_eq!(helper(&text, "python").as_deref(), Some("pass"));
        assert_eq!(helper("{}", "python"), None);
    }

    #[test]
    fn a_token_stands_for_a_name_and_a_password() {
        let login = BASE64.encode(b"00000000-0000-0000-0000-000000000000:");
        let text = serde_json::json!({"auths": {"a.example": {"auth": login, "identitytoken": "abc"}}}).to_string();
        assert_eq!(find(&text, "a.example/x").unwrap(), Some(("<token>".to_owned(), "abc".to_owned())));
    }

    #[test]
    fn the_longest_name_counts() {
        let login = |user: &str| BASE64.encode(format!("{user}:secret:with:colons").as_bytes());
        let text = serde_json::json!({"auths": {
            "registry.example": {"auth": login("host")},
            "registry.example/team": {"auth": login("team")},
            "registry.example/team/app": {"username": "app", "password": "p"},
            "https://index.docker.io/v1/": {"auth": login("hub")},
            "https://old.example/v1/": {"auth": login("old")},
            "empty.example": {},
        }})
        .to_string();
        let cases = [
            ("registry.example/other/app", Some("host")),
            ("registry.example/teamwork/app", Some("host")),
            ("registry.example/team/other", Some("team")),
            ("registry.example/team/app", Some("app")),
            ("python:3.11", Some("hub")),
            ("old.example/x", Some("old")),
            ("empty.example/x", None),
            ("none.example/x", None),
        ];
        for (image, user) in cases {
            let found = find(&text, image).unwrap();
            assert_eq!(found.as_ref().map(|(user, _)| user.as_str()), user, "{image}");
            if let Some((user, password)) = found {
                assert_eq!(password, if user == "app" { "p" } else { "secret:with:colons" });
            }
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let entry = |entry: serde_json::Value| serde_json::json!({"auths": {"a.example": entry}}).to_string();
        let cases = [
            "{".to_owned(),
            entry(serde_json::json!({"auth": "?"})),
            entry(serde_json::json!({"auth": BASE64.encode(b"no-colon")})),
        ];
        let refused: Vec<_> = cases.iter().map(|text| find(text, "a.example/x").unwrap_err()).collect();
        insta::assert_snapshot!(refused.join("\n"), @r"
        EOF while parsing an object at line 1 column 1
        the one of `a.example` is not a name and a password in base64
        the one of `a.example` is not a name and a password in base64
        ");
    }
}
