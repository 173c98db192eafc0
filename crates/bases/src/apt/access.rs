//! What every command on a Debian base gets from the host, so that its apt reaches the host's mirror.

use std::fmt::Write as _;

use lamina_image::Facts;
use lamina_sandbox::InjectedFile;

use super::methods;
use crate::mirror::{self, Mirror};
use crate::{BaseError, Suite};

/// Settings of apt that hold in every build sandbox: patience, and no synchronising of what is committed as a whole.
const CONFIGURATION: &str = r#"Acquire::Retries "5";
Acquire::Languages "none";
Dpkg::Use-Pty "0";
DPkg::Options { "--force-unsafe-io"; };
"#;

/// Files and settings for the sandbox of a step.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Files to inject.
    pub files: Vec<InjectedFile>,
    /// Environment variables; the image's own win over them.
    pub environment: Vec<(String, String)>,
    /// What the shell does before the step's commands.
    pub prepare: String,
}

/// What commands in an image need to reach the host's mirror, however the image's sources were edited; nothing if it is
/// no Debian. Files appear in `directory`, where `certificates` is the host's bundle.
///
/// # Errors
/// When the host's settings cannot be used.
pub fn access(facts: &Facts, directory: &str, certificates: Option<&str>) -> Result<Access, BaseError> {
    let mut access = Access::default();
    if let Some(suite) = Suite::of(facts) {
        access.add_mirror(&mirror::find()?, suite, directory, certificates)?;
    }
    Ok(access)
}

impl Access {
    fn add_mirror(
        &mut self,
        mirror: &Mirror,
        suite: Suite,
        directory: &str,
        certificates: Option<&str>,
    ) -> Result<(), BaseError> {
        let keyring = mirror.keyring_bytes()?;
        let keyring = keyring.map(|bytes| self.add(directory, "archive-keyring.asc", bytes, 0o444));
        let mut configuration = CONFIGURATION.to_owned();
        // Writing into a string cannot fail.
        if let Some(certificates) = certificates {
            let _ = writeln!(configuration, "Acquire::https::CAInfo \"{certificates}\";");
        }
        if !mirror.check_valid_until {
            configuration.push_str("Acquire::Check-Valid-Until \"no\";\n");
        }
        for method in methods::for_mirror(mirror, keyring.as_deref()) {
            let name = format!("apt-{}", method.name);
            let program = self.add(directory, &name, method.script.into_bytes(), 0o555);
            let _ = writeln!(configuration, "Dir::Bin::Methods::{} \"{program}\";", method.name);
        }
        let plain = self.add(directory, "apt.conf", configuration.clone().into_bytes(), 0o444);
        if mirror.security.is_none() {
            // The image's own list stands while it is as the base has it. Programs that edit it cannot do so then, since
            // apt takes no two lists for one.
            let list = self.add(directory, "image.list", mirror::image_sources(suite).into_bytes(), 0o444);
            let sources = mirror.sources_list(suite, keyring.as_deref().unwrap_or(mirror::IMAGE_KEYRING));
            let sources = self.add(directory, "host.sources", sources.into_bytes(), 0o444);
            let _ = writeln!(configuration, "Dir::Etc::SourceList \"{sources}\";");
            let own = self.add(directory, "apt-mirror.conf", configuration.into_bytes(), 0o444);
            self.prepare = format!(
                "if [ \"$APT_CONFIG\" = {plain} ] && cmp -s /etc/apt/sources.list {list}; then\n    export APT_CONFIG={own}\nfi\n"
            );
        }
        self.environment.push(("APT_CONFIG".to_owned(), plain));
        Ok(())
    }

    /// Adds a file that everybody may read and returns its path inside.
    fn add(&mut self, directory: &str, name: &str, contents: Vec<u8>, mode: u32) -> String {
        self.files.push(InjectedFile { name: name.to_owned(), contents, mode });
        format!("{directory}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_gets_settings_of_apt() {
        let access = access(&Facts::default(), "/dev/x", None).unwrap();
        assert!(access.files.is_empty() && access.environment.is_empty() && access.prepare.is_empty());
    }

    #[test]
    fn without_a_security_archive_the_list_of_the_base_is_replaced() {
        let mut access = Access::default();
        let mirror = Mirror { security: None, check_valid_until: false, ..Mirror::default() };
        access.add_mirror(&mirror, Suite::Bookworm, "/dev/x", Some("/dev/x/ca.pem")).unwrap();
        let names: Vec<_> = access.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["apt.conf", "image.list", "host.sources", "apt-mirror.conf"]);
        let own = String::from_utf8_lossy(&access.files[3].contents);
        let expected = "Acquire::https::CAInfo \"/dev/x/ca.pem\";\nAcquire::Check-Valid-Until \"no\";\n\
                        Dir::Etc::SourceList \"/dev/x/host.sources\";\n";
        assert!(own.ends_with(expected), "{own}");
        assert_eq!(access.environment, [("APT_CONFIG".to_owned(), "/dev/x/apt.conf".to_owned())]);
        assert!(access.prepare.contains("export APT_CONFIG=/dev/x/apt-mirror.conf"), "{}", access.prepare);
    }
}
