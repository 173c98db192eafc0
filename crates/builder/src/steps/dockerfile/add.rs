//! What `ADD` does beyond `COPY`: downloads, and archives that are unpacked.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use lamina_ground::{Stack, StorePath};
use lamina_image::Digest;
use lamina_packages::{Entry, Layers};
use lamina_store::{CommitRules, Job, JobError, Named, Onto, StoreError, WorkerContext};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::copy::{MadeFile, Stacked, literal};
use crate::log::StepLog;
use crate::steps::StepError;

/// Most bytes of a download.
const MOST_BYTES: u64 = 4 << 30;

/// Whether a source is an address.
pub(super) fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://") || is_git(source)
}

fn is_git(source: &str) -> bool {
    source.starts_with("git@") || source.starts_with("git://") || source.starts_with("ssh://")
}

impl Stacked<'_> {
    /// Downloads a file to the target.
    pub(super) fn download(&mut self, url: &str, log: &mut StepLog) -> Result<(), StepError> {
        use std::io::Write as _;
        let plain = url.split(['?', '#']).next().unwrap_or(url);
        if is_git(url) || Path::new(plain).extension().is_some_and(|end| end == "git") {
            return Err(
                self.error(format!("`{url}` is a repository, which `ADD` cannot take here: use `RUN git clone`"))
            );
        }
        let name = file_name(plain);
        let into = self.plan.target.ends_with('/') || self.plan.target.ends_with("/.");
        let name = match name {
            Some(name) => name,
            None if into => return Err(self.error(format!("`{url}` names no file: write its path as the last word"))),
            None => "download".to_owned(),
        };
        let _ = writeln!(log, "downloading {}", lamina_image::redact(url));
        let fetched = self.context.workshop.fetch.get_described(url, MOST_BYTES).map_err(StepError::of)?;
        let contents = fetched.bytes;
        if let Some(checksum) = &self.plan.transfer.options.checksum {
            let found = format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(&contents)));
            if found != *checksum {
                return Err(self.error(format!("`{url}` has the digest `{found}`, not `{checksum}`")));
            }
        }
        let names = [name.clone()];
        // As with `BuildKit`, whose files without a time have the first one that there is.
        let modified = Some(fetched.modified.unwrap_or(SystemTime::UNIX_EPOCH));
        let file = std::iter::once(MadeFile { name, contents, mode: 0o600, modified });
        if self.plan.transfer.options.unpack != Some(true) {
            return self.copy_made(file, &names);
        }
        let from = self.layer_of(file, &names)?;
        let plain = self.unpack(&literal(&names[0]), &from, log)?;
        if plain.is_empty() { Ok(()) } else { self.copy(&plain, &from) }
    }

    /// Unpacks the archives that a source names, and answers the sources of what is left to copy.
    pub(super) fn unpack(
        &mut self,
        source: &str,
        from: &Stack<Digest>,
        log: &mut StepLog,
    ) -> Result<Vec<String>, StepError> {
        use std::io::Write as _;
        let whole = vec![source.to_owned()];
        if self.plan.transfer.options.unpack == Some(false) {
            return Ok(whole);
        }
        let store = self.context.workshop.store;
        let mut others = Vec::new();
        let named = self.named(&whole, from)?;
        let count = named.len();
        for Named { path, file } in named {
            let name = String::from_utf8_lossy(&path).into_owned();
            let Some(file) = file.and_then(|file| String::from_utf8(file).ok()) else {
                others.push(literal(&name));
                continue;
            };
            let work = store.new_work()?;
            let views = store.view_paths(from);
            let job = Unpack { work: work.id().to_owned(), views, file, name: name.clone() };
            let Some(implied) = store.job(&job, &[]).map_err(StoreError::from)? else {
                others.push(literal(&name));
                continue;
            };
            let _ = writeln!(log, "unpacked {name}");
            let layer = store.commit_until(&work, CommitRules::default(), self.context.workshop.cancel)?;
            let from = Stack::from_bottom_up([layer.digest]);
            self.copy_with(&["/".to_owned()], &from, &[], None, Onto::Replaced(&implied))?;
        }
        Ok(if others.len() == count { whole } else { others })
    }
}

/// What an address without its query calls the file.
fn file_name(address: &str) -> Option<String> {
    let (_, path) = address.split_once("://")?.1.split_once('/')?;
    let name = path.rsplit('/').find(|part| !part.is_empty())?;
    let name = percent_encoding::percent_decode_str(name).decode_utf8().ok()?.into_owned();
    (!name.contains(['/', '\0']) && ![".", ".."].contains(&&*name)).then_some(name)
}

/// The archive itself, whatever it is compressed with.
fn decompressed<'a>(file: impl Read + Seek + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    let mut file = BufReader::with_capacity(1 << 18, file);
    let mut magic = [0; 6];
    let mut length = 0;
    while length < magic.len() {
        match file.read(&mut magic[length..])? {
            0 => break,
            count => length += count,
        }
    }
    file.rewind()?;
    Ok(match &magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(liblzma::read::XzDecoder::new_multi_decoder(file)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    })
}

