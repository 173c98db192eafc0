//! Images that this machine has outside of the store: OCI layouts, archives of images, and what Docker and podman keep. Names are
//! written as for skopeo and podman, with the transport in front.

mod archive;
mod daemon;
mod dial;
mod docker;
mod files;
mod layout;
mod plain;
mod storage;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use lamina_events::CancelToken;
use lamina_fetch::{FetchError, Progress};
use lamina_ground::EnvVars;
use lamina_image::Hasher;
use sha2::{Digest as _, Sha256};

use self::files::Files;
use crate::arrival::Arrival;
use crate::client::{Image, Part};
use crate::reference::ReferenceError;
use crate::{Reference, RegistryError};

/// Bytes that are copied at once.
const BUFFER_LENGTH: usize = 1 << 20;

/// An image that this machine has outside of the store. Its text is the name with its transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    transport: Transport,
    /// The file or directory, or what the image is called where it is kept.
    place: String,
    /// Which of several images; none where there is one only.
    which: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Layout,
    LayoutArchive,
    DockerArchive,
    /// An archive of whatever kind.
    AnyArchive,
    Daemon,
    Storage,
}

impl Transport {
    const ALL: [Self; 6] =
        [Self::Layout, Self::LayoutArchive, Self::DockerArchive, Self::AnyArchive, Self::Daemon, Self::Storage];

    fn name(self) -> &'static str {
        match self {
            Self::Layout => "oci",
            Self::LayoutArchive => "oci-archive",
            Self::DockerArchive => "docker-archive",
            Self::AnyArchive => "any-archive",
            Self::Daemon => "docker-daemon",
            Self::Storage => "containers-storage",
        }
    }

    fn is_path(self) -> bool {
        !matches!(self, Self::Daemon | Self::Storage)
    }
}

impl fmt::Display for LocalImage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.transport.name(), self.place)?;
        self.which.iter().try_for_each(|which| write!(formatter, ":{which}"))
    }
}

impl LocalImage {
    /// The image that a text names by a transport; `None` if it begins with none, and names an image of a registry.
    ///
    /// # Errors
    /// When nothing is behind the transport, or something that is no name of an image there, or a path is not absolute.
    #[must_use]
    pub fn parse(text: &str) -> Option<Result<Self, ReferenceError>> {
        Self::parse_below(text, None)
    }

    /// The same, with paths that may be relative to a directory.
    ///
    /// # Errors
    /// As [`Self::parse`].
    #[must_use]
    pub fn parse_below(text: &str, directory: Option<&Path>) -> Option<Result<Self, ReferenceError>> {
        let (name, rest) = text.split_once(':')?;
        let transport = Transport::ALL.into_iter().find(|transport| transport.name() == name)?;
        Some(Self::of_transport(transport, rest, directory).map_err(|reason| ReferenceError::new(text, reason)))
    }

    fn of_transport(transport: Transport, rest: &str, directory: Option<&Path>) -> Result<Self, String> {
        // As for skopeo, a path ends with the first colon.
        let (place, which) = match rest.split_once(':') {
            Some((place, which)) if transport.is_path() && transport != Transport::AnyArchive => (place, Some(which)),
            _ => (rest, None),
        };
        if place.is_empty() || which.is_some_and(str::is_empty) {
            return Err(format!("nothing is behind `{}:`", transport.name()));
        }
        let place = match directory {
            Some(directory) if transport.is_path() => directory.join(place).display().to_string(),
            _ => place.to_owned(),
        };
        if transport.is_path() && !place.starts_with('/') {
            return Err(format!("`{place}` is no absolute path"));
        }
        if let (Transport::DockerArchive, Some(which)) = (transport, which)
            && !which.starts_with('@')
        {
            which.parse::<Reference>().map_err(|error| error.to_string())?;
        }
        // It becomes a part of an address and an argument of a program.
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-/:@".contains(letter);
        let is_name = place.starts_with(|letter: char| letter.is_ascii_alphanumeric()) && place.chars().all(is_plain);
        let is_elsewhere = transport == Transport::Storage && place.starts_with('[');
        if !transport.is_path() && !is_name && !is_elsewhere {
            return Err(format!("`{place}` is no name of an image"));
        }
        Ok(Self { transport, place, which: which.map(str::to_owned) })
    }

    fn path(&self) -> &Path {
        Path::new(&self.place)
    }

