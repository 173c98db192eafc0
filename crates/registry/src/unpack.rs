//! Unpacking an image's layer as containerd does: an archive of changes becomes the upper directory of an overlay.
//!
//! What a layer deletes is named in it by files that begin with `.wh.`, which say something about the layers below only.
//! Directories that an archive has something in without having them are as in the layers below, and where those have a link in
//! their place, it is followed. Nothing is ever written
//! outside the upper: parents are opened with it as root, and last components are not followed.

pub(crate) mod ahead;
mod filing;
pub(crate) mod growing;
mod watch;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use lamina_ground::{Stack, StorePath};
use lamina_packages::{Directory, Entry, Layers};
use lamina_store::{Job, JobError, JobErrorKind, WorkerContext};
use serde::{Deserialize, Serialize};
use tar::EntryType;

use self::ahead::read_ahead;
use self::filing::{Filing, with_filing};
use self::growing::Growing;
use self::watch::{HEADERS_LIMIT, Looked, Watch, Watched};
use crate::RegistryError;
use crate::pax::{self, Record};
use crate::pieces::{Joined, Piece};
use crate::tree::{Attributes, Holes, MISPLACED, Tree, UNREAD, shown};

/// Kind of a [`JobError`]: the archive is not what images have as layers.
pub const MALFORMED: JobErrorKind = JobErrorKind::new("registry-malformed");
/// The beginning of names of files that stand for deletions.
const WHITEOUT: &[u8] = b".wh.";
/// The file that stands for the deletion of everything below in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The beginning of names that overlays of another kind keep for themselves.
const FOREIGN: &[u8] = b".wh..wh.";
/// The beginning of names of what describes holes.
const SPARSE: &str = "GNU.sparse.";
/// What precedes the names of extended attributes in the archive's own headers.
const ATTRIBUTE: &str = "SCHILY.xattr.";
/// Most bytes of the text of extended attributes of one entry, as Linux has it.
const ATTRIBUTE_LIMIT: usize = 64 << 10;

/// The record of a file with holes, which archives of ours have whole, because not every program knows another form.
pub(crate) const OWN_SPARSE: &str = "LAMINA.sparse";

/// Most bytes of a file with its holes, of which an archive may have next to nothing: what ext4 takes.
const SPARSE_LIMIT: u64 = 16 << 40;
/// Bytes of the blocks that archives consist of.
const BLOCK: usize = 512;
/// Most links on the way to a file, as Linux has it.
const MOST_LINKS: usize = 40;

/// How a layer's archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// Not at all.
    None,
    /// As all registries and programs take it.
    Gzip,
    /// Smaller and faster.
    Zstd,
}

impl Compression {
    /// Its name in records.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The one with this name.
    pub(crate) fn of_name(name: &str) -> Result<Self, RegistryError> {
        let all = [Self::None, Self::Gzip, Self::Zstd];
        let found = all.into_iter().find(|compression| compression.name() == name);
        found.ok_or_else(|| RegistryError::Malformed(format!("the compression `{name}` is not known here")))
    }
}

/// Unpacks the layer in the descriptors that come with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UnpackLayer {
    /// The work whose upper it is unpacked into, which is empty.
    pub(crate) work: String,
    /// The views of the layers below.
    pub(crate) below: Stack<StorePath>,
    /// How it is compressed.
    pub(crate) compression: Compression,
    /// What it is put together from, if not from all of one file.
    pub(crate) pieces: Vec<Piece>,
    /// Whether more of its file is on the way, of which a second descriptor gives notice.
    pub(crate) is_coming: bool,
    /// The SHA-256 of the archive that it has inside, in hexadecimal digits.
    pub(crate) diff_id: String,
    /// Its name in messages.
    pub(crate) name: String,
    /// Bytes that are to stay free on the disk.
    pub(crate) reserve: u64,
    /// Whether it is committed as it is unpacked: its files may become objects at once then, because no process writes to the
    /// upper any more. Whoever asks for that holds off collection until the commit.
    pub(crate) is_final: bool,
}

impl Job for UnpackLayer {
    const NAME: &'static str = "registry.unpack";
    type Output = ();

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<(), JobError> {
        let files: Vec<_> = fds.into_iter().map(File::from).collect();
        if !self.pieces.is_empty() {
            let archive = Joined::new(&self.pieces, &files, context.content());
            return self.unpack_into(context, archive);
        }
        let mut files = files.into_iter();
        let mut next = || files.next().ok_or_else(|| self.malformed("it came without its file"));
        let mut file = next()?;
        if self.is_coming {
            let notices = next()?;
            return self.unpack_into(context, self.decompressed(Growing::new(file, notices))?);
        }
        file.seek(SeekFrom::Start(0))?;
        self.unpack_into(context, self.decompressed(file)?)
    }
}

