//! An image as a Dockerfile: all its files as one archive, and its settings as instructions. What made the files cannot be said in
//! instructions that would make the same again (a package index is another one tomorrow), so the steps are comments.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use lamina_image::{Healthcheck, RuntimeConfig};
use serde_json::json;

use super::Outgoing;
use crate::RegistryError;

/// The archive beside the Dockerfile.
const ARCHIVE: &str = "rootfs.tar";

impl Outgoing<'_> {
    /// Writes a Dockerfile and what it adds into an empty directory.
    ///
    /// # Errors
    /// As [`Self::write`], and when a setting is of several lines, which no Dockerfile can say.
    pub fn write_dockerfile(&self, directory: &Path) -> Result<(), RegistryError> {
        fs_err::create_dir_all(directory)?;
        let text = self.dockerfile()?;
        let file = fs_err::File::create(directory.join(ARCHIVE))?;
        self.archives().write_root(&self.layers, File::from(file))?;
        Ok(fs_err::write(directory.join("Dockerfile"), text)?)
    }

    fn dockerfile(&self) -> io::Result<String> {
        let mut text =
            format!("# The image {}, as `modal image export --format dockerfile` has written it.\n", self.id);
        text.push_str("# Its files are of these steps, and of the image that they began with:\n");
        for layer in &self.layers {
            let _ = writeln!(text, "#   {}", layer.title.replace(['\n', '\r'], " "));
        }
        let _ = writeln!(text, "FROM scratch\nADD {ARCHIVE} /");
        text.push_str(&settings(self.config)?);
        Ok(text)
    }
}

/// The instructions for how things are run.
fn settings(config: &RuntimeConfig) -> io::Result<String> {
    let mut text = String::new();
    let mut say = |line: String| {
        if line.contains(['\n', '\r']) {
            let name = line.split([' ', '=']).take(2).collect::<Vec<_>>().join(" ");
            return Err(io::Error::other(format!(
                "the value of `{name}` has several lines, which no Dockerfile can say"
            )));
        }
        text.push_str(&line);
        text.push('\n');
        Ok(())
    };
    for (name, value) in &config.environment {
        say(format!("ENV {name}={}", quoted(value)))?;
    }
    for (name, value) in &config.labels {
        say(format!("LABEL {}={}", quoted(name), quoted(value)))?;
    }
    for port in &config.exposed_ports {
        say(format!("EXPOSE {port}"))?;
    }
    for path in &config.volumes {
        say(format!("VOLUME {}", json!([path])))?;
    }
    if let Some(directory) = &config.working_directory {
        say(format!("WORKDIR {}", plain(directory)))?;
    }
    if let Some(user) = &config.user {
        say(format!("USER {}", plain(user)))?;
    }
    if let Some(shell) = &config.shell {
        say(format!("SHELL {}", json!(shell)))?;
    }
    if !config.entrypoint.is_empty() {
        say(format!("ENTRYPOINT {}", json!(config.entrypoint)))?;
    }
    if !config.command.is_empty() {
        say(format!("CMD {}", json!(config.command)))?;
    }
    if let Some(signal) = &config.stop_signal {
        say(format!("STOPSIGNAL {signal}"))?;
    }
    if let Some(check) = &config.healthcheck {
        say(healthcheck(check))?;
    }
    if let Some(author) = &config.author {
        // As it is: no quotes are taken away, and no variables replaced.
        say(format!("MAINTAINER {author}"))?;
    }
    Ok(text)
}

fn healthcheck(check: &Healthcheck) -> String {
    let times = [
        ("interval", check.interval),
        ("timeout", check.timeout),
        ("start-period", check.start_period),
        ("start-interval", check.start_interval),
    ];
    let times: BTreeMap<_, _> = times.into_iter().filter_map(|(name, time)| Some((name, time?))).collect();
    let mut text = "HEALTHCHECK".to_owned();
    for (name, nanoseconds) in times {
        let _ = write!(text, " --{name}={}", time(nanoseconds));
    }
    if let Some(retries) = check.retries {
        let _ = write!(text, " --retries={retries}");
    }
    match check.test.split_first() {
        Some((kind, command)) if kind == "CMD" => {
            let _ = write!(text, " CMD {}", json!(command));
        }
        Some((kind, command)) if kind == "CMD-SHELL" => {
            let _ = write!(text, " CMD {}", command.join(" "));
        }
        _ => return "HEALTHCHECK NONE".to_owned(),
    }
    text
}

/// A time as Go reads it.
fn time(nanoseconds: u64) -> String {
    let time = Duration::from_nanos(nanoseconds);
    if time.subsec_nanos() == 0 { format!("{}s", time.as_secs()) } else { format!("{nanoseconds}ns") }
}

/// A value in quotes, in which nothing is replaced.
fn quoted(value: &str) -> String {
    let mut text = "\"".to_owned();
    for letter in value.chars() {
        if matches!(letter, '\\' | '"' | '$') {
            text.push('\\');
        }
        text.push(letter);
    }
    text.push('"');
    text
}

/// A path or name in which nothing is replaced.
fn plain(value: &str) -> String {
    value.replace('\\', "\\\\").replace('$', "\\$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_instructions() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let mut config = RuntimeConfig {
            environment: [("A".to_owned(), r#"a "b" $C \d"#.to_owned())].into(),
            working_directory: Some("/srv/$x y".to_owned()),
            user: Some("app:7".to_owned()),
            shell: Some(texts(&["/bin/bash", "-c"])),
            entrypoint: texts(&["/start", "a \"b\""]),
            command: texts(&["serve"]),
            labels: [("a.b".to_owned(), "c d".to_owned())].into(),
            exposed_ports: ["80/tcp".to_owned()].into(),
            volumes: ["/data".to_owned()].into(),
            stop_signal: Some("SIGINT".to_owned()),
            healthcheck: Some(Healthcheck {
                test: texts(&["CMD-SHELL", "test -f /ok"]),
                interval: Some(5_000_000_000),
                timeout: Some(1_500_000),
                retries: Some(2),
                ..Healthcheck::default()
            }),
            author: Some("Me 'n' $you <me@host.invalid>".to_owned()),
        };
        insta::assert_snapshot!(settings(&config).unwrap(), @r#"
        ENV A="a \"b\" \$C \\d"
        LABEL "a.b"="c d"
        EXPOSE 80/tcp
        VOLUME ["/data"]
        WORKDIR /srv/\$x y
        USER app:7
        SHELL ["/bin/bash","-c"]
        ENTRYPOINT ["/start","a \"b\""]
        CMD ["serve"]
        STOPSIGNAL SIGINT
        HEALTHCHECK --interval=5s --timeout=1500000ns --retries=2 CMD test -f /ok
        MAINTAINER Me 'n' $you <me@host.invalid>
        "#);
        config.author = None;
        config.healthcheck = Some(Healthcheck { test: texts(&["NONE"]), ..Healthcheck::default() });
        assert!(settings(&config).unwrap().ends_with("HEALTHCHECK NONE\n"));
        config.environment.insert("B".to_owned(), "one\ntwo".to_owned());
        assert!(settings(&config).unwrap_err().to_string().contains("`ENV B` has several lines"));
        assert!(settings(&RuntimeConfig::default()).unwrap().is_empty());
    }
}
