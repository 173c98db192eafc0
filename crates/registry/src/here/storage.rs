//! Images of podman and buildah. Their storage is read by one of their own programs: only these know all of its drivers, locks and
//! settings, and enter an ordinary user's namespace.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lamina_events::CancelToken;
use lamina_fetch::FetchError;
use lamina_image::Hasher;
use lamina_system::{Bounds, Outcome, run_bounded_with};

use super::LocalImage;
use crate::RegistryError;

const BOUNDS: Bounds = Bounds { output_bytes: 8 << 20, time: Duration::from_hours(1), ..Bounds::PACKAGE_TOOL };

/// What the programs say of an image that the storage does not have.
const NOT_STORED: [&str; 2] = ["does not resolve to an image ID", "image not known"];

/// What they say of an image that came with layers that Docker's format does not know.
const NOT_FOR_DOCKER: &str = "compression is not supported for docker images";

/// A program that reads the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Skopeo,
    Podman,
    Buildah,
}

impl Program {
    const ALL: [Self; 3] = [Self::Skopeo, Self::Podman, Self::Buildah];

    fn name(self) -> &'static str {
        match self {
            Self::Skopeo => "skopeo",
            Self::Podman => "podman",
            Self::Buildah => "buildah",
        }
    }

    /// The first that this machine has.
    pub(super) fn of_host(image: &LocalImage) -> Result<Self, RegistryError> {
        let directories: Vec<_> =
            std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
        let is_there = |program: &Self| {
            directories.iter().any(|directory: &std::path::PathBuf| directory.join(program.name()).is_file())
        };
        Self::ALL.into_iter().find(is_there).ok_or_else(|| RegistryError::NoProgram { image: image.to_string() })
    }

    /// What tells apart all images that have been called so.
    pub(super) fn id(self, image: &LocalImage, cancel: &CancelToken) -> Result<String, RegistryError> {
        let outcome = self.run_for(image, cancel, |place| {
            let named = format!("containers-storage:{place}");
            let words: &[&str] = match self {
                Self::Skopeo => &["inspect", "--config", "--raw", &named],
                Self::Podman => &["image", "inspect", "--format", "{{.Id}}", place],
                Self::Buildah => &["inspect", "--type", "image", "--format", "{{.FromImageID}}", place],
            };
            words.iter().map(|word| (*word).to_owned()).collect()
        })?;
        let mut hasher = Hasher::new();
        hasher.update(&outcome.stdout);
        Ok(lamina_image::Digest::hex(&hasher.finish()))
    }

    /// The image as an archive: Docker's, because layers are not compressed on this way, or else one of OCI's.
    pub(super) fn save(
        self,
        image: &LocalImage,
        directory: &Path,
        cancel: &CancelToken,
    ) -> Result<File, RegistryError> {
        match self.save_as("docker-archive", image, directory, cancel) {
            Err(RegistryError::Unreadable { reason, .. }) if reason.contains(NOT_FOR_DOCKER) => {
                self.save_as("oci-archive", image, directory, cancel)
            }
            saved => saved,
        }
    }

    fn save_as(
        self,
        format: &str,
        image: &LocalImage,
        directory: &Path,
        cancel: &CancelToken,
    ) -> Result<File, RegistryError> {
        let scratch = tempfile::tempdir_in(directory).map_err(FetchError::Io)?;
        let path = scratch.path().join("image.tar");
        let target = format!("{format}:{}", path.display());
        let plain = path.display().to_string();
        self.run_for(image, cancel, |place| {
            let named = format!("containers-storage:{place}");
            let words: &[&str] = match self {
                // The host's policy is for what comes from elsewhere.
                Self::Skopeo => &["copy", "--quiet", "--insecure-policy", &named, &target],
                Self::Podman => &["image", "save", "--quiet", "--format", format, "--output", &plain, place],
                Self::Buildah => &["push", "--quiet", place, &target],
            };
            words.iter().map(|word| (*word).to_owned()).collect()
        })?;
        Ok(fs_err::File::open(&path).map_err(FetchError::Io)?.into_file())
    }

    /// Runs the program for the first of the image's full names that the storage has.
    fn run_for(
        self,
        image: &LocalImage,
        cancel: &CancelToken,
        arguments: impl Fn(&str) -> Vec<String>,
    ) -> Result<Outcome, RegistryError> {
        let mut outcome = Err(RegistryError::NotStored { image: image.to_string() });
        for place in self.places(&image.place) {
            outcome = self.run(image, &arguments(&place), cancel);
            if !matches!(outcome, Err(RegistryError::NotStored { .. })) {
                break;
            }
        }
        outcome
    }

    /// What a name may mean, the likeliest first. What was built here is at `localhost`, where podman and buildah look
    /// by themselves for names without a registry, and skopeo does not.
    fn places(self, place: &str) -> Vec<String> {
        let end = place.rfind(']').filter(|_| place.starts_with('[')).map_or(0, |end| end + 1);
        let (storage, name) = place.split_at(end);
        let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
        let is_full = name.split_once('/').is_some_and(|(first, _)| is_host(first)) || name.starts_with('@');
        let local = (self == Self::Skopeo && !is_full).then(|| format!("{storage}localhost/{name}"));
        local.into_iter().chain([place.to_owned()]).collect()
    }

    fn run(self, image: &LocalImage, arguments: &[String], cancel: &CancelToken) -> Result<Outcome, RegistryError> {
        let failed = |reason: String| RegistryError::Unreadable { image: image.to_string(), reason };
        let mut command = Command::new(self.name());
        command.args(arguments);
        let outcome =
            run_bounded_with(&mut command, Stdio::null(), &BOUNDS, |killer| cancel.on_cancel(move || killer.kill()));
        cancel.check().map_err(FetchError::from)?;
        let outcome = outcome.map_err(|error| failed(format!("`{}`: {error}", self.name())))?;
        if let Some(what) = outcome.exceeded {
            return Err(failed(format!("`{}` was ended because it wanted {what}", self.name())));
        }
        if !outcome.status.success() {
            let errors = String::from_utf8_lossy(&outcome.stderr);
            let said = message(errors.trim().lines().last().unwrap_or("it said nothing"));
            if NOT_STORED.iter().any(|text| said.contains(text)) {
                return Err(RegistryError::NotStored { image: image.to_string() });
            }
            return Err(failed(format!("`{}` says: {said}", self.name())));
        }
        Ok(outcome)
    }
}

