//! What the engine asks for.

use std::os::fd::{AsFd, BorrowedFd};

use lamina_ground::StorePath;
use lamina_store::Store;

use crate::VolumeError;
use crate::catalogue::{
    DeleteVolume, FindVolume, GetVolume, ListVolumes, MakeVolume, RenameVolume, Volume, VolumeName, place,
};
use crate::copy::CopyFiles;
use crate::files::{CommitVolume, Entry, ListFiles, MakeDirectory, ReadFile, RemoveFile};
use crate::upload::{DropStaged, PublishFiles, StageFile, Staged, Upload};

type Result<T> = std::result::Result<T, VolumeError>;

/// The volumes of a store.
#[derive(Debug, Clone, Copy)]
pub struct Volumes<'a> {
    store: &'a Store,
}

/// # Errors
/// Each method fails when there is no such volume or file, when what is asked for makes no sense, or when the store cannot
/// do it.
#[expect(clippy::missing_errors_doc, reason = "said once for all")]
impl<'a> Volumes<'a> {
    /// Those of this store.
    #[must_use]
    pub fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// The volume of a name, made if it is missing and `create` says so.
    pub fn named(&self, name: &VolumeName, create: bool) -> Result<Volume> {
        let missing = || VolumeError::NotFound { name: name.name.clone(), environment: name.environment.clone() };
        self.store.job(&FindVolume { name: name.clone(), create }, &[])?.ok_or_else(missing)
    }

    /// The volume with an id.
    pub fn get(&self, id: &str) -> Result<Volume> {
        Ok(self.store.job(&GetVolume { id: id.to_owned() }, &[])?)
    }

    /// Makes a volume; one without a name ends with this process.
    pub fn create(&self, name: Option<VolumeName>) -> Result<Volume> {
        Ok(self.store.job(&MakeVolume { name }, &[])?)
    }

    /// The volumes of an environment, by name.
    pub fn list(&self, environment: &str) -> Result<Vec<Volume>> {
        Ok(self.store.job(&ListVolumes { environment: environment.to_owned() }, &[])?)
    }

    /// Gives a volume another name.
    pub fn rename(&self, id: &str, name: &str) -> Result<()> {
        Ok(self.store.job(&RenameVolume { id: id.to_owned(), name: name.to_owned() }, &[])?)
    }

    /// Removes a volume with all that it holds.
    pub fn delete(&self, id: &str) -> Result<()> {
        Ok(self.store.job(&DeleteVolume { id: id.to_owned() }, &[])?)
    }

    /// What is at a path: a directory's entries, with those below it if `recursive`, or the file itself.
    pub fn files(&self, id: &str, path: &str, recursive: bool) -> Result<Vec<Entry>> {
        Ok(self.store.job(&ListFiles { volume: id.to_owned(), path: path.to_owned(), recursive }, &[])?)
    }

    /// Writes a file's contents to `target`; gives how many bytes they are.
    pub fn read(&self, id: &str, path: &str, target: BorrowedFd<'_>) -> Result<u64> {
        Ok(self.store.job(&ReadFile { volume: id.to_owned(), path: path.to_owned() }, &[target])?)
    }

    /// Removes a file, or a directory with all that it holds if `recursive`.
    pub fn remove(&self, id: &str, path: &str, recursive: bool) -> Result<()> {
        Ok(self.store.job(&RemoveFile { volume: id.to_owned(), path: path.to_owned(), recursive }, &[])?)
    }

    /// Copies within the volume, as `cp` does it.
    pub fn copy(&self, id: &str, sources: Vec<String>, destination: &str, recursive: bool) -> Result<()> {
        let destination = destination.to_owned();
        Ok(self.store.job(&CopyFiles { volume: id.to_owned(), sources, destination, recursive }, &[])?)
    }

    /// Takes in what `source` gives; it is in no volume yet.
    pub fn stage(&self, source: impl AsFd) -> Result<Staged> {
        Ok(self.store.job(&StageFile {}, &[source.as_fd()])?)
    }

    /// Puts what was taken in in its places. Files that are there are replaced if `force` says so; if not, and one is there,
    /// none is put.
    pub fn publish(&self, id: &str, uploads: Vec<Upload>, force: bool) -> Result<()> {
        let staged = uploads.iter().map(|upload| upload.staged.clone()).collect();
        let published = self.store.job(&PublishFiles { volume: id.to_owned(), uploads, force }, &[]);
        if published.is_err() {
            // The first error is the one that matters.
            let _ = self.forget(staged);
        }
        Ok(published?)
    }

    /// Forgets what was taken in.
    pub fn forget(&self, staged: Vec<Staged>) -> Result<()> {
        Ok(self.store.job(&DropStaged { staged }, &[])?)
    }

    /// Returns when what was written to the volume is on the disk.
    pub fn commit(&self, id: &str) -> Result<()> {
        Ok(self.store.job(&CommitVolume { volume: id.to_owned() }, &[])?)
    }

    /// Where a volume's files are for mounting, or those below one of its directories, which is made if it is missing.
    pub fn mountable(&self, id: &str, sub_path: Option<&str>) -> Result<StorePath> {
        let files = format!("{}/files", place(id)?);
        let Some(path) = sub_path.map(|path| path.trim_matches('/')).filter(|path| !path.is_empty()) else {
            return Ok(files.into());
        };
        self.store.job(&MakeDirectory { volume: id.to_owned(), path: path.to_owned() }, &[])?;
        Ok(format!("{files}/{path}").into())
    }
}