/// Unpacks an archive into an upper, and fails as soon as `is_wanted` does. With a context, small files become objects.
fn unpack(
    job: &UnpackLayer,
    upper: &Path,
    below: Layers,
    archive: impl Read + Send,
    context: Option<&WorkerContext>,
    is_wanted: &dyn Fn() -> Result<(), JobError>,
) -> Result<(), JobError> {
    let (unpacked, found) = read_ahead(archive, |archive| {
        with_filing(context, &job.work, |filing| unpack_all(job, upper, below, archive, filing, is_wanted))
    });
    unpacked?;
    if found != job.diff_id {
        return Err(job.malformed(format!(
            "its archive has the SHA-256 `{found}`, but the image's configuration says `{}`",
            job.diff_id
        )));
    }
    Ok(())
}

/// Unpacks an archive, and reads it to its end.
fn unpack_all(
    job: &UnpackLayer,
    upper: &Path,
    below: Layers,
    archive: impl Read,
    filing: &mut Option<Filing<'_>>,
    is_wanted: &dyn Fn() -> Result<(), JobError>,
) -> Result<(), JobError> {
    let watch = Watch::new(job, upper, is_wanted);
    let mut archive = Watched { inner: archive, watch: &watch };
    let mut unpacking = Unpacking {
        job,
        watch: &watch,
        tree: Tree::open(upper)?,
        filing: filing.as_mut(),
        below,
        plain: HashSet::new(),
        directories: HashMap::new(),
        implied: HashSet::new(),
        deleted: BTreeSet::new(),
        opaque: BTreeSet::new(),
    };
    let unpacked = unpack_entries(&mut unpacking, &mut archive);
    // What the watch stopped looks like a file that could not be read.
    watch.stopped()?;
    unpacked?;
    unpacking.finish()?;
    // What is behind the archive's end belongs to its digest.
    std::io::copy(&mut archive, &mut std::io::sink()).map_err(|error| job.malformed(error))?;
    watch.stopped()
}

fn unpack_entries(unpacking: &mut Unpacking<'_, '_>, archive: &mut dyn Read) -> Result<(), JobError> {
    let (job, watch) = (unpacking.job, unpacking.watch);
    let mut entries = tar::Archive::new(Padded { inner: archive, position: 0 });
    let mut entries = entries.entries()?;
    loop {
        // Names and attributes are read into memory as long as they say that they are.
        watch.allowance.set(HEADERS_LIMIT);
        let padding = (BLOCK as u64 - watch.length.get() % BLOCK as u64) % BLOCK as u64;
        watch.headers.borrow_mut().clear();
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.map_err(|error| job.malformed(error))?;
        watch.allowance.set(u64::MAX);
        let headers = watch.headers.take();
        let headers = headers.get(usize::try_from(padding).unwrap_or_default()..).unwrap_or_default();
        let records = pax::records(headers).map_err(|reason| job.malformed(reason))?;
        watch.look().map_err(|error| job.malformed(error))?;
        let (begin, size) = (entry.raw_file_position(), entry.header().entry_size());
        let size = size.map_err(|error| job.malformed(error))?;
        let named = entry.path_bytes().into_owned();
        unpacking.add(&mut entry, &records).map_err(|error| job.of_entry(&named, error))?;
        if entry.header().entry_type().is_file() && watch.length.get() < begin.saturating_add(size) {
            return Err(job.malformed("its archive ends in the middle of a file"));
        }
        // So that only headers are left to read before the next one.
        std::io::copy(&mut entry, &mut std::io::sink()).map_err(|error| job.malformed(error))?;
    }
}

