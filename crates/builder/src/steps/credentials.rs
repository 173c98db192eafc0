//! Credentials of package indexes, handed to the installer inside the sandbox where no argument list shows them: argument
//! lists of sandboxes can be read by every user of the host.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lamina_wheels::Installer;

use crate::host::DIRECTORY;

/// What the installer needs beside its arguments.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    /// User and password by host, for installers and whatever they start.
    hosts: BTreeMap<String, (String, String)>,
    /// Addresses with credentials that no netrc file can hold, by the variable that stands for their option.
    variables: Vec<(String, String)>,
}

impl Credentials {
    /// Takes user and password out of the addresses in a text. Those stay that a netrc file cannot hold, and those of
    /// version control, which does not read one.
    pub(super) fn take(&mut self, text: &str) -> String {
        let mut taken = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("://") {
            let (before, after) = rest.split_at(start + 3);
            taken.push_str(before);
            let ends = |one: char| one.is_whitespace() || "/?#\"'<>`|".contains(one);
            let authority = &after[..after.find(ends).unwrap_or(after.len())];
            let host = authority.rsplit_once('@').filter(|_| is_http(before));
            rest = match host {
                Some((user, host)) if self.add(user, host) => &after[user.len() + 1..],
                _ => after,
            };
        }
        taken + rest
    }

    fn add(&mut self, user: &str, host: &str) -> bool {
        let Some((user, password)) = user.split_once(':') else { return false };
        let (Some(user), Some(password)) = (decoded(user), decoded(password)) else { return false };
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let known = self.hosts.entry(name.to_owned()).or_insert_with(|| (user.clone(), password.clone()));
        *known == (user, password)
    }

    /// An option of the installer and its value, or nothing if that has to be kept out of the arguments.
    pub(super) fn option(&mut self, flag: &str, value: &str, installer: Installer) -> Option<String> {
        let value = self.take(value);
        if lamina_image::redact(&value) == value {
            return Some(value);
        }
        let prefix = if installer == Installer::Uv { "UV" } else { "PIP" };
        let name = flag.trim_start_matches('-').replace('-', "_").to_uppercase();
        self.variables.push((format!("{prefix}_{name}"), value));
        None
    }

    /// Files for `/dev/lamina`, and what the shell does with them before it starts the installer.
    pub(super) fn hand_over(self) -> (Vec<(String, Vec<u8>)>, String) {
        let (mut files, mut script) = (Vec::new(), String::new());
        if !self.hosts.is_empty() {
            let line = |(host, (user, password)): (String, (String, String))| {
                format!("machine {host} login {user} password {password}\n")
            };
            files.push(("netrc".to_owned(), self.hosts.into_iter().map(line).collect::<String>().into_bytes()));
            // The image's own comes first: the last entry for a host counts. Writing into a string cannot fail.
            let _ = write!(
                script,
                "(umask 077 && cat \"${{NETRC:-$HOME/.netrc}}\" {DIRECTORY}/netrc > /dev/shm/netrc 2>/dev/null); \
                 export NETRC=/dev/shm/netrc; "
            );
        }
        for (variable, value) in self.variables {
            // Options that may be repeated add to what variables say.
            let former = if variable.ends_with("INDEX_URL") && !variable.contains("EXTRA") || variable.starts_with("UV")
            {
                String::new()
            } else {
                format!("${{{variable}:+${variable} }}")
            };
            let _ = write!(script, "export {variable}=\"{former}$(cat {DIRECTORY}/{variable})\"; ");
            files.push((variable, value.into_bytes()));
        }
        (files, script)
    }
}

/// Whether the text ends with the scheme of an address that is fetched by the installer itself.
fn is_http(before: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| {
        before.strip_suffix(scheme).is_some_and(|rest| !rest.ends_with(|one: char| one.is_alphanumeric() || one == '+'))
    })
}

/// A part of an address without percent signs; nothing if a netrc file cannot hold it.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => (bytes.push(byte), rest = &after[2..]),
            None => (bytes.push(*first), rest = after),
        };
    }
    let is_safe = |byte: &u8| byte.is_ascii_graphic() && !b"\"'\\#$".contains(byte);
    (!bytes.is_empty() && bytes.iter().all(is_safe)).then(|| String::from_utf8(bytes).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_the_arguments() {
        let mut credentials = Credentials::default();
        assert_eq!(
            credentials.take("a @ https://me:pa%40ss@host:8080/a.whl --index-url=http://you:word@other/simple"),
            "a @ https://host:8080/a.whl --index-url=http://other/simple"
        );
        for kept in [
            "https://me:another@host/",
            "https://token@host2/",
            "git+https://me:word@host3/x",
            "https://me:sp%20ace@host4/",
            "https://$USER:word@host5/",
            "https://host6/a:b@c",
        ] {
            assert_eq!(credentials.take(kept), kept);
        }
        let option = credentials.option("--index-url", "https://token@host2/", Installer::Pip);
        assert_eq!(option, None);
        let option = credentials.option("--extra-index-url", "https://me:pa%40ss@host/s", Installer::Pip);
        assert_eq!(option.as_deref(), Some("https://host/s"));
        let (files, script) = credentials.hand_over();
        let text = |index: usize| (files[index].0.as_str(), String::from_utf8(files[index].1.clone()).unwrap());
        let netrc = "machine host login me password pa@ss\nmachine other login you password word\n";
        assert_eq!(text(0), ("netrc", netrc.to_owned()));
        assert_eq!(text(1), ("PIP_INDEX_URL", "https://token@host2/".to_owned()));
        assert!(script.contains("export PIP_INDEX_URL=\"$(cat /dev/lamina/PIP_INDEX_URL)\""), "{script}");
    }
}
