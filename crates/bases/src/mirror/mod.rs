//! Where Debian's packages come from: a setting, the host's own apt sources, or the built-in default.

mod sources;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use lamina_ground::{EnvVars, causes};

pub use crate::openpgp::Keyring;
use crate::{BaseError, Suite, openpgp};
use sources::Entry;

/// The built-in default, and what the sources inside an image name.
pub const DEFAULT_ARCHIVE: &str = "http://ftp.debian.org/debian";
/// The built-in default of the security archive.
pub const DEFAULT_SECURITY: &str = "http://ftp.debian.org/debian-security";
/// The keyring inside an image that `apt` has from its own dependencies.
pub const IMAGE_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The archives to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The archive itself, without a slash at the end.
    pub archive: String,
    /// The security archive, likewise; `None` if it was switched off.
    pub security: Option<String>,
    /// Which keys may sign it.
    pub keyring: Keyring,
    /// Whether release files past their `Valid-Until` are refused.
    pub check_valid_until: bool,
    /// Where the choice comes from, for messages.
    pub origin: String,
}

impl Default for Mirror {
    /// The built-in default.
    fn default() -> Self {
        Self {
            archive: DEFAULT_ARCHIVE.into(),
            security: Some(DEFAULT_SECURITY.into()),
            keyring: Keyring::BuiltIn,
            check_valid_until: true,
            origin: "the built-in default".into(),
        }
    }
}

/// Finds the mirror: `MODAL_DEBIAN_MIRROR`, else the host's own apt sources if it is a Debian, else the built-in default.
///
/// # Errors
/// When a setting names an address that cannot be used.
pub fn find() -> Result<Mirror, BaseError> {
    find_with(&|name| std::env::var_os(name), Path::new("/"))
}

/// [`find`] with another environment and another root directory of the host.
fn find_with(environment: &dyn Fn(&str) -> Option<OsString>, root: &Path) -> Result<Mirror, BaseError> {
    let setting = |name: &str| {
        environment(name).map(|value| value.to_string_lossy().trim().to_owned()).filter(|value| !value.is_empty())
    };
    let mut mirror = match setting(EnvVars::MODAL_DEBIAN_MIRROR) {
        Some(value) => {
            let archive = checked(&value, EnvVars::MODAL_DEBIAN_MIRROR)?;
            Mirror {
                security: Some(format!("{archive}-security")),
                archive,
                origin: EnvVars::MODAL_DEBIAN_MIRROR.into(),
                ..Mirror::default()
            }
        }
        None => of_host(&sources::read(root)).unwrap_or_default(),
    };
    // Whoever keeps an old mirror on purpose has told the host's apt so.
    mirror.check_valid_until &= sources::apt_checks_valid_until(root);
    match setting(EnvVars::MODAL_DEBIAN_SECURITY_MIRROR) {
        Some(value) if value == "none" => mirror.security = None,
        Some(value) => mirror.security = Some(checked(&value, EnvVars::MODAL_DEBIAN_SECURITY_MIRROR)?),
        None => {}
    }
    if let Some(path) = setting(EnvVars::MODAL_DEBIAN_KEYRING) {
        mirror.keyring =
            Keyring::File { path: path.into(), origin: EnvVars::MODAL_DEBIAN_KEYRING.into(), debian: false };
    }
    if let Some(value) = setting(EnvVars::MODAL_DEBIAN_CHECK_VALID_UNTIL) {
        let is_no = crate::control::is_no(&value);
        if !is_no && !crate::control::is_yes(&value) {
            return Err(BaseError::Switch { variable: EnvVars::MODAL_DEBIAN_CHECK_VALID_UNTIL, value });
        }
        mirror.check_valid_until = !is_no;
    }
    Ok(mirror)
}

