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
        let place = &*image.place;
        let named = format!("containers-storage:{place}");
        let arguments: &[&str] = match self {
            Self::Skopeo => &["inspect", "--config", "--raw", &named],
            Self::Podman => &["image", "inspect", "--format", "{{.Id}}", place],
            Self::Buildah => &["inspect", "--type", "image", "--format", "{{.FromImageID}}", place],
        };
        let outcome = self.run(image, arguments, cancel)?;
        let mut hasher = Hasher::new();
        hasher.update(&outcome.stdout);
        Ok(lamina_image::Digest::hex(&hasher.finish()))
    }

    /// The image as Docker's archive: layers are not compressed on this way.
    pub(super) fn save(
        self,
        image: &LocalImage,
        directory: &Path,
        cancel: &CancelToken,
    ) -> Result<File, RegistryError> {
        let scratch = tempfile::tempdir_in(directory).map_err(FetchError::Io)?;
        let path = scratch.path().join("image.tar");
        let target = format!("docker-archive:{}", path.display());
        let (place, plain) = (&*image.place, path.display().to_string());
        let named = format!("containers-storage:{place}");
        let arguments: &[&str] = match self {
            // The host's policy is for what comes from elsewhere.
            Self::Skopeo => &["copy", "--quiet", "--insecure-policy", &named, &target],
            Self::Podman => &["image", "save", "--quiet", "--format", "docker-archive", "--output", &plain, place],
            Self::Buildah => &["push", "--quiet", place, &target],
        };
        self.run(image, arguments, cancel)?;
        Ok(fs_err::File::open(&path).map_err(FetchError::Io)?.into_file())
    }

    fn run(self, image: &LocalImage, arguments: &[&str], cancel: &CancelToken) -> Result<Outcome, RegistryError> {
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
            let said = errors.trim().lines().last().unwrap_or("it said nothing").to_owned();
            return Err(failed(format!("`{}` says: {said}", self.name())));
        }
        Ok(outcome)
    }
}
