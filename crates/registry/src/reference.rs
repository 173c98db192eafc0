//! What the name of an image means, as Docker reads it.

use std::fmt;
use std::str::FromStr;

use lamina_fetch::is_sha256;

/// The registry of names that have none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Where its own images are, which have names of one part.
const OFFICIAL: &str = "library";
/// Other names of the same registry.
const ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
const DEFAULT_TAG: &str = "latest";
/// The longest tag.
const TAG_LENGTH: usize = 128;
/// The longest name, with its registry.
const NAME_LENGTH: usize = 255;

/// An image of a registry. Its text is the full form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host and port of the registry.
    pub registry: String,
    /// The name there.
    pub repository: String,
    /// The tag; none where only a digest is given.
    pub tag: Option<String>,
    /// The SHA-256 of the manifest, in hexadecimal digits; it decides, whatever the tag says.
    pub digest: Option<String>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` names no image: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: String,
}

impl ReferenceError {
    pub(crate) fn new(text: &str, reason: String) -> Self {
        Self { text: text.to_owned(), reason }
    }
}

impl lamina_ground::Hint for ReferenceError {
    fn hint(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some("write it as in `python:3.11-slim`, `registry.example/team/app:v1`, `app@sha256:…` or `oci-archive:image.tar`".into())
    }
}

impl Reference {
    /// What the registry calls the manifest: the digest where there is one, or else the tag.
    #[must_use]
    pub fn manifest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, tag) => tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }

    /// Where the registry's interface is, for `https` or `http`.
    pub(crate) fn endpoint(&self, scheme: &str) -> String {
        format!("{scheme}://{}/v2", self.host())
    }

    /// Whether the registry is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        is_local(self.host())
    }

    fn host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { ALIASES[1] } else { &self.registry }
    }
}

/// Whether a host is this machine.
fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| is_number(port)).map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let wrong = |reason: String| ReferenceError { text: text.to_owned(), reason };
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let hex = digest.strip_prefix("sha256:").filter(|hex| is_sha256(hex));
                let hex = hex.ok_or_else(|| wrong(format!("`{digest}` is no digest like `sha256:` and 64 digits")))?;
                (rest, Some(hex.to_owned()))
            }
        };
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].find(':') {
            None => (rest, None),
            Some(colon) => (&rest[..last + colon], Some(rest[last + colon + 1..].to_owned())),
        };
        if let Some(tag) = tag.as_deref().filter(|tag| !is_tag(tag)) {
            return Err(wrong(format!("`{tag}` is no tag, which has letters, digits, `_`, `.` and `-`")));
        }
        let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
        let (registry, repository) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path.to_owned()),
            Some(_) | None => (DEFAULT_REGISTRY, name.to_owned()),
        };
        let registry = if ALIASES.contains(&registry) { DEFAULT_REGISTRY } else { registry };
        let is_official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let repository = if is_official { format!("{OFFICIAL}/{repository}") } else { repository };
        if !is_host_name(registry) {
            return Err(wrong(format!("`{registry}` is no host")));
        }
        if let Some(part) = repository.split('/').find(|part| !is_name_part(part)) {
            let reason = match part {
                "" => "a part of its name is empty".to_owned(),
                part => format!(
                    "`{part}` is no part of a name, which has small letters and digits, with single `.`, `_`, `__` or \
                     `-` between them"
                ),
            };
            return Err(wrong(reason));
        }
        if registry.len() + repository.len() >= NAME_LENGTH {
            return Err(wrong(format!("its name is longer than {NAME_LENGTH} letters")));
        }
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(formatter, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(formatter, "@sha256:{digest}"))
    }
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_LENGTH
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || b".-".contains(&byte))
}

fn is_host_name(text: &str) -> bool {
    url::Url::parse(&format!("https://{text}/")).is_ok_and(|url| {
        url.username().is_empty() && url.password().is_none() && url.path() == "/" && url.query().is_none()
    })
}

/// Whether words of small letters and digits are joined by `.`, `_`, `__` or hyphens.
fn is_name_part(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_well = text.bytes().next().is_some_and(is_word) && text.bytes().next_back().is_some_and(is_word);
    let mut joints = text.split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit());
    ends_well && joints.all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_completed_as_docker_does() {
        let cases = [
            ("python", "docker.io/library/python:latest"),
            ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
            ("nvidia/cuda:12.4.0-devel-ubuntu22.04", "docker.io/nvidia/cuda:12.4.0-devel-ubuntu22.04"),
            ("index.docker.io/python", "docker.io/library/python:latest"),
            ("localhost:5000/team/a_b.c--d", "localhost:5000/team/a_b.c--d:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("registry.example:443/a/b/c:T", "registry.example:443/a/b/c:T"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ];
        for (text, full) in cases {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(full.parse::<Reference>().unwrap(), reference);
        }
        let exact: Reference = format!("a/b:1@sha256:{DIGITS}").parse().unwrap();
        assert_eq!(exact.to_string(), format!("docker.io/a/b:1@sha256:{DIGITS}"));
        assert_eq!(exact.manifest(), format!("sha256:{DIGITS}"));
        let untagged: Reference = format!("a/b@sha256:{DIGITS}").parse().unwrap();
        assert_eq!(untagged.to_string(), format!("docker.io/a/b@sha256:{DIGITS}"));
    }

    #[test]
    fn registries_of_this_machine_are_known() {
        let reference = |text: &str| text.parse::<Reference>().unwrap();
        assert_eq!(reference("python").endpoint("https"), "https://registry-1.docker.io/v2");
        assert_eq!(reference("[::1]:5000/x").endpoint("http"), "http://[::1]:5000/v2");
        for text in ["localhost:5000/x", "localhost/x", "127.0.0.1:5000/x", "127.9.9.9/x", "[::1]:5000/x"] {
            assert!(reference(text).is_local(), "{text}");
        }
        for text in ["python", "localhost.example/x", "10.0.0.1:5000/x", "0.0.0.0:5000/x"] {
            assert!(!reference(text).is_local(), "{text}");
        }
    }

    #[test]
    fn what_names_no_image_is_refused() {
        let long = "a".repeat(300);
        let cases = [
            "",
            "Python",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:b:c",
            "a:-x",
            "a b",
            "a@sha256:12",
            "a@md5:00",
            "a/../b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "https://host.example/x",
            "user@host.example/x",
            "host.example/a?b",
            "ho st.example/a",
            &long,
        ];
        let refused: Vec<_> = cases.iter().map(|text| text.parse::<Reference>().unwrap_err().to_string()).collect();
        insta::assert_snapshot!(refused[..refused.len() - 1].join("\n"));
    }
}
