//! The host's network settings inside build sandboxes: certificates, proxies, package indexes, name resolution.
//!
//! They are the host's business (a company's proxy, a private certificate authority): they apply while a step runs,
//! as environment and as files under `/dev/lamina`, which is never part of a layer, and they enter no key.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lamina_bases::mirror::{self, Mirror};
use lamina_bases::{BaseError, Suite};
use lamina_ground::causes;
use lamina_sandbox::InjectedFile;
use lamina_wheels::PipSettings;

use crate::{BuildError, apt_methods};

/// Where injected files appear.
pub(crate) const DIRECTORY: &str = "/dev/lamina";

/// Variables that name a certificate bundle, one for each family of programs.
const CERTIFICATE_VARIABLES: [&str; 8] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "NPM_CONFIG_CAFILE",
];

/// Where pip and `uv` find the host's settings: as those of a system, below all that the image says. As variables they
/// would stand above it.
const PIP_CONFIGURATION: &str = "xdg-pip/pip/pip.conf";
const UV_CONFIGURATION: &str = "xdg-uv/uv/uv.toml";

/// Variables passed on as they are: proxies. Settings of package indexes are read as pip and `uv` would.
const PASSED_VARIABLES: [&str; 10] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Settings of apt that hold in every build sandbox: patience, and no synchronising of what is committed as a whole.
const APT_CONFIGURATION: &str = r#"Acquire::Retries "5";
Acquire::Languages "none";
Dpkg::Use-Pty "0";
DPkg::Options { "--force-unsafe-io"; };
"#;

/// Name of the injected certificate bundle.
const CERTIFICATES: &str = "ca.pem";

/// What a build sandbox gets from the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostSettings {
    /// Environment variables; the image's and the step's own win over them.
    pub(crate) environment: BTreeMap<String, String>,
    /// Files under [`DIRECTORY`].
    pub(crate) files: Vec<InjectedFile>,
    /// Name resolution.
    pub(crate) resolv_conf: Option<Vec<u8>>,
    /// Known hosts.
    pub(crate) hosts: Option<Vec<u8>>,
}

impl HostSettings {
    /// Reads the host's settings.
    pub(crate) fn read() -> Self {
        let mut settings = Self {
            resolv_conf: fs_err::read("/etc/resolv.conf").ok(),
            hosts: fs_err::read("/etc/hosts").ok(),
            ..Self::default()
        };
        for name in PASSED_VARIABLES {
            if let Ok(value) = std::env::var(name) {
                settings.environment.insert(name.to_owned(), value);
            }
        }
        if let Some(bundle) = lamina_fetch::host_certificates() {
            settings.add_certificates(bundle);
        }
        settings.add_indexes(&PipSettings::of_host(), |name| std::env::var(name).ok());
        settings
    }

    /// Gives pip and `uv` the host's indexes.
    fn add_indexes(&mut self, pip: &PipSettings, variable: impl Fn(&str) -> Option<String>) {
        let certificates = format!("{DIRECTORY}/{CERTIFICATES}");
        let certificates = self.environment.values().any(|value| *value == certificates).then_some(&*certificates);
        if let Some(text) = pip.pip_configuration(certificates) {
            self.add_file(PIP_CONFIGURATION, text.into_bytes());
        }
        if let Some(text) = pip.uv_configuration(variable) {
            self.add_file(UV_CONFIGURATION, text.into_bytes());
        }
    }

    /// Makes apt ask the host's mirror for what the image's sources ask Debian's own archive for, however they were edited.
    pub(crate) fn add_mirror(&mut self, suite: Suite) -> Result<(), BuildError> {
        let unusable = |error: BaseError| BuildError::Invalid { message: causes(&error), hint: None };
        let mirror = mirror::find().map_err(unusable)?;
        let keyring =
            mirror.keyring_bytes().map_err(unusable)?.map(|bytes| self.add_file("archive-keyring.asc", bytes));
        let mut configuration = APT_CONFIGURATION.to_owned();
        if self.files.iter().any(|file| file.name == CERTIFICATES) {
            let _ = writeln!(configuration, "Acquire::https::CAInfo \"{DIRECTORY}/{CERTIFICATES}\";");
        }
        if !mirror.check_valid_until {
            configuration.push_str("Acquire::Check-Valid-Until \"no\";\n");
        }
        for method in apt_methods::for_mirror(&mirror, keyring.as_deref()) {
            let program = self.add_program(&format!("apt-{}", method.name), method.script.into_bytes());
            let _ = writeln!(configuration, "Dir::Bin::Methods::{} \"{program}\";", method.name);
        }
        let plain = self.add_file("apt.conf", configuration.clone().into_bytes());
        self.environment.insert("APT_CONFIG".to_owned(), plain);
        if mirror.security.is_none() {
            self.add_list_without_security(&mirror, suite, keyring.as_deref(), configuration);
        }
        Ok(())
    }

    /// For mirrors without a security archive: a list that does not name it, in place of the image's own while that is as
    /// the base has it. Programs that edit the list cannot do so then, since apt takes no two lists for one.
    fn add_list_without_security(
        &mut self,
        mirror: &Mirror,
        suite: Suite,
        keyring: Option<&str>,
        mut configuration: String,
    ) {
        self.add_file("image.list", mirror::image_sources(suite).into_bytes());
        let sources = mirror.sources_list(suite, keyring.unwrap_or(mirror::IMAGE_KEYRING));
        let sources = self.add_file("host.sources", sources.into_bytes());
        let _ = writeln!(configuration, "Dir::Etc::SourceList \"{sources}\";");
        self.add_file("apt-mirror.conf", configuration.into_bytes());
    }

    /// Adds a world-readable file and returns its path inside.
    pub(crate) fn add_file(&mut self, name: &str, contents: Vec<u8>) -> String {
        self.files.push(InjectedFile { name: name.to_owned(), contents, mode: 0o444 });
        format!("{DIRECTORY}/{name}")
    }

    /// Adds a program that everybody may run and returns its path inside.
    fn add_program(&mut self, name: &str, contents: Vec<u8>) -> String {
        self.files.push(InjectedFile { name: name.to_owned(), contents, mode: 0o555 });
        format!("{DIRECTORY}/{name}")
    }

    fn add_certificates(&mut self, bundle: Vec<u8>) {
        let path = self.add_file(CERTIFICATES, bundle);
        for name in CERTIFICATE_VARIABLES {
            self.environment.insert(name.to_owned(), path.clone());
        }
        let wget = self.add_file("wgetrc", format!("ca_certificate = {path}\n").into_bytes());
        self.environment.insert("WGETRC".to_owned(), wget);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_reach_every_family_of_programs() {
        let mut settings = HostSettings::default();
        settings.add_certificates(b"PEM".to_vec());
        assert_eq!(settings.environment["GIT_SSL_CAINFO"], "/dev/lamina/ca.pem");
        assert_eq!(settings.environment["WGETRC"], "/dev/lamina/wgetrc");
        assert_eq!(settings.files.len(), 2);
        settings
            .add_indexes(&PipSettings::default(), |name| (name == "UV_INDEX").then(|| "https://x.invalid".to_owned()));
        let files: Vec<_> = settings.files[2..].iter().map(|file| file.name.as_str()).collect();
        assert_eq!(files, [PIP_CONFIGURATION, UV_CONFIGURATION]);
        let contents = String::from_utf8_lossy(&settings.files[2].contents);
        assert_eq!(contents, "[global]\ncert = /dev/lamina/ca.pem\n");
    }
}
