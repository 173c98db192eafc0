//! What can go wrong with images of registries.

use std::borrow::Cow;

use lamina_fetch::FetchError;
use lamina_ground::Hint;
use lamina_store::{JobError, StoreError};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry does not have the image.
    #[error("the registry `{registry}` has no image `{image}`, or does not show it to you")]
    NotFound {
        /// The registry.
        registry: String,
        /// The image, in the full form of its name.
        image: String,
        /// Whether a login was used.
        is_logged_in: bool,
        /// Tags that it has, the most similar ones first.
        tags: Vec<String>,
    },
    /// The registry has the image, but not all that it consists of.
    #[error("the registry `{registry}` has `{image}`, but lacks its part `{part}`")]
    Incomplete {
        /// The registry.
        registry: String,
        /// The image, in the full form of its name.
        image: String,
        /// The digest of what is missing.
        part: String,
    },
    /// The registry wants a login, or another one.
    #[error("the registry `{registry}` refuses `{image}`: {reason}")]
    Denied {
        /// The registry.
        registry: String,
        /// The image, in the full form of its name.
        image: String,
        /// What it said.
        reason: String,
        /// Whether a login was used.
        is_logged_in: bool,
        /// Whether the image was to be written there.
        is_for_push: bool,
    },
    /// The image is for other machines.
    #[error("it is made for {}, and this machine is `{own}`", machines(.offered))]
    Platform {
        /// What this machine is.
        own: String,
        /// What the image is for.
        offered: Vec<String>,
    },
    /// What came is no image.
    #[error("it is no image that can be read: {0}")]
    Malformed(String),
    /// Overlays would have no room for it.
    #[error("`{image}` has {layers} layers, and {most} are the most")]
    TooManyLayers {
        /// Its name.
        image: String,
        /// How many it has.
        layers: usize,
        /// How many it may have.
        most: usize,
    },
    /// An image of this machine cannot be read.
    #[error("`{image}` cannot be read: {reason}")]
    Unreadable {
        /// Its name, with its transport.
        image: String,
        /// Why not.
        reason: String,
    },
    /// The storage of podman and buildah does not have an image.
    #[error("`{image}` is none of the images that podman and buildah have here")]
    NotStored {
        /// Its name, with its transport.
        image: String,
    },
    /// It is not said which one of several images is meant, or it is none of them.
    #[error("`{image}` {}", if *.is_named { "is none of its images" } else { "has several images" })]
    NoChoice {
        /// Its name, with its transport.
        image: String,
        /// Whether one was named.
        is_named: bool,
        /// Those that are there.
        choices: Vec<String>,
    },
    /// A Docker daemon is not there, or answers nothing of use.
    #[error("the Docker daemon at `{address}` cannot be spoken to: {reason}")]
    Daemon {
        /// Where it was looked for.
        address: String,
        /// Why not.
        reason: String,
        /// Whether this user may not speak to its socket.
        is_forbidden: bool,
    },
    /// Nothing here reads the storage of podman.
    #[error("`{image}` cannot be read: none of `skopeo`, `podman` and `buildah` is on PATH")]
    NoProgram {
        /// Its name, with its transport.
        image: String,
    },
    /// A part is not what its digest says.
    #[error("the registry sent something else than `{expected}`: its SHA-256 is `{found}`")]
    Digest {
        /// The announced digest.
        expected: String,
        /// What came.
        found: String,
    },
    /// A layer that its maker does not let registries have.
    #[error("its layer `{0}` is kept outside of registries, where only Docker on Windows gets it from")]
    Foreign(String),
    /// Something in it belongs to an id that the store does not have.
    #[error("{0}")]
    Stranger(String),
    /// A file with logins that cannot be used.
    #[error("the logins in `{path}` cannot be used: {reason}")]
    Logins {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Settings of registries that cannot be used.
    #[error("the settings of registries in `{path}` cannot be used: {reason}")]
    Settings {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host's settings forbid it.
    #[error("`{image}` is blocked by this machine's registries.conf")]
    Blocked {
        /// The image, in the full form of its name.
        image: String,
    },
    /// A program that keeps logins failed.
    #[error("`{program}`, which keeps the login for `{server}`, does not give it: {reason}")]
    Helper {
        /// The program.
        program: String,
        /// What it was asked for.
        server: String,
        /// What it said.
        reason: String,
    },
    /// A secret that is no login.
    #[error("{0}")]
    Secret(String),
    /// A provider of registries does not give a login.
    #[error("{provider} does not give a login: {reason}")]
    Provider {
        /// Who.
        provider: &'static str,
        /// What it said.
        reason: String,
    },
    /// The registry does not take an image.
    #[error("the registry does not take `{image}`: {reason}")]
    NotTaken {
        /// The image, in the full form of its name.
        image: String,
        /// What it said.
        reason: String,
    },
    /// An image has no place in a registry without a tag.
    #[error("`{0}` cannot be pushed to: it names an image by its digest")]
    NoTag(String),
    /// A push came to no end.
    #[error("the upload to `{image}` failed, and it is not published: {reason}")]
    Broken {
        /// The image, in the full form of its name.
        image: String,
        /// Why not.
        reason: Box<RegistryError>,
    },
    /// What is made of an image cannot be written.
    #[error("writing what leaves the store failed: {0}")]
    Output(#[from] std::io::Error),
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It could not be unpacked.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn machines(platforms: &[String]) -> String {
    let quoted: Vec<_> = platforms.iter().map(|platform| format!("`{platform}`")).collect();
    if quoted.is_empty() { "no machine that it names".to_owned() } else { quoted.join(", ") }
}

impl Hint for RegistryError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::NotFound { tags, .. } if !tags.is_empty() => {
                let tags: Vec<_> = tags.iter().map(|tag| format!("`{tag}`")).collect();
                Some(Cow::Owned(format!("its tags are {}", tags.join(", "))))
            }
            Self::Blocked { .. } => {
                Some("take `blocked` out of its table in /etc/containers/registries.conf, or use another image".into())
            }
            Self::NotFound { registry, is_logged_in: false, .. } => Some(Cow::Owned(format!(
                "look at its name and tag; if it is private, log in with `docker login {registry}` or `podman login \
                 {registry}`, or give `secret=`"
            ))),
            Self::NotFound { .. } => Some("look at its name and tag, and at what the login may read".into()),
            // What is pushed has the host's login.
            Self::Denied { registry, is_logged_in: false, is_for_push: true, .. } => Some(Cow::Owned(format!(
                "log in with `docker login {registry}` or `podman login {registry}`, as somebody who may write there"
            ))),
            Self::Denied { registry, is_for_push: true, .. } => Some(Cow::Owned(format!(
                "look whether the login is still right, and may write there: `docker login {registry}` or `podman login \
                 {registry}` makes another one"
            ))),
            Self::Denied { registry, is_logged_in: false, .. } => Some(Cow::Owned(format!(
                "log in with `docker login {registry}` or `podman login {registry}`, or give `secret=` with \
                 REGISTRY_USERNAME and REGISTRY_PASSWORD"
            ))),
            Self::Denied { .. } => Some("look whether the login is still right, and may read this image".into()),
            Self::Incomplete { .. } => Some("push it there again: what is there already is not sent again".into()),
            Self::Malformed(_) => Some("look whether it is the name of an image: registries have other things as well".into()),
            Self::Digest { .. } => Some("a proxy or mirror on the way may give something else: try again, or without it".into()),
            Self::TooManyLayers { .. } => Some(
                "make it of fewer, as by `podman build --squash-all`, or take its files alone: those that `podman export` writes, by \
                 `modal image import`"
                    .into(),
            ),
            Self::Platform { .. } => Some("use an image that is made for this machine as well".into()),
            Self::Helper { program, .. } => Some(Cow::Owned(format!(
                "look whether `{program}` is on PATH and works, or take it out of `credHelpers` and `credsStore` of \
                 ~/.docker/config.json; what only reads the image takes `secret=` as well"
            ))),
            Self::Secret(_) => Some(
                "make one with `modal secret create NAME KEY=VALUE …`, for example with REGISTRY_USERNAME and REGISTRY_PASSWORD"
                    .into(),
            ),
            Self::Provider { .. } => Some("look whether the keys of `secret=` are still right, and may read this image".into()),
            Self::Stranger(_) => Some(
                "give your user more ids, with `sudo usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST USER` (see \
                 /etc/subuid and /etc/subgid), or use an image with smaller ones: the next command takes them into the store"
                    .into(),
            ),
            Self::NoChoice { choices, .. } if choices.is_empty() => Some("it has no image".into()),
            Self::NoChoice { choices, .. } => {
                let choices: Vec<_> = choices.iter().map(|choice| format!("`{choice}`")).collect();
                Some(Cow::Owned(format!("name one behind the path, as in `oci-archive:FILE:NAME` or `docker-archive:FILE:NAME`: {}", choices.join(", "))))
            }
            Self::Daemon { is_forbidden: true, .. } => Some(
                "whoever may speak to it is in the group of its socket: `sudo usermod --append --groups docker USER`, and a new login"
                    .into(),
            ),
            Self::Daemon { .. } => Some(
                "start it, or name it by DOCKER_HOST or `docker context use`; an image of a machine that has it comes by `docker \
                 save REF -o FILE` and `docker-archive:FILE`"
                    .into(),
            ),
            Self::NotStored { .. } => Some(
                "`podman images` or `buildah images` shows them: name it in full, as in `containers-storage:localhost/app:v1`"
                    .into(),
            ),
            Self::NoProgram { .. } => Some("install one, or use `podman save --format oci-archive` and `oci-archive:FILE`".into()),
            Self::Output(error) => error.hint(),
            Self::NoTag(_) => Some("give it a tag, as in `registry.example/team/app:v1`".into()),
            Self::Broken { reason, .. } if matches!(**reason, Self::Fetch(FetchError::Untrusted { .. })) => reason.hint(),
            Self::Broken { .. } => Some("push it again: what the registry has already is not sent again".into()),
            Self::Fetch(FetchError::Untrusted { .. }) => Some(
                "put its authority's certificate into ~/.config/containers/certs.d/HOST:PORT/ca.crt, or set `insecure = true` for it in \
                 registries.conf if nobody else can answer in its place"
                    .into(),
            ),
            Self::Fetch(FetchError::Status { status: 500.., .. }) => Some("it is the registry that fails: try again later".into()),
            Self::Fetch(error) => error.hint(),
            Self::Job(error) => error.hint(),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_push_is_told_what_a_push_takes() {
        let hint = |is_logged_in| {
            let (registry, image) = ("r.example".to_owned(), "r.example/app:v1".to_owned());
            let reason = "status 403".to_owned();
            let error = RegistryError::Denied { registry, image, reason, is_logged_in, is_for_push: true };
            error.hint().unwrap_or_default().into_owned()
        };
        insta::assert_snapshot!(hint(false), @"log in with `docker login r.example` or `podman login r.example`, as somebody who may write there");
        insta::assert_snapshot!(hint(true), @"look whether the login is still right, and may write there: `docker login r.example` or `podman login r.example` makes another one");
    }

    #[test]
    fn an_upload_that_breaks_says_of_what_it_is() {
        let (url, reason) = ("https://r.example/v2/app/blobs/uploads/1".to_owned(), "it is gone".to_owned());
        let error = RegistryError::Broken {
            image: "r.example/app:v1".to_owned(),
            reason: Box::new(FetchError::Unsent { url, reason, attempts: 6 }.into()),
        };
        insta::assert_snapshot!(format!("{error}\n{}", error.hint().unwrap_or_default()), @r"
        the upload to `r.example/app:v1` failed, and it is not published: sending to `https://r.example/v2/app/blobs/uploads/1` failed: it is gone (6 attempts); check the network connection and, behind a proxy, HTTPS_PROXY and SSL_CERT_FILE
        push it again: what the registry has already is not sent again
        ");
    }
}
