//! `modal image export`: an image as a file or a directory.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use lamina_engine::{Compression, Engine, Format, How, Options, Parcel, Target, Times};
use lamina_events::CancelToken;

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
    fn write(&self, target: Target<'_>) -> Result<(), Failure> {
        let progress = image_chosen::count_layers(self.parcel.image.layers.len());
        image_chosen::say_made_anew(self.engine.export(self.parcel, target, self.tag, &progress)?);
        Ok(())
    }

    fn to_standard_output(&self, format: ExportFormat) -> Result<(), Failure> {
        use std::os::fd::AsFd;
        self.write(Target::File(io::stdout().as_fd().try_clone_to_owned()?, form(format)))
    }

    /// The file has its name when it is whole.
    fn to_file(&self, format: ExportFormat, path: &Path, force: bool) -> Result<(), Failure> {
        if !force && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let directory = parent(path);
        let new = NewFile::open(&directory)?;
        self.write(Target::File(new.descriptor().try_clone_to_owned()?, form(format)))?;
        new.place(&directory, path, force).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => Failure::from(error),
        })
    }

    /// The directory has its name when it is whole.
    fn to_directory(&self, format: ExportFormat, path: &Path) -> Result<(), Failure> {
        let is_taken = |path: &Path| path.symlink_metadata().is_ok() && fs_err::remove_dir(path).is_err();
        if is_taken(path) {
            let failure = Failure::new(format!("there is a local file or directory `{}` already", path.display()));
            return Err(failure.hint("give an empty directory, or one that is not there yet"));
        }
        let new = tempfile::Builder::new().prefix(".modal-").tempdir_in(parent(path))?;
        let inside = new.path().join("layout");
        self.write(match format {
            ExportFormat::Dockerfile => Target::Dockerfile(&inside),
            _ => Target::Directory(&inside),
        })?;
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

/// The directory that a path is in.
fn parent(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}
