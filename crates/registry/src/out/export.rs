//! Images as files.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use lamina_store::{ArchiveRecord, Metadata, StoreError};
use serde_json::json;

use super::blobs::Until;
use super::document::{Document, MANIFEST_TYPE, configuration, manifest};
use super::tar::{Kind, Times, Writer};
use super::{OutLayer, Outgoing};
use crate::RegistryError;

/// What an image can be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The OCI image layout as an archive.
    OciArchive,
    /// What `docker save` makes and `docker load` takes.
    DockerArchive,
    /// All files of the image, as one archive without layers.
    RootfsTar,
}

/// Where parts of a written image go.
trait Output {
    fn put(&mut self, path: &str, size: u64, contents: &mut dyn Read) -> io::Result<()>;

    fn put_document(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.put(path, bytes.len() as u64, &mut &bytes[..])
    }
}

/// An archive; its bytes depend on the parts only.
struct Tar<W: Write>(Writer<W>);

impl<W: Write> Output for Tar<W> {
    fn put(&mut self, path: &str, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        self.0.entry(path.as_bytes(), &Metadata::root_owned(0o644), Kind::File { size, is_sparse: false })?;
        self.0.contents(size, contents)
    }
}

/// A directory.
struct Directory(PathBuf);

impl Output for Directory {
    fn put(&mut self, path: &str, _: u64, contents: &mut dyn Read) -> io::Result<()> {
        let mut file = fs_err::File::create(self.0.join(path))?;
        io::copy(contents, &mut file)?;
        file.sync_data()
    }
}

impl Outgoing<'_> {
    /// Writes the image into a file.
    ///
    /// # Errors
    /// When a layer cannot be read, holds what no archive can, or the output cannot be written.
    pub fn write(&self, format: Format, output: OwnedFd, tag: Option<&str>) -> Result<(), RegistryError> {
        if format == Format::RootfsTar {
            return self.archives().write_root(&self.layers, File::from(output));
        }
        let mut writer = Writer::new(BufWriter::with_capacity(1 << 20, File::from(output)));
        writer.set_times(Times::Constant);
        let mut tar = Tar(writer);
        if format == Format::DockerArchive {
            self.write_docker(&mut tar, tag)?;
        } else {
            for directory in ["blobs", "blobs/sha256"] {
                tar.0.entry(directory.as_bytes(), &Metadata::root_owned(0o755), Kind::Directory)?;
            }
            self.write_oci(&mut tar, tag)?;
        }
        Ok(tar.0.finish()?)
    }

    /// Writes the image as an OCI layout into an empty directory.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_directory(&self, directory: &Path, tag: Option<&str>) -> Result<(), RegistryError> {
        fs_err::create_dir_all(directory.join("blobs/sha256"))?;
        self.write_oci(&mut Directory(directory.to_owned()), tag)
    }

    /// The index comes last: without it there is no image.
    fn write_oci(&self, output: &mut dyn Output, tag: Option<&str>) -> Result<(), RegistryError> {
        let mut archives: Vec<ArchiveRecord> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (record, file) = self.archives().get(layer)?;
            if !archives.iter().any(|other| other.sha256 == record.sha256) {
                self.put_archive(output, &blob(&record.sha256), &record, file)?;
            }
            archives.push(record);
            self.advanced(archives.len());
        }
        let configuration = configuration(self, &archives);
        let manifest = manifest(self, &configuration, &archives)?;
        for document in [&configuration, &manifest] {
            output.put_document(&blob(&document.sha256), &document.bytes)?;
        }
        let mut described = manifest.descriptor(MANIFEST_TYPE);
        if let Some(tag) = tag {
            described["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        let index = Document::new(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [described],
        }));
        output.put_document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(output.put_document("index.json", &index.bytes)?)
    }

    /// Puts a layer's archive where it belongs, unless that is stopped.
    fn put_archive(
        &self,
        output: &mut dyn Output,
        path: &str,
        record: &ArchiveRecord,
        file: File,
    ) -> Result<(), RegistryError> {
        let mut contents = Until { inner: file.take(record.size), cancel: self.cancel };
        let put = output.put(path, record.size, &mut contents);
        self.cancel.check().map_err(StoreError::from)?;
        Ok(put?)
    }

    fn write_docker(&self, output: &mut Tar<BufWriter<File>>, tag: Option<&str>) -> Result<(), RegistryError> {
        let can_go_back = output.0.can_go_back()?;
        let mut archives: Vec<ArchiveRecord> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let is_there = |record: &ArchiveRecord| archives.iter().any(|other| other.sha256 == record.sha256);
            let record = if can_go_back {
                self.put_straight(output, layer, is_there)?
            } else {
                let (record, file) = self.archives().get_plain(layer)?;
                if !is_there(&record) {
                    self.put_archive(output, &in_docker(&record), &record, file)?;
                }
                record
            };
            archives.push(record);
            self.advanced(archives.len());
        }
        let configuration = configuration(self, &archives);
        let name = format!("{}.json", configuration.sha256);
        output.put_document(&name, &configuration.bytes)?;
        let layers = archives.iter().map(in_docker);
        let manifest = json!([{"Config": name, "RepoTags": tag.as_slice(), "Layers": layers.collect::<Vec<_>>()}]);
        Ok(output.put_document("manifest.json", manifest.to_string().as_bytes())?)
    }

    /// Writes the archive of a layer to where it is to be, unless it turns out to be there.
    fn put_straight(
        &self,
        output: &mut Tar<BufWriter<File>>,
        layer: &OutLayer,
        is_there: impl Fn(&ArchiveRecord) -> bool,
    ) -> Result<ArchiveRecord, RegistryError> {
        output.0.file_before_its_name(&Metadata::root_owned(0o644), |file| {
            let record = self.archives().write_plain(layer, file)?;
            Ok(((!is_there(&record)).then(|| in_docker(&record)), record))
        })
    }
}

/// The name of a layer in an archive for `docker load`.
fn in_docker(archive: &ArchiveRecord) -> String {
    format!("{}.tar", archive.diff_id)
}

fn blob(sha256: &str) -> String {
    format!("blobs/sha256/{sha256}")
}