/// Whether a file begins as an archive does: with the header of an entry whose sum is right.
fn is_archive(file: &File) -> std::io::Result<bool> {
    let mut block = Vec::new();
    decompressed(file)?.take(512).read_to_end(&mut block)?;
    let Some(sum) = block.get(148..156).filter(|_| block.len() == 512) else { return Ok(false) };
    let text = String::from_utf8_lossy(sum);
    let noted = u32::from_str_radix(text.trim_matches(|letter: char| letter == '\0' || letter == ' '), 8);
    let is_sum = |index: usize| (148..156).contains(&index);
    let found: u32 =
        block.iter().enumerate().map(|(index, byte)| if is_sum(index) { 32 } else { u32::from(*byte) }).sum();
    Ok(noted == Ok(found) && block[0] != 0)
}

/// Unpacks a file of a layer, if it is an archive.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Unpack {
    /// The work whose upper it is unpacked into, which is empty.
    work: String,
    /// The views of the image that has the file.
    views: Stack<StorePath>,
    /// The file's path there, of which no part is a link.
    file: String,
    /// What the archive is called.
    name: String,
}

impl Job for Unpack {
    const NAME: &'static str = "builder.unpack";
    /// Directories that the archive only implies: they are above what it has. `None` is no archive.
    type Output = Option<BTreeSet<Vec<u8>>>;

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Self::Output, JobError> {
        let upper = context.upper(&self.work);
        let failed = |error: std::io::Error| JobError::image_file("unpacking", Path::new(&self.name))(error);
        let (Entry::OfBase(path) | Entry::Above(path)) =
            Layers::new(context.content(), &self.views).entry(&format!("/{}", self.file))?
        else {
            return Ok(None);
        };
        // A pipe is waited for when it is opened.
        if !path.on_disk().symlink_metadata().is_ok_and(|status| status.is_file()) {
            return Ok(None);
        }
        let mut file = path.open()?;
        if !is_archive(&file).unwrap_or(false) {
            return Ok(None);
        }
        file.rewind().map_err(failed)?;
        let mut archive = tar::Archive::new(decompressed(file).map_err(failed)?);
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(true);
        archive.set_preserve_mtime(true);
        archive.set_overwrite(true);
        archive.set_unpack_xattrs(false);
        let mut directories = Vec::new();
        let mut above = BTreeSet::new();
        for entry in archive.entries().map_err(failed)? {
            context.ensure_wanted(&self.work)?;
            let mut entry = entry.map_err(failed)?;
            let path = beneath(&entry.path().map_err(failed)?);
            above.extend(path.ancestors().skip(1).map(|above| above.as_os_str().as_bytes().to_vec()));
            match entry.header().entry_type() {
                // There are none in views.
                EntryType::Block | EntryType::Char => {}
                EntryType::Fifo => make_pipe(&entry, &upper).map_err(failed)?,
                EntryType::Directory => {
                    entry.unpack_in(&upper).map_err(failed)?;
                    directories.push((path, modified(&entry).map_err(failed)?));
                }
                _ => drop(entry.unpack_in(&upper).map_err(failed)?),
            }
        }
        // Last, because what was put into them has changed their times.
        for (path, modified) in directories.iter().rev() {
            above.remove(path.as_os_str().as_bytes());
            let path = upper.join(path);
            // It may have been replaced by something else since.
            if std::fs::symlink_metadata(&path).is_ok_and(|status| status.is_dir()) {
                set_modified(&path, *modified).map_err(failed)?;
            }
        }
        Ok(Some(above))
    }
}

fn modified<R: Read>(entry: &tar::Entry<'_, R>) -> std::io::Result<i64> {
    Ok(i64::try_from(entry.header().mtime()?).unwrap_or_default())
}

fn set_modified(path: &Path, seconds: i64) -> std::io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A path of an archive without anything that leads elsewhere.
fn beneath(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

fn make_pipe<R: Read>(entry: &tar::Entry<'_, R>, upper: &Path) -> std::io::Result<()> {
    let header = entry.header();
    let path = beneath(&entry.path()?);
    let parent = upper.join(path.parent().unwrap_or(Path::new("")));
    // Where a link is on the way it is left out: nothing of an archive leads elsewhere.
    if std::fs::canonicalize(&parent).ok().as_deref()
        != Some(&*std::fs::canonicalize(upper)?.join(path.parent().unwrap_or(Path::new(""))))
    {
        return Ok(());
    }
    let path = upper.join(&path);
    let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0)?;
    let id = |id: u64| u32::try_from(id).map_err(std::io::Error::other);
    let owner = (Uid::from_raw(id(header.uid()?)?), Gid::from_raw(id(header.gid()?)?));
    rustix::fs::chownat(CWD, &path, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::chmodat(CWD, &path, mode, AtFlags::empty())?;
    set_modified(&path, modified(entry)?)
}
