//! Caches in directories, which any number of machines may have mounted.
//!
//! ```text
//! <directory>/v1/entries/<2 digits>/<key>     manifests
//! <directory>/v1/blobs/<2 digits>/<SHA-256>   records and packs
//! ```
//!
//! Every file gets its name when it is complete, by rename, and never changes; so there are no locks. Files and directories are
//! open to those to whom the directory itself is, whatever the writer's mask says.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lamina_image::LayerKey;
use rustix::fs::{Access, AtFlags, CWD, OFlags, accessat};
use rustix::io::Errno;

use crate::CacheError;
use crate::entry::{Blob, MANIFEST_LIMIT, VERSION};
use crate::place::Place;
use crate::pulse::Pulse;

/// The beginning of names of files that are not complete.
const UNFINISHED: &str = ".new-";
const BUFFER_LENGTH: usize = 256 << 10;
/// The mode of a directory that is made, as far as the writer's mask lets it be.
const NEW_MODE: u32 = 0o777;

/// A directory.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    is_read_only: bool,
}

impl Directory {
    pub(crate) fn new(root: &Path, is_read_only: bool) -> Self {
        Self { root: root.to_owned(), is_read_only }
    }

    fn place(&self, kind: &str, name: &str) -> PathBuf {
        let digits = name.get(..2).unwrap_or_default();
        self.root.join(format!("v{VERSION}")).join(kind).join(digits).join(name)
    }

    fn entry_path(&self, key: &LayerKey) -> PathBuf {
        self.place("entries", &key.to_string())
    }

    fn blob_path(&self, blob: &Blob) -> PathBuf {
        self.place("blobs", &blob.sha256)
    }

    /// The permissions of the root, which is made if need be; what it is in has to be there, because it may be where something is
    /// to be mounted.
    fn mode(&self) -> Result<u32, CacheError> {
        match fs_err::metadata(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match fs_err::create_dir(&self.root) {
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(refused(error)),
                    _ => {}
                }
                Ok(fs_err::metadata(&self.root)?.permissions().mode())
            }
            status => Ok(status.map_err(refused)?.permissions().mode()),
        }
    }

    /// Writes a file and gives it its name.
    fn write(&self, path: &Path, contents: &mut dyn Read) -> Result<(), CacheError> {
        let mode = self.mode()?;
        let directory = path.parent().unwrap_or(&self.root);
        self.make_directories(directory, mode)?;
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory).map_err(refused)?;
        io::copy(contents, &mut file)?;
        file.as_file().set_permissions(Permissions::from_mode(mode & 0o666))?;
        file.as_file().sync_all()?;
        match file.persist(path) {
            // No file takes the place of a directory, which is damage here.
            Err(error) if error.error.kind() == ErrorKind::IsADirectory => {
                fs_err::remove_dir_all(path).map_err(refused)?;
                error.file.persist(path).map(drop).map_err(|error| refused(error.error))
            }
            placed => placed.map(drop).map_err(|error| refused(error.error)),
        }
    }

    fn make_directories(&self, directory: &Path, mode: u32) -> Result<(), CacheError> {
        if directory == self.root || directory.is_dir() {
            return Ok(());
        }
        self.make_directories(directory.parent().unwrap_or(&self.root), mode)?;
        match fs_err::create_dir(directory) {
            Ok(()) => Ok(fs_err::set_permissions(directory, Permissions::from_mode(mode & (0o7000 | NEW_MODE)))?),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(refused(error)),
        }
    }
}

