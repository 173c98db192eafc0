//! Layers as the archives that registries have: those that they came in, or such as are made of them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lamina_events::CancelToken;
use lamina_image::{Digest, Hasher};
use lamina_store::{ArchiveRecord, Job, Store, StoreError};

use super::compress::{Sums, compress, compress_layer, decompressed};
use super::frames::Kept;
use super::layer_tar::{WriteLayer, WriteRoot};
use super::tar::Times;
use crate::RegistryError;
use crate::unpack::Compression;

/// The version of how archives are written. It is part of their forms: what another version made is made anew.
const VERSION: u32 = 1;
/// The same for those that are compressed by zstd: the first one had frames of one length.
const ZSTD_VERSION: u32 = 2;

/// Bytes that wait between the store worker and us, at most: the more, the seldomer one waits for the other.
const PIPE_SIZE: usize = 1 << 20;

/// A layer on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutLayer {
    /// Digest of its diff tree.
    pub digest: Digest,
    /// The method call that made it.
    pub title: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// What is known of the archive that it came in.
    pub original: Option<ArchiveRecord>,
}

/// How an archive that a layer came in is noted: with a digest of the layers below, bottom first, parts of which it may leave
/// as they are.
#[must_use]
pub fn original_form(below: &[Digest]) -> String {
    let mut hasher = Hasher::new();
    for layer in below {
        hasher.update(layer.as_bytes());
    }
    format!("original-{}", Digest::hex(&hasher.finish()))
}

/// How archives are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How {
    /// How they are compressed.
    pub compression: Compression,
    /// Whether layers that came in an archive leave in that, however it is compressed.
    pub keeps_compression: bool,
    /// Which times files have in layers that were made here. Those that came in an archive keep theirs.
    pub times: Times,
}

impl How {
    fn form(self) -> String {
        let times = if self.times == Times::Kept { "-times" } else { "" };
        let version = if self.compression == Compression::Zstd { ZSTD_VERSION } else { VERSION };
        format!("{}-{version}{times}", self.compression.name())
    }
}

/// Archives of layers.
#[derive(Clone, Copy)]
pub(super) struct Archives<'a> {
    pub(super) store: &'a Store,
    pub(super) how: How,
    pub(super) cancel: &'a CancelToken,
    pub(super) made_anew: &'a AtomicUsize,
}

