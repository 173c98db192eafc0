//! Unpacking a wheel into objects; runs in the store worker.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use lamina_store::{Job, JobError, JobErrorKind, WorkerContext};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::archive::{Archive, Entry, Refusal};
use crate::manifest::{Manifest, ManifestFile, Place, descriptions, manifest_name};
use crate::record;
use crate::request::normalize_name;
use crate::scripts;

/// Kind of a [`JobError`]: the wheel is dangerous.
pub(crate) const DANGEROUS: JobErrorKind = JobErrorKind::new("wheel-dangerous");
/// Kind of a [`JobError`]: the wheel is not what it should be, but an installer may take it.
pub(crate) const UNUSUAL: JobErrorKind = JobErrorKind::new("wheel-unusual");
/// Larger files are streamed instead of held in memory.
const MEMORY_LIMIT: u64 = 16 << 20;
/// Longest `#!python` script that is adapted.
const SCRIPT_LIMIT: usize = 1 << 20;

/// Unpacks the wheel given as a descriptor, unless that was done before.
#[derive(Serialize, Deserialize)]
pub(crate) struct UnpackWheel {
    pub(crate) filename: String,
    pub(crate) sha256: String,
}

/// What came out of a wheel.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    /// Bytes of Python source.
    pub(crate) source_bytes: u64,
}

impl Job for UnpackWheel {
    const NAME: &'static str = "wheels.unpack";
    type Output = Unpacked;

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<Unpacked, JobError> {
        let file = fds.into_iter().next().ok_or_else(|| invalid("its file was not handed over".to_owned()))?;
        let archive = Archive::open(File::from(file)).map_err(invalid)?;
        let manifest = unpack(archive, &self.filename, context)?;
        descriptions(context).save(&manifest_name(&self.sha256), &manifest)?;
        Ok(Unpacked { source_bytes: manifest.source_bytes() })
    }
}

fn invalid(refusal: impl Into<Refusal>) -> JobError {
    match refusal.into() {
        Refusal::Dangerous(detail) => JobError::new(DANGEROUS, detail),
        Refusal::Unusual(detail) => JobError::new(UNUSUAL, detail),
    }
}

fn unpack(mut archive: Archive, filename: &str, context: &WorkerContext) -> Result<Manifest, JobError> {
    let entries = archive.entries();
    let mut manifest = describe(&mut archive, filename).map_err(invalid)?;
    let record_path = format!("{}/RECORD", manifest.dist_info);
    let digests = record::parse(&text(&mut archive, &record_path).map_err(invalid)?).map_err(invalid)?;
    if let Some(entry) = entries.iter().find(|entry| manifest.place(&entry.path).is_none()) {
        return Err(invalid(format!("`{}` is in no part of the data directory that is known", entry.path)));
    }
    let mut wanted: Vec<&Entry> = entries.iter().filter(|entry| !is_made_anew(&entry.path, &manifest)).collect();
    wanted.sort_by(|one, other| one.path.cmp(&other.path));
    manifest.files = wanted
        .par_iter()
        .map_init(|| archive.clone(), |archive, entry| store(archive, entry, &digests, &manifest, context))
        .collect::<Result<_, _>>()?;
    Ok(manifest)
}

/// Files that installing writes itself.
fn is_made_anew(path: &str, manifest: &Manifest) -> bool {
    path.strip_prefix(manifest.dist_info.as_str())
        .is_some_and(|rest| matches!(rest, "/RECORD" | "/INSTALLER" | "/REQUESTED" | "/direct_url.json"))
}

/// Checks the metadata and reads the entry points.
fn describe(archive: &mut Archive, filename: &str) -> Result<Manifest, Refusal> {
    let mut parts = filename.split('-');
    let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let entries = archive.entries();
    let mut found = entries
        .iter()
        .filter_map(|entry| entry.path.strip_suffix("/WHEEL"))
        .filter(|directory| directory.ends_with(".dist-info") && !directory.contains('/'));
    let (Some(dist_info), None) = (found.next(), found.next()) else {
        return Err("it does not have exactly one `.dist-info` directory".to_owned().into());
    };
    let own_name = dist_info.split('-').next().unwrap_or_default();
    if normalize_name(own_name) != normalize_name(name) {
        return Err(format!("it holds the distribution `{own_name}` {version}, not what its file name says").into());
    }
    let wheel = text(archive, &format!("{dist_info}/WHEEL"))?;
    let wheel_version = wheel.lines().find_map(|line| line.strip_prefix("Wheel-Version:")).unwrap_or_default().trim();
    if wheel_version.split('.').next() != Some("1") {
        return Err(format!("its format version `{wheel_version}` is not known").into());
    }
    let entry_points_path = format!("{dist_info}/entry_points.txt");
    let entry_points = match archive.find(&entry_points_path) {
        Some(_) => scripts::parse_entry_points(&text(archive, &entry_points_path)?)?,
        None => Vec::new(),
    };
    let is_data = |path: &String| path.strip_suffix(".data").is_some_and(|stem| dist_info.starts_with(stem));
    let empty_directories = archive.empty_directories().iter().filter(|path| !is_data(path)).cloned().collect();
    Ok(Manifest { dist_info: dist_info.to_owned(), files: Vec::new(), empty_directories, entry_points })
}

/// A text file of the metadata.
fn text(archive: &mut Archive, path: &str) -> Result<String, String> {
    let entry = archive.find(path).ok_or_else(|| format!("it has no `{path}`"))?;
    if entry.size > 256 << 20 {
        return Err(format!("`{path}` is too large"));
    }
    String::from_utf8(archive.read(&entry)?).map_err(|_| format!("`{path}` is not UTF-8"))
}

/// Makes an object of one entry, if it is what `RECORD` says. Where it is not, installers keep what `RECORD` says.
fn store(
    archive: &mut Archive,
    entry: &Entry,
    digests: &HashMap<String, String>,
    manifest: &Manifest,
    context: &WorkerContext,
) -> Result<ManifestFile, JobError> {
    let is_script = matches!(manifest.place(&entry.path), Some((Place::Scripts, _)));
    let mode = if entry.executable { 0o755 } else { 0o644 };
    let mut script = None;
    let (digest, record) = if entry.size <= MEMORY_LIMIT {
        let bytes = archive.read(entry).map_err(invalid)?;
        if is_script && bytes.len() <= SCRIPT_LIMIT && scripts::wants_interpreter(&bytes) {
            script = Some(bytes.clone());
        }
        (context.put_bytes(&bytes)?, record::digest(&bytes))
    } else {
        let mut reader = Hashing { reader: archive.reader(entry).map_err(invalid)?, hasher: Sha256::new() };
        let (digest, length) = context.put_reader(&mut reader)?;
        if length != entry.size {
            return Err(invalid(format!("`{}` is not {} bytes long, as announced", entry.path, entry.size)));
        }
        (digest, record::encode(&reader.hasher.finalize()))
    };
    match digests.get(&entry.path) {
        // Only SHA-256 is compared: the archive's own digest already covers every byte.
        Some(expected) if expected.starts_with("sha256=") && expected.trim_end_matches('=') != record => {
            Err(invalid(format!("`{}` does not have the digest that RECORD gives", entry.path)))
        }
        _ => Ok(ManifestFile { path: entry.path.clone(), digest, mode, size: entry.size, record, script }),
    }
}

/// Computes a digest on the way.
struct Hashing<R> {
    reader: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
