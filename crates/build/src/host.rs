//! The host's network settings inside build sandboxes: certificates, proxies, package indexes, name resolution.
//!
//! They are the host's business (a company's proxy, a private certificate authority): they apply while a step runs,
//! as environment and as files under `/dev/lamina`, which is never part of a layer, and they enter no key.

use std::collections::BTreeMap;

use lamina_bases::mirror::Mirror;
use lamina_sandbox::InjectedFile;

/// Where injected files appear.
pub(crate) const DIRECTORY: &str = "/dev/lamina";

/// Variables that name a certificate bundle, one for each family of programs.
const CERTIFICATE_VARIABLES: [&str; 9] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "NPM_CONFIG_CAFILE",
];

/// Variables passed on as they are: proxies and package indexes.
const PASSED_VARIABLES: [&str; 20] = [
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
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_RETRIES",
    "UV_INDEX",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_INDEX_STRATEGY",
];

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
        settings.add_pip_configuration();
        if let Some(bundle) = lamina_fetch::host_certificates() {
            settings.add_certificates(bundle);
        }
        settings
    }

    /// Makes apt use the host's mirror where the image still has its own default sources.
    pub(crate) fn add_mirror(&mut self, mirror: &Mirror, suite: &str) {
        self.add_file("sources.list", mirror.sources_list(suite).into_bytes());
        let mut configuration = String::from(
            "Acquire::Retries \"5\";\nAcquire::Languages \"none\";\nDpkg::Use-Pty \"0\";\nDPkg::Options { \"--force-unsafe-io\"; };\n",
        );
        if self.files.iter().any(|file| file.name == "ca.pem") {
            configuration.push_str("Acquire::https::CAInfo \"/dev/lamina/ca.pem\";\n");
        }
        self.add_file("apt.conf", configuration.clone().into_bytes());
        configuration.push_str("Dir::Etc::SourceList \"/dev/lamina/sources.list\";\n");
        self.add_file("apt-mirror.conf", configuration.into_bytes());
        self.environment.insert("APT_CONFIG".to_owned(), format!("{DIRECTORY}/apt.conf"));
    }

    /// Adds a world-readable file and returns its path inside.
    pub(crate) fn add_file(&mut self, name: &str, contents: Vec<u8>) -> String {
        self.files.push(InjectedFile { name: name.to_owned(), contents, mode: 0o444 });
        format!("{DIRECTORY}/{name}")
    }

    fn add_certificates(&mut self, bundle: Vec<u8>) {
        let path = self.add_file("ca.pem", bundle);
        for name in CERTIFICATE_VARIABLES {
            self.environment.insert(name.to_owned(), path.clone());
        }
        let wget = self.add_file("wgetrc", format!("ca_certificate = {path}\n").into_bytes());
        self.environment.insert("WGETRC".to_owned(), wget);
    }

    /// Index settings of the host's `pip.conf`, where the environment does not say otherwise.
    fn add_pip_configuration(&mut self) {
        let home = std::env::var("HOME").unwrap_or_default();
        let named = std::env::var("PIP_CONFIG_FILE").ok();
        let files = named.into_iter().chain([
            format!("{home}/.config/pip/pip.conf"),
            format!("{home}/.pip/pip.conf"),
            "/etc/pip.conf".to_owned(),
        ]);
        for text in files.filter_map(|path| fs_err::read_to_string(path).ok()) {
            for (name, value) in pip_settings(&text) {
                self.environment.entry(name).or_insert(value);
            }
        }
    }
}

/// Settings of a `pip.conf` that name indexes, as environment variables.
fn pip_settings(text: &str) -> Vec<(String, String)> {
    const NAMES: [&str; 5] = ["index-url", "extra-index-url", "trusted-host", "timeout", "retries"];
    let mut section = "";
    let mut settings: Vec<(String, String)> = Vec::new();
    let mut continued = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with(['#', ';']) || trimmed.is_empty() {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            continued = false;
        } else if line.starts_with([' ', '\t']) && continued {
            if let Some((_, value)) = settings.last_mut() {
                if !value.is_empty() {
                    value.push(' ');
                }
                value.push_str(trimmed);
            }
        } else if let Some((name, value)) = trimmed.split_once(['=', ':']) {
            let name = name.trim().replace('_', "-");
            continued = matches!(section, "global" | "install") && NAMES.contains(&name.as_str());
            if continued {
                let variable = match name.as_str() {
                    "timeout" => "PIP_DEFAULT_TIMEOUT".to_owned(),
                    other => format!("PIP_{}", other.to_uppercase().replace('-', "_")),
                };
                settings.push((variable, value.trim().to_owned()));
            }
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_configuration_is_understood() {
        let text = "[global]\n# a comment\nindex-url = https://index.example/simple\nextra-index-url =\n  https://a.example\n  https://b.example\ncert = /x\n[list]\nindex-url = no\n";
        let settings = pip_settings(text);
        assert_eq!(
            settings,
            [
                ("PIP_INDEX_URL".to_owned(), "https://index.example/simple".to_owned()),
                ("PIP_EXTRA_INDEX_URL".to_owned(), "https://a.example https://b.example".to_owned()),
            ]
        );
    }

    #[test]
    fn certificates_reach_every_family_of_programs() {
        let mut settings = HostSettings::default();
        settings.add_certificates(b"PEM".to_vec());
        assert_eq!(settings.environment["GIT_SSL_CAINFO"], "/dev/lamina/ca.pem");
        assert_eq!(settings.environment["WGETRC"], "/dev/lamina/wgetrc");
        assert_eq!(settings.files.len(), 2);
    }
}