impl Archives<'_> {
    /// What is known of a layer's archive without making it; the one that the layer came in goes first.
    pub(super) fn known(self, layer: &OutLayer) -> Result<Option<ArchiveRecord>, RegistryError> {
        match self.original(layer) {
            Some(original) => Ok(Some(original.clone())),
            None => self.made_before(layer),
        }
    }

    /// The archive that a layer came in, if it may leave in that.
    fn original(self, layer: &OutLayer) -> Option<&ArchiveRecord> {
        let How { compression, keeps_compression, .. } = self.how;
        layer.original.as_ref().filter(|original| keeps_compression || original.compression == compression.name())
    }

    fn made_before(self, layer: &OutLayer) -> Result<Option<ArchiveRecord>, RegistryError> {
        Ok(self.store.archive(&layer.digest, &self.how_for(layer).form())?)
    }

    /// How an archive of a layer is made.
    fn how_for(self, layer: &OutLayer) -> How {
        let times = if layer.original.is_some() { Times::Kept } else { self.how.times };
        How { times, ..self.how }
    }

    /// The archive of a layer, at the beginning of a file: the one that it came in, as far as it is still here, or else one that is
    /// made.
    pub(super) fn get(self, layer: &OutLayer) -> Result<(ArchiveRecord, File), RegistryError> {
        match self.kept(layer) {
            Some(kept) => Ok(kept),
            None => self.make(layer),
        }
    }

    /// The archive that a layer came in, if it may leave in that and is still here.
    fn kept(self, layer: &OutLayer) -> Option<(ArchiveRecord, File)> {
        let original = self.original(layer)?;
        let file = fs_err::File::open(self.store.layout().downloads().join(&original.sha256)).ok()?;
        Some((original.clone(), file.into_file()))
    }

    /// The archive of a layer without compression, as a file.
    pub(super) fn get_plain(self, layer: &OutLayer) -> Result<(ArchiveRecord, File), RegistryError> {
        let mut file = self.nameless()?;
        let record = self.write_plain(layer, &mut file)?;
        file.seek(SeekFrom::Start(0))?;
        Ok((record, file))
    }

    /// Writes the archive of a layer without compression, from where `output` stands.
    pub(super) fn write_plain(self, layer: &OutLayer, output: &mut File) -> Result<ArchiveRecord, RegistryError> {
        let how = How { compression: Compression::None, keeps_compression: true, ..self.how };
        let plain = Self { how, ..self };
        if let Some((record, file)) = plain.kept(layer) {
            let begin = output.stream_position()?;
            let compression = Compression::of_name(&record.compression)?;
            let mut reader = Until { inner: decompressed(file, compression)?, cancel: self.cancel };
            let sums = compress(&mut reader, output, Compression::None)?;
            if sums.sha256 == record.diff_id {
                let compression = Compression::None.name().to_owned();
                return Ok(ArchiveRecord { sha256: sums.sha256, size: sums.size, compression, ..record });
            }
            output.set_len(begin)?;
            output.seek(SeekFrom::Start(begin))?;
        }
        plain.write(layer, output)
    }

    /// Makes the archive of a layer: a file that has it at its beginning.
    pub(super) fn make(self, layer: &OutLayer) -> Result<(ArchiveRecord, File), RegistryError> {
        let mut file = self.nameless()?;
        let record = if self.how.compression == Compression::Zstd {
            self.write_frames(layer, &mut file)?
        } else {
            self.write(layer, &mut file)?
        };
        file.seek(SeekFrom::Start(0))?;
        Ok((record, file))
    }

    /// Makes the archive of a layer of frames, those that are kept among them, and keeps it.
    fn write_frames(self, layer: &OutLayer, file: &mut File) -> Result<ArchiveRecord, RegistryError> {
        let directory = self.store.layout().downloads();
        let kept = Arc::new(Kept::open(&directory));
        let job = WriteLayer { layer: layer.digest, times: self.how_for(layer).times };
        let (sums, frames) = self.written(&job, |reader| compress_layer(reader, file, &kept))?;
        // It only spares work, so a full disk is no reason to fail.
        let _ = kept.keep(&directory, file, &sums.sha256, &frames);
        self.noted(layer, sums)
    }

    /// A new file, of which nothing is left, because it has no name.
    fn nameless(self) -> Result<File, RegistryError> {
        let downloads = self.store.layout().downloads();
        fs_err::create_dir_all(&downloads)?;
        Ok(tempfile::tempfile_in(downloads)?)
    }

    /// Makes the archive of a layer, from where `output` stands.
    fn write(self, layer: &OutLayer, output: &mut File) -> Result<ArchiveRecord, RegistryError> {
        let how = self.how_for(layer);
        let job = WriteLayer { layer: layer.digest, times: how.times };
        let sums = self.written(&job, |reader| compress(reader, output, how.compression))?;
        self.noted(layer, sums)
    }

    /// Notes what came of a layer.
    fn noted(self, layer: &OutLayer, sums: Sums) -> Result<ArchiveRecord, RegistryError> {
        let how = self.how_for(layer);
        let is_other = |original: &ArchiveRecord| match how.compression {
            Compression::None => original.diff_id != sums.diff_id,
            _ => original.sha256 != sums.sha256,
        };
        if layer.original.as_ref().is_some_and(is_other) {
            self.made_anew.fetch_add(1, Ordering::Relaxed);
        }
        let earlier = self.made_before(layer)?.filter(|earlier| earlier.sha256 == sums.sha256);
        let record = ArchiveRecord {
            layer: layer.digest,
            form: how.form(),
            diff_id: sums.diff_id,
            sha256: sums.sha256,
            size: sums.size,
            compression: how.compression.name().to_owned(),
            repositories: earlier.map(|earlier| earlier.repositories).unwrap_or_default(),
            image: None,
        };
        self.store.record_archive(&record)?;
        Ok(record)
    }

    /// Writes what layers are together into a file.
    pub(super) fn write_root(self, layers: &[OutLayer], mut output: File) -> Result<(), RegistryError> {
        let layers = layers.iter().map(|layer| WriteLayer { layer: layer.digest, times: self.how_for(layer).times });
        let job = WriteRoot { layers: layers.collect() };
        // By way of this process, so that a full disk there is not taken for one of the store.
        self.written(&job, |reader| io::copy(reader, &mut output).map(drop))
    }

    /// Reads what a job writes.
    fn written<J: Job<Output = ()> + Sync, T>(
        self,
        job: &J,
        read: impl FnOnce(&mut (dyn Read + Send)) -> io::Result<T>,
    ) -> Result<T, RegistryError> {
        let (reader, writer) = io::pipe()?;
        // Where many pipes are open already, it stays as it is.
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_SIZE);
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || self.store.job(job, &[writer.as_fd()]));
            let mut reader = Until { inner: reader, cancel: self.cancel };
            let taken = read(&mut reader);
            // Whoever still writes is told that nobody reads.
            drop(reader);
            let written = writing.join().map_err(|_| io::Error::other("a thread that waits for an archive ended"))?;
            self.cancel.check().map_err(StoreError::from)?;
            // What ends the reading ends the writing.
            let taken = taken?;
            written?;
            Ok(taken)
        })
    }
}

/// A reader that ends with a cancellation.
pub(super) struct Until<'a, R> {
    pub(super) inner: R,
    pub(super) cancel: &'a CancelToken,
}

impl<R: Read> Read for Until<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        self.inner.read(buffer)
    }
}