    /// What tells apart all images that have been called so, without unpacking one.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn fingerprint(&self, cancel: &CancelToken) -> Result<String, RegistryError> {
        match self.transport {
            Transport::Daemon => daemon::Daemon::of_host()?.id(self, cancel),
            Transport::Storage => storage::Program::of_host(self)?.id(self, cancel),
            _ => match Files::open(self.path()).map_err(|error| self.unreadable(error))? {
                Some(files) => self.find(&files, cancel).map(|found| found.fingerprint()),
                // What is inside is known only when all of it has been read.
                None => self.digest_of_file(cancel),
            },
        }
    }

    fn digest_of_file(&self, cancel: &CancelToken) -> Result<String, RegistryError> {
        let mut file = fs_err::File::open(self.path()).map_err(|error| self.unreadable(error))?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; BUFFER_LENGTH];
        loop {
            cancel.check().map_err(FetchError::from)?;
            match file.read(&mut buffer).map_err(|error| self.unreadable(error))? {
                0 => return Ok(lamina_image::Digest::hex(&hasher.finish())),
                count => hasher.update(&buffer[..count]),
            };
        }
    }

    /// Opens the image. What has to be unpacked or fetched before goes into a file without a name in `directory`, whose disk
    /// keeps `reserve` bytes.
    ///
    /// # Errors
    /// When there is no such image, or none for this machine.
    pub fn open(&self, directory: &Path, reserve: u64, cancel: &CancelToken) -> Result<OpenImage, RegistryError> {
        fs_err::create_dir_all(directory).map_err(FetchError::Io)?;
        let spool = Spool { image: self, directory, reserve, cancel };
        let files = match self.transport {
            Transport::Daemon => {
                let (daemon, mut file) = (daemon::Daemon::of_host()?, spool.file()?);
                let id = daemon.id(self, cancel)?;
                daemon.save(self, &id, &mut |bytes| spool.write(&mut file, bytes), cancel)?;
                Files::of_archive(file)
            }
            Transport::Storage => Files::of_archive(storage::Program::of_host(self)?.save(self, directory, cancel)?),
            _ => match Files::open(self.path()).map_err(|error| self.unreadable(error))? {
                Some(files) => Ok(files),
                None => Files::of_archive(spool.decompressed(self.path())?),
            },
        };
        let files = files.map_err(|error| self.unreadable(error))?;
        let Found { image, names, .. } = self.find(&files, cancel)?;
        Ok(OpenImage { text: self.shown(), files, image, names, cancel: cancel.clone() })
    }

    fn find(&self, files: &Files, cancel: &CancelToken) -> Result<Found, RegistryError> {
        let found = match self.transport {
            Transport::Layout | Transport::LayoutArchive => layout::find(self, files),
            Transport::AnyArchive | Transport::Storage if files.has(layout::INDEX) => layout::find(self, files),
            Transport::DockerArchive | Transport::Daemon | Transport::Storage => docker::find(self, files, cancel),
            Transport::AnyArchive if files.has(docker::MANIFEST) => docker::find(self, files, cancel),
            Transport::AnyArchive => plain::find(self, files, cancel),
        };
        // What fails because it was cancelled did not fail.
        cancel.check().map_err(FetchError::from)?;
        found
    }

    /// What it is called in messages.
    fn shown(&self) -> String {
        match self.transport {
            // How `modal image import -` hands on what it has read.
            Transport::AnyArchive if self.path().starts_with("/proc") => "standard input".to_owned(),
            Transport::AnyArchive => self.place.clone(),
            _ => self.to_string(),
        }
    }

    fn unreadable(&self, reason: impl fmt::Display) -> RegistryError {
        RegistryError::Unreadable { image: self.shown(), reason: reason.to_string() }
    }

    fn malformed(&self, reason: impl fmt::Display) -> RegistryError {
        RegistryError::Malformed(format!("`{}`: {reason}", self.shown()))
    }

    /// The same error, with the name of the image.
    fn named(&self, error: RegistryError) -> RegistryError {
        match error {
            RegistryError::Malformed(reason) => self.malformed(reason),
            other => other,
        }
    }

    /// That a choice among several images is missing, or leads to none of them.
    fn no_choice(&self, choices: Vec<String>) -> RegistryError {
        RegistryError::NoChoice { image: self.shown(), is_named: self.which.is_some(), choices }
    }
}

