//! Archives whose bytes depend on nothing but what is in them: POSIX `ustar`, with `pax` records for what that cannot say.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use lamina_store::{Metadata, Timestamp};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use tar::{EntryType, Header};

use crate::unpack::OWN_SPARSE;

/// Bytes of the blocks that archives consist of.
const BLOCK: usize = 512;
/// Largest owner of a `ustar` header: seven octal digits.
const LARGEST_OWNER: u32 = 0o777_7777;
/// Largest size and time of a `ustar` header: eleven octal digits.
const LARGEST_NUMBER: u64 = 0o777_7777_7777;
/// Longest name of a `ustar` header.
const LONGEST_NAME: usize = 100;
/// The name of headers that hold `pax` records, as Python has it.
const RECORDS_NAME: &str = "././@PaxHeader";
/// Bytes that are copied at once.
const BUFFER_LENGTH: usize = 256 << 10;
/// Bytes of a file from which on its pages are lent to a pipe instead of being copied into it.
const LENT_FROM: u64 = 64 << 10;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Directory,
    /// Whether it has holes is told in a record of our own, and its bytes are there all the same.
    File {
        size: u64,
        is_sparse: bool,
    },
    HardLink {
        target: &'a [u8],
    },
    Symlink {
        target: &'a [u8],
    },
    Fifo,
    Device {
        is_block: bool,
        major: u32,
        minor: u32,
    },
}

/// Which times entries have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Times {
    /// Those of the files.
    Kept,
    /// The time of packages, so that what has the same contents has the same bytes.
    Constant,
}