/// What a line says, which may be a line of a log with its time and level.
fn message(line: &str) -> String {
    let quoted = line.split_once(" msg=").and_then(|(_, quoted)| serde_json::from_str(quoted).ok());
    quoted.unwrap_or_else(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_registry_are_those_of_this_machine_first() {
        let skopeo = |place| Program::Skopeo.places(place);
        assert_eq!(skopeo("app:v1"), ["localhost/app:v1", "app:v1"]);
        assert_eq!(skopeo("team/app"), ["localhost/team/app", "team/app"]);
        assert_eq!(skopeo("[vfs@/a+/b]app"), ["[vfs@/a+/b]localhost/app", "[vfs@/a+/b]app"]);
        for full in ["localhost/app", "quay.io/a/b:c", "host:5000/a", "@0123", "[vfs@/a+/b]localhost/app"] {
            assert_eq!(skopeo(full), [full]);
        }
        assert_eq!(Program::Podman.places("app:v1"), ["app:v1"]);
    }

    #[test]
    fn lines_of_logs_are_read() {
        let line = r#"time="2026-11-30T12:47:41Z" level=fatal msg="Error parsing \"x\": no""#;
        assert_eq!(message(line), r#"Error parsing "x": no"#);
        assert_eq!(message("Error: nix: image not known"), "Error: nix: image not known");
    }
}
