//! Files that become objects at once make the same layers as those that are written first and read for the commit.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use data_encoding::HEXLOWER;
use lamina_image::Digest;
use lamina_store::{CommitRules, JobTable, Layout, Store, worker_main};
use sha2::{Digest as _, Sha256};

use super::tests::{LOCAL, archive, directory, file, header, link, raw, records};
use super::*;

/// A store of this process.
struct Stores {
    store: Store,
    content: PathBuf,
    _directory: tempfile::TempDir,
}

impl Stores {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&directory.path().join("store")).unwrap();
        let content = layout.content();
        let (engine, socket) = UnixStream::pair().unwrap();
        let jobs = crate::jobs(JobTable::new());
        std::thread::spawn({
            let content = content.clone();
            move || worker_main(socket, &content, jobs, || ())
        });
        Self { store: Store::open(layout, engine).unwrap(), content, _directory: directory }
    }

    /// The layer that comes of an archive, and the bytes that were new with it.
    fn layer(&self, archive: &[u8], is_final: bool) -> Result<(Digest, u64), JobError> {
        let mut source = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut source, archive).unwrap();
        let work = self.store.new_work().unwrap();
        let job = UnpackLayer {
            work: work.id().to_owned(),
            below: Stack::new(),
            compression: Compression::None,
            pieces: Vec::new(),
            is_coming: false,
            diff_id: HEXLOWER.encode(&Sha256::digest(archive)),
            name: "sha256:1234".to_owned(),
            reserve: 0,
            is_final,
        };
        self.store.job(&job, &[source.as_fd()])?;
        let committed = self.store.commit(&work, CommitRules::default()).unwrap();
        assert_eq!(self.store.verify(&committed.digest).unwrap(), Vec::<String>::new());
        Ok((committed.digest, committed.bytes_new))
    }
}

/// The object that holds these bytes.
fn object(content: &Path, bytes: &[u8]) -> PathBuf {
    let entries = |directory: PathBuf| fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut objects = entries(content.join("objects")).flat_map(entries);
    objects.find(|path| fs_err::read(path).unwrap() == bytes).unwrap()
}

/// Whether an archive makes the same layer in both ways: what comes of it, and the bytes that were new.
fn both(entries: &[Vec<u8>]) -> Result<(Digest, u64), JobError> {
    let archive = archive(entries);
    let written = Stores::new().layer(&archive, false);
    let filed = Stores::new().layer(&archive, true);
    match (&written, &filed) {
        (Ok(written), Ok(filed)) => assert_eq!(written, filed),
        (Err(_), Err(_)) => {}
        _ => panic!("{written:?} is not {filed:?}"),
    }
    filed
}

fn with_mode(mut header: tar::Header, mode: u32, contents: &[u8]) -> Vec<u8> {
    header.set_mode(mode);
    header.set_cksum();
    raw(&header, contents)
}

#[test]
fn files_of_all_lengths_are_filed() {
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut entries = vec![directory(b"d"), directory(b"copies"), file(b"first", b"of its owner")];
    entries.push(file(b"d/large", &large));
    entries.push(file(b"d/zeros", &vec![0; 4 << 20]));
    entries.extend((0..500).map(|index: u32| file(format!("d/{index}").as_bytes(), &index.pow(2).to_le_bytes())));
    entries.extend((0..300).map(|index| file(format!("copies/{index}").as_bytes(), b"the same")));
    entries.push(file(b"empty", b""));
    entries.push(with_mode(header(EntryType::Regular, b"setuid", 1), 0o4755, b"x"));
    entries.extend([records(LOCAL, &[("mtime", b"99999999999.123456789")]), file(b"late", b"late")]);
    entries.extend([records(LOCAL, &[("mtime", b"-5.25")]), file(b"early", b"early")]);
    let (_, bytes_new) = both(&entries).unwrap();
    assert!(bytes_new > 16_000_000);
}

#[test]
fn later_entries_replace_files_on_their_way() {
    let mut entries = vec![file(b"first", b"of its owner"), directory(b"d"), link(EntryType::Symlink, b"l", b"d")];
    for index in 0..100 {
        let path = |directory: &str, name: &str| format!("{directory}/{name}{index}").into_bytes();
        entries.push(file(&path("d", "twice"), b"not this"));
        entries.push(file(&path("d", "twice"), b"this"));
        entries.push(file(&path("d", "alias"), b"not this"));
        entries.push(file(&path("l", "alias"), b"this one"));
        entries.push(file(&path("d", "link"), b"not a file"));
        entries.push(link(EntryType::Symlink, &path("d", "link"), b"elsewhere"));
        entries.push(file(&path("d", "directory"), b"not a file"));
        entries.push(directory(&path("d", "directory")));
        entries.push(file(&path("d", &format!("directory{index}/inside")), b"kept"));
        entries.push(file(&path("d", "made"), b"this as well"));
        entries.push(link(EntryType::Link, &path("d", "other"), &path("d", "made")));
        entries.push(file(&path("d", "made"), b"and this"));
        entries.push(file(&path("d", "marked"), b"not this"));
        entries.push(records(LOCAL, &[("SCHILY.xattr.user.mark", b"x")]));
        entries.push(file(&path("d", "marked"), b"this with a mark"));
        entries.push(file(&path("t", "deep"), b"goes with its directory"));
        entries.push(file(b"t", b"a file"));
        entries.push(directory(b"t"));
    }
    for _ in 0..2 {
        both(&entries).unwrap();
    }
}

#[test]
fn other_names_of_filed_files_are_links() {
    let mut entries = vec![file(b"first", b"of its owner"), file(b"b", b"bytes"), file(b"same", b"bytes")];
    entries.push(link(EntryType::Link, b"a", b"b"));
    entries.push(link(EntryType::Link, b"c", b"a"));
    entries.push(directory(b"etc"));
    entries.push(file(b"etc/file", b"below etc"));
    entries.push(link(EntryType::Link, b"etc/link", b"etc/file"));
    both(&entries).unwrap();
}

#[test]
fn archives_that_are_refused_are_refused_in_both_ways() {
    let first = file(b"first", b"of its owner");
    both(&[first.clone(), file(b"f", b"1"), file(b"f/g", b"2")]).unwrap_err();
    both(&[first.clone(), file(b"f", b"1"), link(EntryType::Link, b"g", b"missing")]).unwrap_err();
    let announced = header(EntryType::Regular, b"cut", 5_000_000);
    both(&[first.clone(), raw(&announced, b"short")]).unwrap_err();
    let announced = header(EntryType::Regular, b"cut", 500_000);
    both(&[first, raw(&announced, b"short")]).unwrap_err();
}

#[test]
fn damaged_objects_are_replaced() {
    let stores = Stores::new();
    let bytes = b"as they should be";
    let archive = archive(&[file(b"f", bytes)]);
    let (digest, _) = stores.layer(&archive, true).unwrap();
    let object = object(&stores.content, bytes);
    let time = fs_err::metadata(&object).unwrap().modified().unwrap();
    fs_err::write(&object, b"as they should no").unwrap();
    let damaged = fs_err::OpenOptions::new().write(true).open(&object).unwrap();
    damaged.set_modified(time).unwrap();
    assert_eq!(stores.layer(&archive, true).unwrap().0, digest);
    assert_eq!(fs_err::read(&object).unwrap(), bytes);
}