impl UnpackLayer {
    /// The archive in a file.
    fn decompressed(&self, file: impl Read + Send + 'static) -> std::io::Result<Box<dyn Read + Send>> {
        let file = BufReader::with_capacity(256 << 10, file);
        Ok(match self.compression {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(file)?),
        })
    }

    fn unpack_into(&self, context: &WorkerContext, archive: impl Read + Send) -> Result<(), JobError> {
        let upper = context.upper(&self.work);
        let below = Layers::new(context.content(), &self.below);
        let filing = (self.is_final && context.has_redirects()).then_some(context);
        unpack(self, &upper, below, archive, filing, &|| context.ensure_wanted(&self.work))
    }

    /// Why an entry could not be unpacked, with its name if that is for the archive to answer for.
    fn of_entry(&self, named: &[u8], error: JobError) -> JobError {
        let reasons = [(MISPLACED, "has no place"), (UNREAD, "cannot be read")];
        let Some((_, what)) = reasons.into_iter().find(|(kind, _)| *kind == error.kind) else { return error };
        self.malformed(format!("its entry `{}` {what}: {}", shown(Path::new(OsStr::from_bytes(named))), error.message))
    }

    fn malformed(&self, reason: impl std::fmt::Display) -> JobError {
        JobError::new(MALFORMED, format!("the layer `{}` cannot be unpacked: {reason}", self.name))
    }
}

/// Fills up the last block with zeros: some programs write none of an archive's end, and Docker takes that.
struct Padded<R> {
    inner: R,
    /// Bytes since the beginning of a block.
    position: usize,
}

impl<R: Read> Read for Padded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut count = self.inner.read(buffer)?;
        if count == 0 && self.position > 0 {
            count = buffer.len().min(BLOCK - self.position);
            buffer[..count].fill(0);
        }
        self.position = (self.position + count) % BLOCK;
        Ok(count)
    }
}

struct Unpacking<'a, 'context> {
    job: &'a UnpackLayer,
    watch: &'a Watch<'a>,
    tree: Tree,
    /// What makes objects of files, if they may be.
    filing: Option<&'a mut Filing<'context>>,
    below: Layers,
    /// Directories that lead nowhere else, be they of this layer or of those below.
    plain: HashSet<PathBuf>,
    /// Directories of the archive; they get their attributes last, because what is put into them changes their times.
    directories: HashMap<PathBuf, Attributes>,
    /// Directories that something of the archive is in, and all above them.
    implied: HashSet<PathBuf>,
    /// What the layers below have and this one does not.
    deleted: BTreeSet<PathBuf>,
    /// Directories of which the layers below have nothing here.
    opaque: BTreeSet<PathBuf>,
}

