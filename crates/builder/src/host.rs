//! The host's network settings inside build sandboxes: certificates, proxies, package indexes, name resolution.
//!
//! They are the host's business (a company's proxy, a private certificate authority): they apply while a step runs,
//! as environment and as files under `/dev/lamina`, which is never part of a layer, and they enter no key.

use std::collections::BTreeMap;

use lamina_bases::apt;
use lamina_image::Facts;
use lamina_sandbox::InjectedFile;
use lamina_wheels::{PipSettings, UvSettings};

use crate::BuildError;

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
/// A link to the image's own place of `uv`'s settings, which `uv` looks at last of all.
const UV_OF_IMAGE: &str = "xdg-image/uv";
const LINK: u32 = 0o120_777;

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
    /// What the shell does before a step's commands.
    pub(crate) prepare: String,
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
        settings.add_indexes(&PipSettings::of_host(), UvSettings::of_host(), |name| std::env::var(name).ok());
        settings
    }

    /// Gives pip and `uv` the host's indexes.
    fn add_indexes(&mut self, pip: &PipSettings, uv: UvSettings, variable: impl Fn(&str) -> Option<String>) {
        let certificates = format!("{DIRECTORY}/{CERTIFICATES}");
        let certificates = self.environment.values().any(|value| *value == certificates).then_some(&*certificates);
        if let Some(text) = uv.complete(pip, &variable).pip_configuration(certificates) {
            self.add_file(PIP_CONFIGURATION, text.into_bytes());
        }
        if let Some(text) = uv.configuration(pip, variable) {
            self.add_file(UV_CONFIGURATION, text.into_bytes());
            self.files.push(InjectedFile { name: UV_OF_IMAGE.to_owned(), contents: b"/etc/uv".to_vec(), mode: LINK });
        }
    }

    /// Has the installers use an index that the step names although this machine has none: `no-index` of settings would
    /// stand above it.
    pub(crate) fn remove_no_index(&mut self) {
        for file in self.files.iter_mut().filter(|file| [PIP_CONFIGURATION, UV_CONFIGURATION].contains(&&*file.name)) {
            let text = String::from_utf8_lossy(&file.contents).replace("no-index = true\n", "");
            file.contents = text.into_bytes();
        }
    }

    /// Leaves out the indexes for `uv`, which would stand above those of a requirements file.
    pub(crate) fn remove_indexes_of_uv(&mut self) {
        self.files.retain(|file| file.name != UV_CONFIGURATION);
    }

    /// Adds what commands in an image with these facts need to reach the host's mirror of its packages.
    pub(crate) fn add_packages(&mut self, facts: &Facts) -> Result<(), BuildError> {
        let certificates = format!("{DIRECTORY}/{CERTIFICATES}");
        let certificates = self.files.iter().any(|file| file.name == CERTIFICATES).then_some(&*certificates);
        let access = apt::access(facts, DIRECTORY, certificates).map_err(BuildError::invalid)?;
        self.files.extend(access.files);
        self.environment.extend(access.environment);
        self.prepare = access.prepare;
        Ok(())
    }

    /// Adds a world-readable file and returns its path inside.
    pub(crate) fn add_file(&mut self, name: &str, contents: Vec<u8>) -> String {
        self.files.push(InjectedFile { name: name.to_owned(), contents, mode: 0o444 });
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

/// Has pip and `uv` look for the host's settings among `files`, beside the directories that the image names. pip reads all
/// that there are, of which the last one wins, and `uv` only the first: the image's, wherever and whenever it gets any.
pub(crate) fn add_settings_directories(files: &[InjectedFile], environment: &mut BTreeMap<String, String>) {
    const NAME: &str = "XDG_CONFIG_DIRS";
    let has = |name: &str| files.iter().any(|file| file.name == name);
    let under = |name: &str| format!("{DIRECTORY}/{}", name.split('/').next().unwrap_or(name));
    let given = environment.get(NAME).filter(|given| !given.is_empty());
    let mut directories = vec![given.cloned().unwrap_or_else(|| "/etc/xdg".to_owned())];
    if has(PIP_CONFIGURATION) {
        directories.insert(0, under(PIP_CONFIGURATION));
    }
    if has(UV_CONFIGURATION) {
        directories.extend([under(UV_OF_IMAGE), under(UV_CONFIGURATION)]);
    }
    if directories.len() > 1 {
        environment.insert(NAME.to_owned(), directories.join(":"));
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
        let variable = |name: &str| (name == "UV_INDEX").then(|| "https://x.invalid".to_owned());
        settings.add_indexes(&PipSettings::default(), UvSettings::default(), variable);
        let files: Vec<_> = settings.files[2..].iter().map(|file| file.name.as_str()).collect();
        assert_eq!(files, [PIP_CONFIGURATION, UV_CONFIGURATION, UV_OF_IMAGE]);
        let contents = String::from_utf8_lossy(&settings.files[2].contents);
        assert_eq!(contents, "[global]\nextra-index-url = https://x.invalid\ncert = /dev/lamina/ca.pem\n");
        let mut settings = HostSettings::default();
        settings.add_file(PIP_CONFIGURATION, b"[global]\nno-index = true\ncert = x\n".to_vec());
        settings.add_file(UV_CONFIGURATION, b"no-index = true\n".to_vec());
        settings.remove_no_index();
        let texts = settings.files.iter().map(|file| String::from_utf8_lossy(&file.contents));
        assert_eq!(texts.collect::<Vec<_>>(), ["[global]\ncert = x\n", ""]);
    }

    #[test]
    fn settings_of_the_image_are_found_before_those_of_the_host() {
        let directories = |files: &[&str], given: &[(&str, &str)]| {
            let file = |name: &&str| InjectedFile { name: (*name).to_owned(), contents: Vec::new(), mode: 0o444 };
            let files: Vec<_> = files.iter().map(file).collect();
            let mut environment =
                given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>();
            add_settings_directories(&files, &mut environment);
            environment.remove("XDG_CONFIG_DIRS")
        };
        let both = [PIP_CONFIGURATION, UV_CONFIGURATION, UV_OF_IMAGE];
        let own = [("XDG_CONFIG_DIRS", "/a:/b")];
        assert_eq!(directories(&[CERTIFICATES], &[]), None);
        assert_eq!(directories(&[PIP_CONFIGURATION], &[]).unwrap(), "/dev/lamina/xdg-pip:/etc/xdg");
        let all = "/dev/lamina/xdg-pip:/a:/b:/dev/lamina/xdg-image:/dev/lamina/xdg-uv";
        assert_eq!(directories(&both, &own).unwrap(), all);
    }
}