/// An archive that is being written.
pub(super) struct Writer<W: Write> {
    inner: W,
    times: Times,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, times: Times::Kept, buffer: vec![0; BUFFER_LENGTH] }
    }

    /// Which times the following entries have.
    pub(super) fn set_times(&mut self, times: Times) {
        self.times = times;
    }

    /// Writes the header of an entry at a path relative to the root. The bytes of a file follow with [`Self::contents`].
    pub(super) fn entry(&mut self, path: &[u8], meta: &Metadata, kind: Kind<'_>) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let mut records = Records::default();
        let size = if let Kind::File { size, .. } = kind { size } else { 0 };
        let (entry_type, name) = match kind {
            Kind::Directory if path.is_empty() => (EntryType::Directory, b"./".to_vec()),
            Kind::Directory => (EntryType::Directory, [path, b"/"].concat()),
            Kind::File { .. } => (EntryType::Regular, path.to_vec()),
            Kind::HardLink { .. } => (EntryType::Link, path.to_vec()),
            Kind::Symlink { .. } => (EntryType::Symlink, path.to_vec()),
            Kind::Fifo => (EntryType::Fifo, path.to_vec()),
            Kind::Device { is_block: true, .. } => (EntryType::Block, path.to_vec()),
            Kind::Device { is_block: false, .. } => (EntryType::Char, path.to_vec()),
        };
        header.set_entry_type(entry_type);
        header.set_mode(meta.mode);
        let ustar = header.as_ustar_mut().ok_or_else(|| io::Error::other("no ustar header"))?;
        put(&mut ustar.name, &name, "path", &mut records);
        if let Kind::HardLink { target } | Kind::Symlink { target } = kind {
            put(&mut ustar.linkname, target, "linkpath", &mut records);
        }
        let owner = |id: u32, name: &str, records: &mut Records| {
            if id > LARGEST_OWNER {
                records.add(name, id.to_string().as_bytes());
                return 0;
            }
            u64::from(id)
        };
        header.set_uid(owner(meta.uid, "uid", &mut records));
        header.set_gid(owner(meta.gid, "gid", &mut records));
        if size > LARGEST_NUMBER {
            records.add("size", size.to_string().as_bytes());
        }
        header.set_size(if size > LARGEST_NUMBER { 0 } else { size });
        header.set_mtime(self.time(meta.modified, &mut records));
        if let Kind::Device { major, minor, .. } = kind {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        if matches!(kind, Kind::File { is_sparse: true, .. }) {
            records.add(OWN_SPARSE, b"1");
        }
        for (name, value) in &meta.xattrs {
            records.add_bytes(&[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        self.records(&records)?;
        header.set_cksum();
        self.inner.write_all(header.as_bytes())
    }

    /// Writes the bytes of the file whose header was written last.
    pub(super) fn contents(&mut self, size: u64, reader: &mut dyn Read) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = reader.read(&mut self.buffer[..most])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.inner.write_all(&self.buffer[..count])?;
            left -= count as u64;
        }
        self.pad(size)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.inner.write_all(&[0; 2 * BLOCK])?;
        self.inner.flush()
    }

    /// The time for a header; what it cannot say goes into a record.
    fn time(&self, modified: Timestamp, records: &mut Records) -> u64 {
        let time = if self.times == Times::Constant { Timestamp::PACKAGE } else { modified };
        let seconds = u64::try_from(time.seconds).ok().filter(|seconds| *seconds <= LARGEST_NUMBER);
        if seconds.is_none() || time.nanoseconds > 0 {
            records.add("mtime", decimal(time).as_bytes());
        }
        seconds.unwrap_or_default()
    }

    fn records(&mut self, records: &Records) -> io::Result<()> {
        if records.bytes.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_path(RECORDS_NAME)?;
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.bytes.len() as u64);
        header.set_cksum();
        self.inner.write_all(header.as_bytes())?;
        self.inner.write_all(&records.bytes)?;
        self.pad(records.bytes.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let block = BLOCK as u64;
        let padding = usize::try_from((block - size % block) % block).unwrap_or_default();
        self.inner.write_all(&[0; BLOCK][..padding])
    }
}

impl Writer<BufWriter<File>> {
    /// As [`Self::contents`], from a file, whose pages need not be copied on the way into a pipe.
    pub(super) fn contents_of(&mut self, size: u64, file: &mut File) -> io::Result<()> {
        if size < LENT_FROM {
            return self.contents(size, file);
        }
        self.inner.flush()?;
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            match splice(&*file, None, self.inner.get_ref(), None, most, SpliceFlags::MORE) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => left -= count as u64,
                Err(Errno::INTR) => {}
                // One of both is of a kind that does not have it.
                Err(Errno::INVAL) if left == size => return self.contents(size, file),
                Err(errno) => return Err(errno.into()),
            }
        }
        self.pad(size)
    }

    /// Whether what was written can be written over, and nothing else would be.
    pub(super) fn can_go_back(&mut self) -> io::Result<bool> {
        self.inner.flush()?;
        let file = self.inner.get_mut();
        let is_appended = rustix::fs::fcntl_getfl(&*file)?.contains(rustix::fs::OFlags::APPEND);
        let metadata = file.metadata()?;
        Ok(metadata.is_file() && !is_appended && file.stream_position()? == metadata.len())
    }

    /// Writes a file of which `write` only knows the path when it has written the bytes: the header is put before them then. Where
    /// it answers none, nothing is left of it. [`Self::can_go_back`] is to be so.
    pub(super) fn file_before_its_name<T, E: From<io::Error>>(
        &mut self,
        meta: &Metadata,
        mut write: impl FnMut(&mut File) -> Result<(Option<String>, T), E>,
    ) -> Result<T, E> {
        self.inner.flush()?;
        let begin = self.inner.get_mut().stream_position()?;
        let mut room = BLOCK;
        loop {
            let file = self.inner.get_mut();
            let contents = begin + room as u64;
            file.seek(SeekFrom::Start(contents))?;
            let (path, answer) = write(file)?;
            let Some(path) = path else {
                file.set_len(begin)?;
                file.seek(SeekFrom::Start(begin))?;
                return Ok(answer);
            };
            let size = file.stream_position()? - contents;
            let mut header = Writer { inner: Vec::new(), times: self.times, buffer: Vec::new() };
            header.entry(path.as_bytes(), meta, Kind::File { size, is_sparse: false })?;
            if header.inner.len() == room {
                file.write_all_at(&header.inner, begin)?;
                self.pad(size)?;
                return Ok(answer);
            }
            // The size of a very large one does not fit into a header by itself.
            room = header.inner.len();
        }
    }
}

/// Puts a name into a header, and into a record where it is too long.
fn put(field: &mut [u8; LONGEST_NAME], name: &[u8], record: &str, records: &mut Records) {
    let length = name.len().min(LONGEST_NAME);
    field[..length].copy_from_slice(&name[..length]);
    if name.len() > LONGEST_NAME {
        records.add(record, name);
    }
}

