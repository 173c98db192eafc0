//! `modal image export`: an image as a file or a directory.

use std::io::{self, IsTerminal};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use lamina_engine::{Compression, Engine, EngineError, Format, How, Options, Parcel, RegistryError, Target, Times};
use lamina_events::CancelToken;
use lamina_ground::causes;

use super::ask::say;
use super::new_file::NewFile;
use super::{USAGE, image_chosen};
use crate::arguments::{ExportFormat, ImageExport, PackedAs, Packing};
use crate::failure::Failure;
use crate::interruption::{self, Interruption};

impl Packing {
    /// What it means to the engine.
    pub(crate) fn how(&self) -> How {
        let compression = match self.compression.unwrap_or_default() {
            PackedAs::Zstd => Compression::Zstd,
            PackedAs::Gzip => Compression::Gzip,
            PackedAs::None => Compression::None,
        };
        How {
            compression,
            keeps_compression: self.compression.is_none(),
            times: if self.keep_times { Times::Kept } else { Times::Constant },
        }
    }
}

/// Writes it.
pub(crate) fn export(wanted: &ImageExport) -> Result<u8, Failure> {
    let is_standard_output = wanted.output == Path::new("-");
    if is_standard_output && matches!(wanted.format, ExportFormat::OciDir | ExportFormat::Dockerfile) {
        Failure::new("a directory cannot be written to standard output")
            .hint("use `--format oci-archive`, or give a directory with `--output`")
            .print();
        return Ok(USAGE);
    }
    if is_standard_output && io::stdout().is_terminal() {
        Failure::new("an image is not written to a terminal").hint("give a file with `--output`, or a pipe").print();
        return Ok(USAGE);
    }
    let built = match image_chosen::build(&wanted.chosen, &wanted.environment)? {
        Ok(built) => built,
        Err(code) => return Ok(code),
    };
    let cancel = CancelToken::new();
    let interruption = Interruption::listen(interruption::catch()?, cancel.clone(), None, || ());
    let engine = Engine::open(&Options { cancel, ..Options::default() })?;
    let (parcel, tag) = image_chosen::find(&engine, &wanted.chosen, &wanted.environment, built, wanted.packing.how())?;
    let work = Work { engine: &engine, parcel: &parcel, tag: tag.as_deref() };
    let written = match (wanted.format, is_standard_output) {
        (ExportFormat::OciDir | ExportFormat::Dockerfile, _) => work.to_directory(wanted.format, &wanted.output),
        (format, true) => work.to_standard_output(format),
        (format, false) => work.to_file(format, &wanted.output, wanted.force),
    };
    if let Some(code) = interruption.exit_code() {
        return Ok(code);
    }
    written?;
    if !is_standard_output {
        say(&format!("Wrote `{}` to `{}`.\n", wanted.chosen.reference, wanted.output.display()));
    }
    Ok(0)
}

struct Work<'a> {
    engine: &'a Engine,
    parcel: &'a Parcel,
    tag: Option<&'a str>,
}

impl Work<'_> {
    fn write(&self, target: Target<'_>) -> Result<(), EngineError> {
        let progress = image_chosen::count_layers(self.parcel.image.layers.len());
        image_chosen::say_made_anew(self.engine.export(self.parcel, target, self.tag, &progress)?);
        Ok(())
    }

    fn to_standard_output(&self, format: ExportFormat) -> Result<(), Failure> {
        use std::os::fd::AsFd;
        Ok(self.write(Target::File(io::stdout().as_fd().try_clone_to_owned()?, form(format)))?)
    }

    /// The file has its name when it is whole.
    fn to_file(&self, format: ExportFormat, path: &Path, force: bool) -> Result<(), Failure> {
        check_place(path)?;
        if path.is_dir() {
            let failure = Failure::new(format!("`{}` is a directory", path.display()));
            return Err(failure.hint("give a file in it, or write a directory with `--format oci-dir`"));
        }
        if !force && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let directory = parent(path);
        let new = NewFile::open(&directory).map_err(|error| unwritable(path, &error))?;
        let target = Target::File(new.descriptor().try_clone_to_owned()?, form(format));
        self.write(target).map_err(|error| unwritten(path, error))?;
        new.place(&directory, path, force).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => unwritable(path, &error),
        })
    }

    /// The directory has its name when it is whole.
    fn to_directory(&self, format: ExportFormat, path: &Path) -> Result<(), Failure> {
        check_place(path)?;
        let is_taken = |path: &Path| path.symlink_metadata().is_ok() && fs_err::remove_dir(path).is_err();
        if is_taken(path) {
            let failure = Failure::new(format!("there is a local file or directory `{}` already", path.display()));
            return Err(failure.hint("give an empty directory, or one that is not there yet"));
        }
        let new = tempfile::Builder::new().prefix(".modal-").tempdir_in(parent(path));
        // The error has the name of what nobody asked for.
        let new = new.map_err(|error| unwritable(path, &error.kind().into()))?;
        let inside = new.path().join("layout");
        let target = match format {
            ExportFormat::Dockerfile => Target::Dockerfile(&inside),
            _ => Target::Directory(&inside),
        };
        self.write(target).map_err(|error| unwritten(path, error))?;
        Ok(fs_err::rename(inside, path)?)
    }
}