impl Unpacking<'_, '_> {
    fn add<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, records: &[Record]) -> Result<(), JobError> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let named = self.relative(&entry.path_bytes())?;
        let path = self.resolved(&named)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The image's root.
            if kind == EntryType::Directory {
                let attributes = self.attributes(entry, records)?;
                self.directories.insert(path, attributes);
            }
            return Ok(());
        };
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        self.imply(&parent);
        match name.as_bytes() {
            OPAQUE => {
                self.opaque.insert(parent);
                return Ok(());
            }
            name if name.starts_with(FOREIGN) => return Ok(()),
            name if name.starts_with(WHITEOUT) => {
                let deleted = &name[WHITEOUT.len()..];
                if matches!(deleted, b"" | b"." | b"..") {
                    return Err(self.job.malformed(format!("`{}` deletes nothing that has a name", path.display())));
                }
                self.deleted.insert(parent.join(OsStr::from_bytes(deleted)));
                return Ok(());
            }
            _ => {}
        }
        let attributes = self.attributes(entry, records)?;
        if entry.size() > 0 && has_no_contents(kind) {
            // Some programs skip them, and others take them for the next entry.
            return Err(self.job.malformed(format!("`{}` has contents, and is no file", path.display())));
        }
        if kind == EntryType::Directory {
            self.tree.directory(&path)?;
            self.directories.insert(path, attributes);
            return Ok(());
        }
        self.directories.remove(&path);
        self.plain.remove(&path);
        match kind {
            EntryType::Regular | EntryType::Continuous => {
                let is_sparse = records.iter().any(|(name, _)| name == OWN_SPARSE.as_bytes());
                let holes = if is_sparse { Holes::Kept } else { Holes::Written };
                match &mut self.filing {
                    Some(filing) if !is_sparse && Filing::takes(&attributes, entry.size()) => {
                        let directory = self.tree.vacate(&path)?;
                        let size = entry.size();
                        filing.file(&directory, &path, &attributes, size, entry)
                    }
                    _ => self.write(&path, &attributes, entry, holes),
                }
            }
            EntryType::GNUSparse if entry.size() > SPARSE_LIMIT => {
                let size = entry.size();
                Err(self.job.malformed(format!("`{}` says that it has {size} bytes with its holes", path.display())))
            }
            EntryType::GNUSparse => self.write(&path, &attributes, &mut Looked::new(entry, self.watch), Holes::Kept),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().filter(|target| !target.is_empty());
                let target = target.ok_or_else(|| self.job.malformed(format!("`{}` leads nowhere", path.display())))?;
                self.tree.symlink(&path, OsStr::from_bytes(&target), &attributes)
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = self.relative(&target)?;
                let target = self.resolved(&target)?;
                self.hard_link(&path, &target, &attributes)
            }
            EntryType::Fifo => self.tree.pipe(&path, &attributes),
            // There are none in views; containers have those that they need.
            EntryType::Block | EntryType::Char => Ok(()),
            other => Err(self.job.malformed(format!("`{}` is of an unknown kind: {other:?}", path.display()))),
        }
    }

    /// Writes a file into the upper.
    fn write(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        contents: &mut dyn Read,
        holes: Holes,
    ) -> Result<(), JobError> {
        let inode = self.tree.file(path, attributes, contents, holes)?;
        if let Some(filing) = &mut self.filing {
            filing.forget(inode);
        }
        Ok(())
    }

    /// Notes that something is in a directory.
    fn imply(&mut self, directory: &Path) {
        for directory in directory.ancestors() {
            // Those above one that is known are known as well.
            if self.implied.contains(directory) {
                return;
            }
            self.implied.insert(directory.to_owned());
        }
    }

    /// Where a path leads whose directories may be links of layers below. Links of this layer are followed as they are met.
    fn resolved(&mut self, path: &Path) -> Result<PathBuf, JobError> {
        let Some(name) = path.file_name() else { return Ok(path.to_owned()) };
        let mut left: Vec<OsString> = parts(path.parent().unwrap_or(Path::new("")));
        let (mut resolved, mut followed) = (PathBuf::new(), 0);
        while let Some(part) = left.pop() {
            if part == ".." {
                resolved.pop();
                continue;
            }
            let next = resolved.join(&part);
            let target = if self.plain.contains(&next) || self.tree.exists(&next)? {
                None
            } else {
                self.entry_below(&next)?.and_then(|below| std::fs::read_link(below.on_disk()).ok())
            };
            let Some(target) = target else {
                self.plain.insert(next.clone());
                resolved = next;
                continue;
            };
            followed += 1;
            if followed > MOST_LINKS {
                return Err(self.job.malformed(format!("`{}` leads in a circle", path.display())));
            }
            if target.is_absolute() {
                resolved = PathBuf::new();
            }
            left.extend(parts(&target));
        }
        Ok(resolved.join(name))
    }

    /// Another name of a file of this layer, or of one below, which then lies in this one as well.
    fn hard_link(&mut self, path: &Path, target: &Path, attributes: &Attributes) -> Result<(), JobError> {
        if self.tree.hard_link(path, target)? {
            return Ok(());
        }
        match self.entry_below(target)? {
            Some(file) if file.on_disk().symlink_metadata().is_ok_and(|status| status.is_file()) => {
                self.write(target, attributes, &mut file.open()?, Holes::Kept)?;
                self.imply(target.parent().unwrap_or(Path::new("")));
                self.tree.hard_link(path, target).map(drop)
            }
            _ => Err(self.job.malformed(format!(
                "`{}` is another name of `{}`, which is no file",
                path.display(),
                target.display()
            ))),
        }
    }

    /// What the layers below have at a path.
    fn entry_below(&mut self, path: &Path) -> Result<Option<lamina_store::LayerPath>, JobError> {
        Ok(match self.below.entry(path)? {
            Entry::OfBase(path) | Entry::Above(path) => Some(path),
            Entry::Absent | Entry::Elsewhere => None,
        })
    }

    /// What the image's root is where the archive does not say it: as it is below, and at the bottom of one fixed time. The
    /// time of unpacking would make every copy of a layer another one.
    fn root_below(&mut self) -> Result<Attributes, JobError> {
        if let Directory::Present(roots) = self.below.directory("/")?
            && let Some(below) = roots.top_down().next()
        {
            return Ok(Attributes::of(&below.on_disk().symlink_metadata()?));
        }
        Ok(Attributes::of_root())
    }

    /// Deletions and attributes of directories.
    fn finish(mut self) -> Result<(), JobError> {
        for path in std::mem::take(&mut self.deleted) {
            if self.tree.is_directory(&path)? {
                // It was deleted and made anew.
                self.opaque.insert(path);
            } else if !self.tree.exists(&path)? && self.entry_below(&path)?.is_some() {
                self.tree.delete(&path)?;
            }
        }
        for path in &self.opaque {
            self.tree.directory(path)?;
            self.tree.set_opaque(path)?;
        }
        for path in std::mem::take(&mut self.implied) {
            if path.as_os_str().is_empty() || self.directories.contains_key(&path) {
                continue;
            }
            if let Some(below) = self.entry_below(&path)? {
                let status = below.on_disk().symlink_metadata()?;
                if status.is_dir() {
                    self.directories.insert(path, Attributes::of(&status));
                }
            }
        }
        let root = PathBuf::new();
        if !self.directories.contains_key(&root) {
            let attributes = self.root_below()?;
            self.directories.insert(root, attributes);
        }
        // Children first: nothing of theirs changes their parents afterwards.
        let mut directories: Vec<_> = std::mem::take(&mut self.directories).into_iter().collect();
        directories.sort_unstable_by(|(left, _), (right, _)| right.cmp(left));
        directories.iter().try_for_each(|(path, attributes)| self.tree.set_directory(path, attributes))
    }

    fn attributes<R: Read>(&self, entry: &tar::Entry<'_, R>, records: &[Record]) -> Result<Attributes, JobError> {
        let malformed = |error: std::io::Error| self.job.malformed(error);
        let header = entry.header();
        // The largest stands for none.
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        let id = |number: u64| {
            id(number).ok_or_else(|| self.job.malformed(format!("`{number}` is too large for the id of an owner")))
        };
        let mut attributes = Attributes {
            mode: header.mode().map_err(malformed)? & 0o7777,
            uid: id(header.uid().map_err(malformed)?)?,
            gid: id(header.gid().map_err(malformed)?)?,
            seconds: i64::try_from(header.mtime().map_err(malformed)?).unwrap_or_default(),
            nanoseconds: 0,
            extended: Vec::new(),
        };
        let mut length = 0;
        for (name, value) in records {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            let text = || std::str::from_utf8(value).unwrap_or_default();
            if let Some(attribute) = name.strip_prefix(ATTRIBUTE).filter(|name| is_kept(name)) {
                length += value.len();
                if length > ATTRIBUTE_LIMIT {
                    return Err(self.job.malformed("a file has more extended attributes than Linux allows"));
                }
                attributes.extended.push((attribute.to_owned(), value.clone()));
            } else if name == "mtime" {
                (attributes.seconds, attributes.nanoseconds) = time(text()).unwrap_or_default();
            } else if name == "uid" {
                attributes.uid = id(text().parse().map_err(|_| self.job.malformed("an owner is no number"))?)?;
            } else if name == "gid" {
                attributes.gid = id(text().parse().map_err(|_| self.job.malformed("a group is no number"))?)?;
            } else if name.starts_with(SPARSE) {
                let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                return Err(self.job.malformed(format!(
                    "`{path}` is a sparse file in the form of POSIX archives, which is not read: make the archive with \
                     `--format=gnu`, or without `--sparse`"
                )));
            }
        }
        Ok(attributes)
    }

    /// A path of the archive, relative to the root.
    fn relative(&self, path: &[u8]) -> Result<PathBuf, JobError> {
        let mut parts = PathBuf::new();
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    let shown = OsString::from_vec(path.to_vec());
                    return Err(self.job.malformed(format!("`{}` leads out of the image", shown.display())));
                }
                _ if part.contains(&0) => return Err(self.job.malformed("a name has a zero byte")),
                part => parts.push(OsStr::from_bytes(part)),
            }
        }
        Ok(parts)
    }
}

/// Whether an entry of this kind ends with its header.
fn has_no_contents(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Directory
            | EntryType::Symlink
            | EntryType::Link
            | EntryType::Fifo
            | EntryType::Block
            | EntryType::Char
    )
}

/// The parts of a path, the last first.
fn parts(path: &Path) -> Vec<OsString> {
    let is_part = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(is_part).rev().map(|part| part.as_os_str().to_owned()).collect()
}

/// Whether an extended attribute belongs to the file rather than to a machine's policy.
fn is_kept(name: &str) -> bool {
    name.starts_with("user.")
        || ["security.capability", "system.posix_acl_access", "system.posix_acl_default"].contains(&name)
}

/// Seconds and nanoseconds of a decimal number.
fn time(text: &str) -> Option<(i64, i64)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (whole, nanoseconds): (i64, i64) = (seconds.parse().ok()?, digits.parse().ok()?);
    // Before 1970, the fraction leads further back.
    if seconds.starts_with('-') && nanoseconds > 0 {
        return Some((whole - 1, 1_000_000_000 - nanoseconds));
    }
    Some((whole, nanoseconds))
}

#[cfg(test)]
mod filing_tests;
#[cfg(test)]
mod tests;