/// Seconds as a decimal number, without zeros at its end.
fn decimal(time: Timestamp) -> String {
    let Timestamp { seconds, nanoseconds } = time;
    // Before 1970 the fraction leads back to the next whole second.
    let (sign, seconds, fraction) = match (seconds < 0, nanoseconds) {
        (true, 1..) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
        (is_negative, _) => (if is_negative { "-" } else { "" }, seconds.unsigned_abs(), nanoseconds),
    };
    let text = format!("{sign}{seconds}.{fraction:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Records of the `pax` form: `length name=value`, and a line's end.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
}

impl Records {
    fn add(&mut self, name: &str, value: &[u8]) {
        if std::str::from_utf8(value).is_err() && !self.bytes.starts_with(Self::BINARY) {
            // Names are UTF-8 otherwise. It counts for what follows it.
            self.bytes.splice(0..0, Self::BINARY.iter().copied());
        }
        self.add_bytes(name.as_bytes(), value);
    }

    const BINARY: &[u8] = b"21 hdrcharset=BINARY\n";

    fn add_bytes(&mut self, name: &[u8], value: &[u8]) {
        // The length counts its own digits.
        let rest = name.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length = length.to_string().len() + rest;
        }
        self.bytes.extend_from_slice(length.to_string().as_bytes());
        for part in [b" ", name, b"=", value, b"\n"] {
            self.bytes.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Writer<&mut Vec<u8>>) -> io::Result<()>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        write(&mut writer).unwrap();
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn what_a_header_cannot_say_is_in_records() {
        let long = [b"directory/".repeat(12), b"name-\xff".to_vec()].concat();
        let meta = Metadata {
            mode: 0o4755,
            uid: 3_000_000,
            gid: 7,
            modified: Timestamp { seconds: -2, nanoseconds: 500_000_000 },
            xattrs: [(b"user.a".to_vec(), b"x\0=".to_vec())].into(),
        };
        let bytes = written(|writer| {
            writer.entry(&long, &meta, Kind::File { size: 3, is_sparse: false })?;
            writer.contents(3, &mut &b"abc"[..])?;
            writer.entry(b"link", &Metadata::root_owned(0o777), Kind::HardLink { target: &long })
        });
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut entries = archive.entries().unwrap();
        let mut file = entries.next().unwrap().unwrap();
        assert_eq!(file.path_bytes(), long);
        assert_eq!(file.header().mode().unwrap(), 0o4755);
        let records: Vec<_> = file.pax_extensions().unwrap().unwrap().map(Result::unwrap).collect();
        let value = |name: &str| records.iter().find(|record| record.key() == Ok(name)).unwrap().value_bytes();
        assert_eq!(value("mtime"), b"-1.5");
        assert_eq!(value("uid"), b"3000000");
        assert_eq!(value("SCHILY.xattr.user.a"), b"x\0=");
        assert_eq!(value("hdrcharset"), b"BINARY");
        drop(records);
        let mut contents = Vec::new();
        file.read_to_end(&mut contents).unwrap();
        assert_eq!(contents, b"abc");
        let link = entries.next().unwrap().unwrap();
        assert_eq!(link.link_name_bytes().unwrap(), long);
        assert!(entries.next().is_none());
        assert_eq!(bytes.len() % BLOCK, 0);
    }

    #[test]
    fn records_say_their_own_length() {
        let mut records = Records::default();
        records.add("path", &[b'a'; 87]);
        records.add_bytes(b"SCHILY.xattr.user.a", b"1\n2");
        assert!(records.bytes.starts_with(b"96 path=aaa"));
        assert!(records.bytes.ends_with(b"a\n27 SCHILY.xattr.user.a=1\n2\n"));
    }

    #[test]
    fn times_are_decimal() {
        let time = |seconds, nanoseconds| decimal(Timestamp { seconds, nanoseconds });
        assert_eq!(time(12, 0), "12");
        assert_eq!(time(12, 340_000_000), "12.34");
        assert_eq!(time(-1, 999_999_999), "-0.000000001");
        assert_eq!(time(-5, 0), "-5");
        assert_eq!(time(0, 1), "0.000000001");
    }

    #[test]
    fn a_file_may_be_named_when_it_is_written() {
        let meta = Metadata::root_owned(0o644);
        let file = tempfile::tempfile().unwrap();
        let mut writer = Writer::new(BufWriter::new(file.try_clone().unwrap()));
        writer.entry(b"first", &meta, Kind::File { size: 3, is_sparse: false }).unwrap();
        writer.contents(3, &mut &b"abc"[..]).unwrap();
        assert!(writer.can_go_back().unwrap());
        let mut put = |name: Option<&str>, bytes: &[u8]| {
            writer
                .file_before_its_name(&meta, |file| {
                    file.write_all(bytes)?;
                    io::Result::Ok((name.map(str::to_owned), bytes.len()))
                })
                .unwrap()
        };
        assert_eq!(put(Some("second"), &[b'x'; 700]), 700);
        put(None, &[b'y'; 5000]);
        put(Some("third"), b"z");
        writer.finish().unwrap();
        let expected = written(|writer| {
            for (name, bytes) in [("first", &b"abc"[..]), ("second", &[b'x'; 700]), ("third", b"z")] {
                writer.entry(name.as_bytes(), &meta, Kind::File { size: bytes.len() as u64, is_sparse: false })?;
                writer.contents(bytes.len() as u64, &mut &bytes[..])?;
            }
            Ok(())
        });
        let mut bytes = vec![0; expected.len() + 1];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), expected.len());
        assert!(bytes[..expected.len()] == expected);
    }

    #[test]
    fn a_file_that_is_too_large_for_a_header_gets_its_records_as_well() {
        let meta = Metadata::root_owned(0o644);
        let file = tempfile::tempfile().unwrap();
        let mut writer = Writer::new(BufWriter::new(file.try_clone().unwrap()));
        let size = LARGEST_NUMBER + 5;
        let made = writer.file_before_its_name(&meta, |file| {
            // All of it is a hole.
            file.seek(SeekFrom::Current(size.cast_signed()))?;
            io::Result::Ok((Some("large".to_owned()), ()))
        });
        made.unwrap();
        writer.entry(b"last", &meta, Kind::Directory).unwrap();
        writer.finish().unwrap();
        (&file).seek(SeekFrom::Start(0)).unwrap();
        let mut archive = tar::Archive::new(file);
        let entries = archive.entries_with_seek().unwrap().map(Result::unwrap);
        let found: Vec<_> = entries.map(|entry| (entry.path_bytes().into_owned(), entry.size())).collect();
        assert_eq!(found, [(b"large".to_vec(), size), (b"last/".to_vec(), 0)]);
    }

    #[test]
    fn only_what_is_ours_alone_is_gone_back_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("archive");
        fs_err::write(&path, b"here before").unwrap();
        let can_go_back = |file: File| Writer::new(BufWriter::new(file)).can_go_back().unwrap();
        let open = |append| fs_err::OpenOptions::new().write(true).append(append).open(&path).unwrap().into_file();
        assert!(!can_go_back(open(false)));
        assert!(!can_go_back(open(true)));
        let (_reader, pipe) = io::pipe().unwrap();
        assert!(!can_go_back(File::from(std::os::fd::OwnedFd::from(pipe))));
        assert!(can_go_back(fs_err::File::create(&path).unwrap().into_file()));
    }

    #[test]
    fn pages_of_files_are_lent_to_pipes() {
        let sample: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).chain(*b"odd").collect();
        let write = |output: File| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&sample).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            let size = sample.len() as u64;
            let mut writer = Writer::new(BufWriter::new(output));
            writer.entry(b"a", &Metadata::root_owned(0o644), Kind::File { size, is_sparse: false }).unwrap();
            writer.contents_of(size, &mut file).unwrap();
            assert_eq!(writer.contents_of(size, &mut file).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        };
        let expected = written(|writer| {
            let size = sample.len() as u64;
            writer.entry(b"a", &Metadata::root_owned(0o644), Kind::File { size, is_sparse: false })?;
            writer.contents(size, &mut &sample[..])
        });
        let expected = &expected[..expected.len() - 2 * BLOCK];
        let (mut reader, pipe) = io::pipe().unwrap();
        let writing = std::thread::scope(|scope| {
            scope.spawn(|| write(File::from(std::os::fd::OwnedFd::from(pipe))));
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        assert!(writing.unwrap() == expected);
        let mut file = tempfile::tempfile().unwrap();
        write(file.try_clone().unwrap());
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == expected);
    }

    #[test]
    fn a_short_file_is_no_archive() {
        let mut writer = Writer::new(Vec::new());
        writer.entry(b"a", &Metadata::root_owned(0o644), Kind::File { size: 5, is_sparse: false }).unwrap();
        assert_eq!(writer.contents(5, &mut &b"abc"[..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn constant_times_leave_no_trace_of_the_files() {
        let entry = |seconds| {
            let modified = Timestamp { seconds, nanoseconds: 5 };
            let meta = Metadata { modified, ..Metadata::root_owned(0o755) };
            written(|writer| {
                writer.set_times(Times::Constant);
                writer.entry(b"", &meta, Kind::Directory)
            })
        };
        assert_eq!(entry(5), entry(70_000));
    }
}