/// Hashes what is left of a file.
fn hash(reader: &mut dyn Read, hasher: &mut Sha256, cancel: &CancelToken) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LENGTH];
    loop {
        cancel.check().map_err(io::Error::other)?;
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// What there is of an image.
struct Found {
    image: Image,
    /// Which files its layers are.
    names: Vec<String>,
    /// The digest of its configuration.
    config: String,
}

impl Found {
    fn fingerprint(&self) -> String {
        let layers = self.image.layers.iter().map(|part| part.diff_id.as_str());
        let mut hasher = Hasher::new();
        for text in std::iter::once(self.config.as_str()).chain(layers) {
            hasher.update(text.as_bytes());
        }
        lamina_image::Digest::hex(&hasher.finish())
    }
}

/// An image of this machine that was found.
pub struct OpenImage {
    text: String,
    files: Files,
    image: Image,
    names: Vec<String>,
    cancel: CancelToken,
}

impl OpenImage {
    /// The image.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// As `Registry::fetch`, for layers of this image.
    ///
    /// # Errors
    /// When a layer cannot be read, or is not what its digest says, or `take` fails.
    pub fn fetch<E: From<RegistryError>>(
        &self,
        parts: &[&Part],
        directory: &Path,
        progress: Progress<'_>,
        mut take: impl FnMut(usize, Arrival<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut told = 0;
        for (index, part) in parts.iter().enumerate() {
            let target = directory.join(part.sha256());
            if !target.exists() {
                self.copy(part, directory, &target, &mut |bytes| {
                    told += bytes;
                    progress(told);
                })?;
            }
            take(index, Arrival::HERE)?;
        }
        Ok(())
    }

    /// Copies a layer, which is there only if it is what its digest says.
    fn copy(
        &self,
        part: &Part,
        directory: &Path,
        target: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), RegistryError> {
        let unreadable = |reason: String| RegistryError::Unreadable { image: self.text.clone(), reason };
        let position = self.image.layers.iter().position(|other| other == part);
        let name = position.and_then(|index| self.names.get(index)).map_or("", String::as_str);
        let opened = self.files.get(name).map_err(|error| unreadable(error.to_string()))?;
        let (_, mut reader) = opened.ok_or_else(|| unreadable(format!("its layer `{name}` is missing")))?;
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(FetchError::Io)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BUFFER_LENGTH];
        loop {
            self.cancel.check().map_err(FetchError::from)?;
            let count = reader.read(&mut buffer).map_err(|error| unreadable(format!("its layer `{name}`: {error}")))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(FetchError::Io)?;
            progress(count as u64);
        }
        let found = HEXLOWER.encode(&hasher.finalize());
        if found != part.sha256() {
            return Err(RegistryError::Malformed(format!(
                "`{}`: its layer `{name}` has the SHA-256 `{found}`, but is said to have `{}`",
                self.text,
                part.sha256()
            )));
        }
        file.persist(target).map_err(|error| FetchError::Io(error.error))?;
        Ok(())
    }
}

/// Where an archive goes that cannot be read where it is.
struct Spool<'a> {
    image: &'a LocalImage,
    directory: &'a Path,
    reserve: u64,
    cancel: &'a CancelToken,
}

impl Spool<'_> {
    fn file(&self) -> Result<File, RegistryError> {
        Ok(tempfile::tempfile_in(self.directory).map_err(FetchError::Io)?)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> Result<(), RegistryError> {
        self.cancel.check().map_err(FetchError::from)?;
        let disk = rustix::fs::fstatvfs(&*file).map_err(std::io::Error::from).map_err(FetchError::Io)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < self.reserve {
            let message = format!(
                "`{}` takes more than there is: the disk of the store has less than `{}` MiB left, which {} keeps free",
                self.image.shown(),
                self.reserve >> 20,
                EnvVars::MODAL_STORE_RESERVE
            );
            return Err(FetchError::Io(io::Error::new(io::ErrorKind::StorageFull, message)).into());
        }
        Ok(file.write_all(bytes).map_err(FetchError::Io)?)
    }

    fn decompressed(&self, path: &Path) -> Result<File, RegistryError> {
        let mut reader = archive::decompressed(path).map_err(|error| self.image.unreadable(error))?;
        let mut file = self.file()?;
        let mut buffer = vec![0; BUFFER_LENGTH];
        loop {
            match reader.read(&mut buffer).map_err(|error| self.image.unreadable(error))? {
                0 => return Ok(file),
                count => self.write(&mut file, &buffer[..count])?,
            }
        }
    }
}

/// A path in a file of an image, below the directory that it is relative to; `None` if it leads out of it.
fn inside(path: &Path) -> Option<PathBuf> {
    use std::path::Component;
    let mut inside = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => inside.push(part),
            Component::CurDir => {}
            Component::ParentDir if inside.pop() => {}
            _ => return None,
        }
    }
    Some(inside)
}

#[cfg(test)]
mod tests;
