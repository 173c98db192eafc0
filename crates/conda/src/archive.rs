//! Reading the two forms of conda packages: `.conda`, a zip archive of two compressed tar archives, and `.tar.bz2`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path};

use zip::{CompressionMethod, ZipArchive};

/// Most entries of one package.
const ENTRY_LIMIT: usize = 1_000_000;
/// Most bytes that a package may unpack to, beside [`EXPANSION_LIMIT`] times its own size.
const SMALL_PACKAGE_ALLOWANCE: u64 = 1 << 30;
/// No real package expands this much as a whole.
const EXPANSION_LIMIT: u64 = 200;
/// Largest file of the metadata.
const METADATA_LIMIT: u64 = 256 << 20;
/// The directory of the metadata.
const METADATA: &str = "info/";

/// A package as a file.
pub(crate) struct Archive {
    file: File,
    length: u64,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Conda,
    TarBz2,
}

/// What an entry of an archive is.
pub(crate) enum Content<'a> {
    /// A file: its length, its permission bits, and its bytes.
    File(u64, u32, &'a mut dyn Read),
    /// A symbolic link to this.
    Link(String),
    /// The same as an entry before it.
    Same(String),
}

/// Why a package cannot be read.
pub(crate) type Problem = String;

impl Archive {
    /// Opens a package with this name.
    pub(crate) fn open(file: File, name: &str) -> Result<Self, Problem> {
        let form = if name.strip_suffix(".conda").is_some() {
            Form::Conda
        } else if name.strip_suffix(".tar.bz2").is_some() {
            Form::TarBz2
        } else {
            return Err("its name ends neither in `.conda` nor in `.tar.bz2`".to_owned());
        };
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        Ok(Self { file, length, form })
    }

    /// The files of the metadata, by path below `info`.
    pub(crate) fn metadata(&mut self) -> Result<HashMap<String, Vec<u8>>, Problem> {
        let mut files = HashMap::new();
        self.each("info-", &mut |path, content| {
            if let (Some(path), Content::File(size, _, reader)) = (path.strip_prefix(METADATA), content)
                && matches!(path, "paths.json" | "index.json" | "link.json" | "files" | "has_prefix")
            {
                if size > METADATA_LIMIT {
                    return Err(format!("`info/{path}` is too large"));
                }
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
                files.insert(path.to_owned(), bytes);
            }
            Ok(())
        })?;
        Ok(files)
    }

    /// Hands over what is to be installed.
    pub(crate) fn contents(
        &mut self,
        take: &mut dyn FnMut(&str, Content<'_>) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.each("pkg-", &mut |path, content| if path.starts_with(METADATA) { Ok(()) } else { take(path, content) })
    }

    /// Hands over all that it is packed with, the metadata as well.
    pub(crate) fn everything(
        &mut self,
        take: &mut dyn FnMut(&str, Content<'_>) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.each("pkg-", take)?;
        if self.form == Form::Conda { self.each("info-", take) } else { Ok(()) }
    }

    /// Hands over all entries of the part of the package with this name, or of all of it.
    fn each(
        &mut self,
        part: &str,
        take: &mut dyn FnMut(&str, Content<'_>) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let limit = self.length.saturating_mul(EXPANSION_LIMIT).saturating_add(SMALL_PACKAGE_ALLOWANCE);
        self.file.seek(SeekFrom::Start(0)).map_err(|error| error.to_string())?;
        let file = io::BufReader::with_capacity(1 << 16, &mut self.file);
        match self.form {
            Form::TarBz2 => each_of_tar(&mut bzip2::bufread::MultiBzDecoder::new(file), limit, take),
            Form::Conda => {
                let unreadable = |error: zip::result::ZipError| format!("it is no readable zip archive: {error}");
                let mut zip = ZipArchive::new(file).map_err(unreadable)?;
                let is_part = |name: &&str| name.starts_with(part) && name.ends_with(".tar.zst");
                let name = zip.file_names().find(is_part).map(str::to_owned);
                let name = name.ok_or_else(|| format!("it has no `{part}….tar.zst`"))?;
                let inner = zip.by_name(&name).map_err(unreadable)?;
                if inner.compression() != CompressionMethod::Stored {
                    return Err(format!("`{name}` is compressed twice"));
                }
                each_of_tar(&mut zstd::Decoder::new(inner).map_err(|error| error.to_string())?, limit, take)
            }
        }
    }
}

fn each_of_tar(
    reader: &mut dyn Read,
    limit: u64,
    take: &mut dyn FnMut(&str, Content<'_>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let text = |error: io::Error| error.to_string();
    let mut limited = Limited { reader, left: limit };
    let mut archive = tar::Archive::new(&mut limited);
    for (count, entry) in archive.entries().map_err(text)?.enumerate() {
        if count == ENTRY_LIMIT {
            return Err(format!("it has more than {ENTRY_LIMIT} entries"));
        }
        let mut entry = entry.map_err(text)?;
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            continue;
        }
        let path = checked(&entry.path_bytes())?;
        let target = |entry: &tar::Entry<'_, _>| -> Result<String, Problem> {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            String::from_utf8(target).map_err(|_| format!("the target of `{path}` is no UTF-8"))
        };
        if kind.is_symlink() {
            let target = target(&entry)?;
            if target.is_empty() || target.contains('\0') {
                return Err(format!("the link `{path}` leads nowhere"));
            }
            take(&path, Content::Link(target))?;
        } else if kind.is_hard_link() {
            let target = checked(target(&entry)?.as_bytes())?;
            take(&path, Content::Same(target))?;
        } else if kind.is_file() || kind.is_contiguous() {
            let mode = entry.header().mode().map_err(text)?;
            let size = entry.size();
            take(&path, Content::File(size, mode, &mut entry))?;
        } else {
            return Err(format!("`{path}` is neither a file nor a link"));
        }
    }
    Ok(())
}

/// A path below the prefix: relative, and without `..`.
fn checked(path: &[u8]) -> Result<String, Problem> {
    let shown = || String::from_utf8_lossy(path).escape_debug().to_string();
    let text = std::str::from_utf8(path).map_err(|_| format!("the path `{}` is no UTF-8", shown()))?;
    let text = text.strip_prefix("./").unwrap_or(text);
    check_path(text).ok_or_else(|| format!("the path `{}` leads out of the package", shown()))?;
    Ok(text.to_owned())
}

/// Whether a path stays below the directory that it is joined to, and is written in one way.
pub(crate) fn check_path(path: &str) -> Option<()> {
    let is_plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let is_clean = path.split('/').all(|part| !part.is_empty() && part != "." && part.len() <= 255);
    (is_plain && is_clean && !path.contains('\0')).then_some(())
}

/// A reader that fails after so many bytes.
struct Limited<'a> {
    reader: &'a mut dyn Read,
    left: u64,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "it unpacks to far more than a package of its size holds")
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_package() {
        for path in ["bin/x", "./bin/x", "lib/a b", "..x"] {
            assert!(checked(path.as_bytes()).is_ok(), "{path}");
        }
        for path in ["/bin/x", "../x", "a/../b", "a//b", "", ".", "a/./b", "a\0"] {
            let error = checked(path.as_bytes()).unwrap_err();
            assert!(error.contains("leads out of the package"), "{path}");
        }
    }

    #[test]
    fn what_expands_too_much_is_ended() {
        let mut zeros = io::repeat(0).take(1 << 20);
        let mut limited = Limited { reader: &mut zeros, left: 1000 };
        let error = io::copy(&mut limited, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("far more"), "{error}");
    }
}
