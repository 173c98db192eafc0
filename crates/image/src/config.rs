//! What an image says about running things in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Environment, working directory, user and shell that later steps and containers start with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeConfig {
    /// Environment variables of the image.
    pub environment: BTreeMap<String, String>,
    /// Working directory, absolute; `None` is `/` for steps and `/root` for functions.
    pub working_directory: Option<String>,
    /// The user and group ids of commands; `None` is root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<(u32, u32)>,
    /// The program and arguments before a shell command; `None` is `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

impl RuntimeConfig {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes over what another one says.
    pub fn extend(&mut self, later: Self) {
        let Self { environment, working_directory, user, shell } = later;
        self.environment.extend(environment);
        self.working_directory = working_directory.or_else(|| self.working_directory.take());
        self.user = user.or(self.user);
        self.shell = shell.or_else(|| self.shell.take());
    }

    /// Adds variables; later values win.
    pub fn extend_environment(&mut self, variables: &BTreeMap<String, String>) {
        self.environment.extend(variables.iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    /// Sets the working directory; a relative one is below the present one, as in a Dockerfile.
    pub fn enter_directory(&mut self, path: &str) {
        let present = self.working_directory.as_deref().unwrap_or("/");
        let joined = if path.starts_with('/') { path.to_owned() } else { format!("{present}/{path}") };
        self.working_directory = Some(normalise(&joined));
    }
}

/// Removes `.`, `..` and doubled slashes from an absolute path.
fn normalise(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_directories_are_relative_to_the_present_one() {
        let mut config = RuntimeConfig::default();
        for (path, expected) in [("srv", "/srv"), ("a//./b/", "/srv/a/b"), ("../c", "/srv/a/c"), ("/x", "/x")] {
            config.enter_directory(path);
            assert_eq!(config.working_directory.as_deref(), Some(expected));
        }
    }
}