/// The mirror that the host's sources name, if one of their entries is Debian's own archive.
fn of_host(entries: &[Entry]) -> Option<Mirror> {
    let best = |security: bool| {
        entries
            .iter()
            .filter(|entry| entry.is_security() == security)
            .filter_map(|entry| Some((entry.strangeness()?, entry)))
            .min_by_key(|(strangeness, _)| *strangeness)
            .map(|(_, entry)| entry)
    };
    let archive = best(false)?;
    Some(Mirror {
        archive: archive.url.clone(),
        security: Some(best(true).map_or_else(|| DEFAULT_SECURITY.into(), |entry| entry.url.clone())),
        keyring: archive.keyring(),
        check_valid_until: archive.check_valid_until,
        origin: archive.file.clone(),
    })
}

/// An address of a setting, without slashes at its end.
fn checked(value: &str, origin: &str) -> Result<String, BaseError> {
    let problem =
        |reason: &str| BaseError::Mirror { value: value.into(), origin: origin.into(), reason: reason.into() };
    let rest = value
        .strip_prefix("http://")
        .or_else(|| value.strip_prefix("https://"))
        .ok_or_else(|| problem("it must begin with `http://` or `https://`, as in `http://ftp.debian.org/debian`"))?;
    if rest.starts_with('/') || rest.is_empty() {
        return Err(problem("it names no host; write it as in `http://ftp.debian.org/debian`"));
    }
    if value.contains(|character: char| character.is_whitespace() || character.is_control()) {
        return Err(problem("it contains white space; only one mirror can be given"));
    }
    Ok(value.trim_end_matches('/').to_owned())
}

/// The sources inside an image of this suite, in the one-line format of `/etc/apt/sources.list`. They name the built-in
/// default wherever the image was made, so that equal images are equal.
#[must_use]
pub fn image_sources(suite: Suite) -> String {
    // Where Debian's keys are trusted for all sources, they stay unnamed: `apt-add-repository` passes over lines with options
    // that it does not know.
    let options = if suite.trusts_archive() { String::new() } else { format!("[signed-by={IMAGE_KEYRING}] ") };
    let line = |url: &str, suite: &str| format!("deb {options}{url} {suite} main\n");
    [
        line(DEFAULT_ARCHIVE, suite.name()),
        line(DEFAULT_ARCHIVE, &format!("{suite}-updates")),
        line(DEFAULT_SECURITY, &format!("{suite}-security")),
    ]
    .concat()
}

impl Mirror {
    /// Sources for `apt` inside an image of this suite, in deb822 format, signed by the keyring at this path inside.
    #[must_use]
    pub fn sources_list(&self, suite: Suite, keyring: &str) -> String {
        let mut text = String::new();
        let mut add = |url: &str, suites: &str| {
            // Writing into a string cannot fail.
            let _ = write!(
                text,
                "{}Types: deb\nURIs: {url}\nSuites: {suites}\nComponents: main\nSigned-By: {keyring}\n{}",
                if text.is_empty() { "" } else { "\n" },
                if self.check_valid_until { "" } else { "Check-Valid-Until: no\n" },
            );
        };
        add(&self.archive, &format!("{suite} {suite}-updates"));
        if let Some(security) = &self.security {
            add(security, &format!("{suite}-security"));
        }
        text
    }

    /// The keys for an `apt` inside an image, in ASCII armour (`apt` tells by the ending `.asc`); `None` when those it has
    /// are the right ones.
    ///
    /// # Errors
    /// When the keyring cannot be read.
    pub fn keyring_bytes(&self) -> Result<Option<Vec<u8>>, BaseError> {
        match &self.keyring {
            Keyring::BuiltIn | Keyring::File { debian: true, .. } => Ok(None),
            Keyring::Inline { armored, .. } => Ok(Some(armored.clone().into_bytes())),
            Keyring::File { path, origin, .. } => {
                let bytes = fs_err::read(path).map_err(|error| BaseError::keyring(path, origin, &causes(&error)))?;
                let armored = openpgp::armored(bytes);
                armored.map(Some).map_err(|error| BaseError::keyring(path, origin, &error))
            }
        }
    }
}

#[cfg(test)]
mod tests;
