//! Certificates for single registries, in the directories that Docker and podman keep them in: of `certs.d/HOST[:PORT]`, each `.crt`
//! is an authority's, and a `.cert` with the `.key` of the same name says who the client is.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lamina_fetch::Trust;
use lamina_ground::EnvVars;

use crate::RegistryError;

/// Those of the system; the user's own comes before them. The first that there is counts alone.
const SYSTEM: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// What counts for a registry.
pub(crate) fn of_host(registry: &str) -> Result<Trust, RegistryError> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = variable(EnvVars::XDG_CONFIG_HOME).or_else(|| variable(EnvVars::HOME).map(|home| home.join(".config")));
    let own = own.map(|directory| directory.join("containers/certs.d"));
    own.into_iter()
        .chain(SYSTEM.map(PathBuf::from))
        .find_map(|directory| read(&directory.join(registry)).transpose())
        .unwrap_or_else(|| Ok(Trust::default()))
}

/// What a directory says; `None` if there is none that can be read.
fn read(directory: &Path) -> Result<Option<Trust>, RegistryError> {
    let entries = match fs_err::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => return Ok(None),
        Err(error) => return Err(unusable(directory, error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    let mut paths = paths.map_err(|error| unusable(directory, error))?;
    paths.sort_unstable();
    let mut trust = Trust::default();
    for path in &paths {
        let text = |path: &Path| fs_err::read(path).map_err(|error| unusable(path, error));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => trust.add_authorities(&text(path)?).map_err(|reason| unusable(path, reason))?,
            Some("cert") => {
                let key = path.with_extension("key");
                if !paths.contains(&key) {
                    return Err(unusable(path, format!("its key `{}` is missing", key.display())));
                }
                trust.set_identity(&text(path)?, &text(&key)?).map_err(|reason| unusable(path, reason))?;
            }
            Some("key") if !paths.contains(&path.with_extension("cert")) => {
                let reason =
                    "the certificate of this key is missing; one of an authority is called `.crt`, a client's `.cert`";
                return Err(unusable(path, reason));
            }
            _ => {}
        }
    }
    Ok(Some(trust))
}

fn unusable(path: &Path, reason: impl std::fmt::Display) -> RegistryError {
    RegistryError::Settings { path: path.display().to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that nobody has signed; only its form counts here.
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";

    #[test]
    fn a_directory_has_authorities_and_pairs() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(&directory.path().join("none")).unwrap().is_none());
        let put = |name: &str, text: &str| fs_err::write(directory.path().join(name), text).unwrap();
        put("README", "nothing");
        assert!(read(directory.path()).unwrap().unwrap().is_empty());
        put("ca.crt", PEM);
        put("client.cert", PEM);
        let refused = || read(directory.path()).unwrap_err().to_string();
        assert!(refused().contains("client.key` is missing"), "{}", refused());
        put("client.key", KEY);
        assert!(!read(directory.path()).unwrap().unwrap().is_empty());
        put("other.key", KEY);
        assert!(refused().contains("other.key`") && refused().contains("a client's `.cert`"), "{}", refused());
        fs_err::remove_file(directory.path().join("other.key")).unwrap();
        put("ca.crt", "no certificate");
        assert!(refused().contains("ca.crt` cannot be used: it has no certificate"), "{}", refused());
    }
}