impl Place for Directory {
    fn entry(&self, key: &LayerKey, pulse: &Pulse) -> Result<Option<Vec<u8>>, CacheError> {
        let _waiting = pulse.wait();
        let file = match open(&self.entry_path(key)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // A directory that is only read and not there is a mistake, or not mounted.
                if self.is_read_only {
                    fs_err::metadata(&self.root)?;
                }
                return Ok(None);
            }
            opened => regular(opened?)?,
        };
        let mut manifest = Vec::new();
        file.take(MANIFEST_LIMIT).read_to_end(&mut manifest)?;
        pulse.came(manifest.len() as u64);
        Ok(Some(manifest))
    }

    fn read(&self, blob: &Blob, part: Range<u64>, into: &mut File, pulse: &Pulse) -> Result<(), CacheError> {
        let _waiting = pulse.wait();
        let path = self.blob_path(blob);
        let file = open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => CacheError::Damaged(format!("`{}` is not there", path.display())),
            _ => error.into(),
        })?;
        let file = regular(file)?;
        let (mut buffer, mut offset) = (vec![0; BUFFER_LENGTH], part.start);
        while offset < part.end {
            let length = BUFFER_LENGTH.min(usize::try_from(part.end - offset).unwrap_or(usize::MAX));
            let count = file.file().read_at(&mut buffer[..length], offset)?;
            if count == 0 {
                return Err(CacheError::Damaged(format!("`{}` is too short", path.display())));
            }
            into.write_all(&buffer[..count])?;
            pulse.came(count as u64);
            offset += count as u64;
        }
        Ok(())
    }

    fn has(&self, blob: &Blob) -> Result<bool, CacheError> {
        match fs_err::metadata(self.blob_path(blob)) {
            Ok(status) => Ok(status.is_file() && status.len() == blob.size),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn put(&self, blob: &Blob, file: &File) -> Result<(), CacheError> {
        let mut file = file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        self.write(&self.blob_path(blob), &mut file)
    }

    fn put_entry(&self, key: &LayerKey, manifest: &[u8]) -> Result<(), CacheError> {
        self.write(&self.entry_path(key), &mut &manifest[..])
    }

    fn check_taking(&self) -> Result<(), CacheError> {
        self.mode()?;
        let versioned = self.root.join(format!("v{VERSION}"));
        for directory in [self.root.clone(), versioned.join("entries"), versioned.join("blobs"), versioned] {
            match accessat(CWD, &directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
                Err(Errno::NOENT) | Ok(()) => {}
                Err(error) => {
                    let error = io::Error::from(error);
                    return Err(refused(io::Error::new(error.kind(), format!("`{}`: {error}", directory.display()))));
                }
            }
        }
        Ok(())
    }

    fn discard(&self, key: &LayerKey, blobs: &[Blob]) {
        if self.is_read_only {
            return;
        }
        for path in blobs.iter().map(|blob| self.blob_path(blob)).chain([self.entry_path(key)]) {
            // What cannot be removed is passed over the next time as well.
            let _ = match fs_err::remove_file(&path) {
                Err(error) if error.kind() == ErrorKind::IsADirectory => fs_err::remove_dir_all(path),
                removed => removed,
            };
        }
    }
}

/// Opens a file to be read, and waits for nobody if it is a pipe.
fn open(path: &Path) -> io::Result<fs_err::File> {
    use fs_err::os::unix::fs::OpenOptionsExt;
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    fs_err::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// The file, if it is one: a directory or a pipe in its place is damage.
fn regular(file: fs_err::File) -> Result<fs_err::File, CacheError> {
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(CacheError::Damaged(format!("`{}` is no file", file.path().display())))
}

/// Whoever may not write there may never do so.
fn refused(error: io::Error) -> CacheError {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => CacheError::Denied(error.to_string()),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use lamina_image::Digest;

    use super::*;

    fn file(contents: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(contents).unwrap();
        file
    }

    #[test]
    fn what_is_put_is_there_for_all_to_whom_the_directory_is() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("cache");
        fs_err::create_dir(&root).unwrap();
        fs_err::set_permissions(&root, Permissions::from_mode(0o2770)).unwrap();
        let (directory, pulse) = (Directory::new(&root, false), Pulse::default());
        let (key, blob) = (LayerKey(Digest::of(b"key")), Blob::of(b"contents"));
        assert!(!directory.has(&blob).unwrap());
        assert_eq!(directory.entry(&key, &pulse).unwrap(), None);
        directory.put(&blob, &file(b"contents")).unwrap();
        directory.put_entry(&key, b"manifest").unwrap();
        assert!(directory.has(&blob).unwrap());
        assert_eq!(directory.entry(&key, &pulse).unwrap().as_deref(), Some(&b"manifest"[..]));
        let mut part = file(b"");
        directory.read(&blob, 3..8, &mut part, &pulse).unwrap();
        assert_eq!(
            std::io::read_to_string({
                part.rewind().unwrap();
                part
            })
            .unwrap(),
            "tents"
        );
        let mode = |path: &Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o7777;
        let path = directory.blob_path(&blob);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o2770));
        assert_eq!(pulse.progress().0, 13);
        directory.discard(&key, std::slice::from_ref(&blob));
        assert!(!directory.has(&blob).unwrap());
        assert_eq!(directory.entry(&key, &pulse).unwrap(), None);
    }

    #[test]
    fn what_is_not_mounted_is_not_made() {
        let parent = tempfile::tempdir().unwrap();
        let (key, pulse) = (LayerKey(Digest::of(b"key")), Pulse::default());
        let deep = Directory::new(&parent.path().join("not/mounted"), false);
        assert!(deep.put_entry(&key, b"x").is_err());
        let read_only = Directory::new(&parent.path().join("not"), true);
        assert!(read_only.entry(&key, &pulse).is_err());
        Directory::new(&parent.path().join("new"), false).put_entry(&key, b"x").unwrap();
    }

    #[test]
    fn what_is_no_file_is_damaged_and_goes() {
        let root = tempfile::tempdir().unwrap();
        let (directory, pulse) = (Directory::new(root.path(), false), Pulse::default());
        let (key, blob) = (LayerKey(Digest::of(b"key")), Blob::of(b"contents"));
        let (entry, contents) = (directory.entry_path(&key), directory.blob_path(&blob));
        let in_place: [fn(&Path); 2] = [
            |path| {
                fs_err::create_dir_all(path.join("deep")).unwrap();
                fs_err::write(path.join("deep/file"), "").unwrap();
            },
            |path| {
                let fifo = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(CWD, path, fifo, rustix::fs::Mode::RWXU, 0).unwrap();
            },
        ];
        for make in in_place {
            make(&entry);
            make(&contents);
            let read = directory.entry(&key, &pulse);
            assert!(matches!(read, Err(CacheError::Damaged(_))), "{read:?}");
            let read = directory.read(&blob, 0..8, &mut file(b""), &pulse);
            assert!(matches!(read, Err(CacheError::Damaged(_))), "{read:?}");
            assert!(!directory.has(&blob).unwrap());
            directory.put(&blob, &file(b"contents")).unwrap();
            assert!(directory.has(&blob).unwrap());
            directory.discard(&key, std::slice::from_ref(&blob));
            make(&contents);
            directory.discard(&key, std::slice::from_ref(&blob));
            directory.put(&blob, &file(b"contents")).unwrap();
            directory.put_entry(&key, b"manifest").unwrap();
            assert_eq!(directory.entry(&key, &pulse).unwrap().as_deref(), Some(&b"manifest"[..]));
            assert!(directory.has(&blob).unwrap());
            directory.discard(&key, std::slice::from_ref(&blob));
        }
    }

    #[test]
    fn what_was_cut_is_damaged() {
        let root = tempfile::tempdir().unwrap();
        let (directory, pulse, blob) = (Directory::new(root.path(), false), Pulse::default(), Blob::of(b"contents"));
        directory.put(&blob, &file(b"conte")).unwrap();
        assert!(!directory.has(&blob).unwrap());
        let read = directory.read(&blob, 0..8, &mut file(b""), &pulse);
        assert!(matches!(read, Err(CacheError::Damaged(_))), "{read:?}");
    }
}