fn form(format: ExportFormat) -> Format {
    match format {
        ExportFormat::DockerArchive => Format::DockerArchive,
        ExportFormat::RootfsTar => Format::RootfsTar,
        ExportFormat::OciArchive | ExportFormat::OciDir | ExportFormat::Dockerfile => Format::OciArchive,
    }
}

fn exists(path: &Path) -> Failure {
    Failure::new(format!("there is a local file `{}` already", path.display())).hint("replace it with `--force`")
}

/// Refuses a path in what is no directory, and one of what nothing can take the place of, such as a device.
fn check_place(path: &Path) -> Result<(), Failure> {
    if let Some(kind) = path.metadata().ok().and_then(|metadata| special(metadata.file_type())) {
        let failure = Failure::new(format!("`{}` is {kind}, which no file is to replace", path.display()));
        return Err(failure
            .hint("give another name, or write archives to standard output with `--output -`, and from there to it"));
    }
    let directory = parent(path);
    let reason = match directory.metadata() {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => format!("`{}` is no directory", directory.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            format!("there is no directory `{}`", directory.display())
        }
        Err(error) => error.to_string(),
    };
    Err(Failure::new(format!("`{}` cannot be written: {reason}", path.display())))
}

/// What something is that is neither a file nor a directory.
fn special(kind: std::fs::FileType) -> Option<&'static str> {
    [
        (kind.is_fifo(), "a named pipe"),
        (kind.is_socket(), "a socket"),
        (kind.is_char_device() || kind.is_block_device(), "a device"),
    ]
    .into_iter()
    .find_map(|(is_it, name)| is_it.then_some(name))
}

/// What kept an image from being written: where that is its output, which has no name yet, the name that was given is said.
fn unwritten(path: &Path, error: EngineError) -> Failure {
    match error {
        EngineError::Registry(RegistryError::Output(error)) => unwritable(path, &error),
        error => error.into(),
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("`{}` cannot be written: {}", path.display(), causes(error)))
}

/// The directory that a path is in.
fn parent(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_no_file_can_take_the_place_of_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let said = |path: &Path| {
            check_place(path)
                .err()
                .map(|failure| format!("{failure:?}").replace(directory.path().to_str().unwrap(), "D"))
        };
        let starts =
            |path: &Path, text: &str| assert!(said(path).is_some_and(|said| said.contains(text)), "{:?}", said(path));
        starts(&pipe, "`D/pipe` is a named pipe,");
        starts(Path::new("/dev/null"), "`/dev/null` is a device,");
        starts(&pipe.join("x.tar"), "`D/pipe/x.tar` cannot be written: `D/pipe` is no directory");
        starts(&directory.path().join("a/x.tar"), "`D/a/x.tar` cannot be written: there is no directory `D/a`");
        assert_eq!(said(&directory.path().join("x.tar")), None);
        assert_eq!(said(directory.path()), None);
    }

    #[test]
    fn what_cannot_be_written_is_said_with_the_reason() {
        // The error of a file in a directory has the reason behind it.
        let error = fs_err::File::create("/nowhere/blobs").unwrap_err();
        let failure = format!("{:?}", unwritten(Path::new("out"), RegistryError::Output(error).into()));
        assert!(
            failure.contains("`out` cannot be written: ") && failure.contains("No such file or directory"),
            "{failure}"
        );
    }
}
