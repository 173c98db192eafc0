//! What an image says about running things in it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// How things are run in an image: what later steps and containers start with, and what only containers have. What it
/// does not say is as in the base, or as the format of images has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeConfig {
    /// Environment variables of the image.
    pub environment: BTreeMap<String, String>,
    /// Working directory, absolute; `None` is `/` for steps and `/root` for functions.
    pub working_directory: Option<String>,
    /// The user of a Dockerfile's commands and of shells: a name or number, and a group behind a colon; `None` is root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The program and arguments before a shell command; `None` is `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// The program and arguments that a container's command is given to, which has to execute it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command of a container that is told no other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Ports that its programs listen on, for example `80/tcp`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// Directories that are meant for data which outlives containers.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// The signal that asks a container to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How to find out whether a container works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Who made the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
}

/// How to find out whether a container works, as images record it. Nothing here runs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Healthcheck {
    /// `["NONE"]`, or `CMD` with a program and its arguments, or `CMD-SHELL` with a command.
    pub test: Vec<String>,
    /// Nanoseconds between two checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<u64>,
    /// Nanoseconds that one check may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Nanoseconds after the start in which failures do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period: Option<u64>,
    /// Nanoseconds between two checks in that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_interval: Option<u64>,
    /// Failures in a row that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

impl RuntimeConfig {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes over what another one says.
    pub fn extend(&mut self, later: Self) {
        let Self { environment, working_directory, user, shell, entrypoint, command, .. } = later;
        let Self { labels, exposed_ports, volumes, stop_signal, healthcheck, author, .. } = later;
        self.environment.extend(environment);
        self.working_directory = working_directory.or_else(|| self.working_directory.take());
        self.user = user.or_else(|| self.user.take());
        self.shell = shell.or_else(|| self.shell.take());
        if !entrypoint.is_empty() {
            self.entrypoint = entrypoint;
        }
        if !command.is_empty() {
            self.command = command;
        }
        self.labels.extend(labels);
        self.exposed_ports.extend(exposed_ports);
        self.volumes.extend(volumes);
        self.stop_signal = stop_signal.or_else(|| self.stop_signal.take());
        self.healthcheck = healthcheck.or_else(|| self.healthcheck.take());
        self.author = author.or_else(|| self.author.take());
    }

    /// The part that the commands of later steps start with. The rest is about containers, and changes no step's result.
    #[must_use]
    pub fn of_steps(&self) -> Self {
        let Self { environment, working_directory, user, shell, .. } = self.clone();
        Self { environment, working_directory, user, shell, ..Self::default() }
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
    #[test]
    fn what_only_containers_have_is_no_matter_of_steps() {
        let steps = RuntimeConfig {
            environment: [("A".to_owned(), "1".to_owned())].into(),
            working_directory: Some("/srv".to_owned()),
            user: Some("app".to_owned()),
            shell: Some(vec!["/bin/bash".to_owned()]),
            ..RuntimeConfig::default()
        };
        let mut all = steps.clone();
        all.extend(RuntimeConfig {
            entrypoint: vec!["/start".to_owned()],
            command: vec!["serve".to_owned()],
            labels: [("a".to_owned(), "b".to_owned())].into(),
            exposed_ports: ["80/tcp".to_owned()].into(),
            volumes: ["/data".to_owned()].into(),
            stop_signal: Some("SIGINT".to_owned()),
            healthcheck: Some(Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() }),
            author: Some("me".to_owned()),
            ..RuntimeConfig::default()
        });
        assert_ne!(all, steps);
        assert_eq!(all.of_steps(), steps);
    }
}
