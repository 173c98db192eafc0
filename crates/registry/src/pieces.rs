//! Archives of layers that are put together from what was fetched and from files that the store has.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use lamina_store::{Job, JobError, WorkerContext};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A piece of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Piece {
    /// Frames of Zstandard in one of the files that come with the job: its number, and where they are in it.
    Fetched { file: usize, begin: u64, length: u64 },
    /// So many bytes of a file of the store, by its path in the content directory.
    Object { path: PathBuf, size: u64 },
}

impl Piece {
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Fetched { length: 0, .. } | Self::Object { size: 0, .. })
    }
}

/// Reads pieces one after the other. What they are taken for, nobody has to believe: the archive has a digest.
pub(crate) struct Joined<'a> {
    pieces: std::slice::Iter<'a, Piece>,
    files: &'a [File],
    content: &'a Path,
    current: Box<dyn Read + Send + 'a>,
}

impl<'a> Joined<'a> {
    pub(crate) fn new(pieces: &'a [Piece], files: &'a [File], content: &'a Path) -> Self {
        Self { pieces: pieces.iter(), files, content, current: Box::new(std::io::empty()) }
    }

    fn open(&self, piece: &Piece) -> std::io::Result<Box<dyn Read + Send + 'a>> {
        match *piece {
            Piece::Fetched { file, begin, length } => {
                let missing = || std::io::Error::other("it came without one of its files");
                let mut file = self.files.get(file).ok_or_else(missing)?;
                file.seek(SeekFrom::Start(begin))?;
                Ok(Box::new(zstd::Decoder::with_buffer(BufReader::new(file.take(length)))?))
            }
            Piece::Object { ref path, size } => Ok(Box::new(fs_err::File::open(self.content.join(path))?.take(size))),
        }
    }
}

impl Read for Joined<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(piece) = self.pieces.next() else { return Ok(0) };
            self.current = self.open(piece)?;
        }
    }
}

/// Looks for files by length and SHA-256. The store knows its objects by another digest, so all that have such a length are read.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FindFiles {
    /// Lengths in bytes, and digests in hexadecimal digits.
    pub(crate) wanted: Vec<(u64, String)>,
}

impl Job for FindFiles {
    const NAME: &'static str = "registry.find-files";
    /// Digests of what is there, with paths in the content directory.
    type Output = Vec<(String, PathBuf)>;

    fn work(&self) -> Option<&str> {
        None
    }

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Self::Output, JobError> {
        let lengths: HashSet<u64> = self.wanted.iter().map(|(length, _)| *length).collect();
        let wanted: HashSet<&str> = self.wanted.iter().map(|(_, digest)| &**digest).collect();
        let candidates = context.objects_of_lengths(&lengths)?;
        let found = candidates.into_par_iter().filter_map(|(_, path)| {
            // What cannot be read, or was removed in the meantime, is not there.
            let digest = sha256(&context.content().join(&path)).ok()?;
            wanted.contains(&*digest).then_some((digest, path))
        });
        Ok(found.collect())
    }
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hasher) = (fs_err::File::open(path)?, Sha256::new());
    std::io::copy(&mut file, &mut hasher)?;
    Ok(HEXLOWER.encode(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn pieces_are_joined_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("object"), "from the store, and more").unwrap();
        let mut files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let mut pieces = Vec::new();
        for (number, texts) in [(0, &["one ", "two "][..]), (1, &[" three"])] {
            let frames = texts.iter().flat_map(|text| zstd::encode_all(text.as_bytes(), 1).unwrap());
            let frames: Vec<_> = frames.collect();
            files[number].write_all(b"before").unwrap();
            files[number].write_all(&frames).unwrap();
            files[number].write_all(b"behind").unwrap();
            pieces.push(Piece::Fetched { file: number, begin: 6, length: frames.len() as u64 });
        }
        pieces.insert(1, Piece::Object { path: "object".into(), size: 14 });
        let mut text = String::new();
        Joined::new(&pieces, &files, directory.path()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two from the store three");
        for wrong in [
            Piece::Object { path: "missing".into(), size: 1 },
            Piece::Fetched { file: 2, begin: 0, length: 1 },
            Piece::Fetched { file: 0, begin: 0, length: 20 },
        ] {
            assert!(Joined::new(&[wrong], &files, directory.path()).read_to_string(&mut text).is_err());
        }
    }
}
