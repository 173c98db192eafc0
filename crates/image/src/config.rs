//! What an image says about running things in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Environment and working directory that later steps and containers start with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeConfig {
    /// Environment variables of the image.
    pub environment: BTreeMap<String, String>,
    /// Working directory, absolute; `None` is `/` for steps and `/root` for functions.
    pub working_directory: Option<String>,
}

impl RuntimeConfig {
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
