//! Archives that were made to do harm, and what becomes of them.

use std::cell::Cell;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use lamina_ground::EnvVars;
use sha2::{Digest as _, Sha256};

use super::*;

/// A directory around everything: what is written outside of the upper shows in it.
struct Place {
    directory: tempfile::TempDir,
    below: Vec<String>,
    reserve: u64,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs_err::create_dir(directory.path().join("upper")).unwrap();
        fs_err::write(directory.path().join("canary"), "alive").unwrap();
        Self { directory, below: Vec::new(), reserve: 0 }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Makes what was unpacked a layer below.
    fn settle(&mut self) {
        let name = format!("below{}", self.below.len());
        fs_err::rename(self.path("upper"), self.path(&name)).unwrap();
        fs_err::create_dir(self.path("upper")).unwrap();
        self.below.insert(0, name);
    }

    fn unpack(&self, archive: &[u8]) -> Result<(), JobError> {
        self.unpack_stream(archive, &HEXLOWER.encode(&Sha256::digest(archive)), &|| Ok(()))
    }

    fn unpack_stream(
        &self,
        archive: impl Read + Send,
        diff_id: &str,
        is_wanted: &dyn Fn() -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        let job = UnpackLayer {
            work: String::new(),
            below: Stack::new(),
            compression: Compression::None,
            pieces: Vec::new(),
            is_coming: false,
            diff_id: diff_id.to_owned(),
            name: "sha256:1234".to_owned(),
            reserve: self.reserve,
            is_final: false,
        };
        let below = Stack::from_top_down(self.below.iter().map(|name| StorePath::from(name.as_str())));
        let unpacked =
            unpack(&job, &self.path("upper"), Layers::new(self.directory.path(), &below), archive, None, is_wanted);
        assert_eq!(fs_err::read(self.path("canary")).unwrap(), b"alive");
        let known = |name: &OsStr| name == "upper" || name == "canary" || name.as_bytes().starts_with(b"below");
        let mut names = fs_err::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.all(|name| known(&name)));
        unpacked
    }

    /// What is said of an archive that is refused.
    fn refuses(&self, archive: &[u8]) -> String {
        let error = self.unpack(archive).unwrap_err();
        assert_eq!(error.kind, MALFORMED, "{error}");
        error.message
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs_err::read(self.path("upper").join(path)).unwrap()
    }
}

pub(super) fn header(kind: EntryType, path: &[u8], size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(rustix::process::getuid().as_raw().into());
    header.set_gid(rustix::process::getgid().as_raw().into());
    header.set_mtime(1_000_000_000);
    header.set_size(size);
    let length = path.len().min(100);
    header.as_old_mut().name[..length].copy_from_slice(&path[..length]);
    header.set_cksum();
    header
}

/// The bytes of an entry, as they are in an archive.
pub(super) fn raw(header: &tar::Header, contents: &[u8]) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(contents);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

pub(super) fn file(path: &[u8], contents: &[u8]) -> Vec<u8> {
    raw(&header(EntryType::Regular, path, contents.len() as u64), contents)
}

pub(super) fn directory(path: &[u8]) -> Vec<u8> {
    let mut header = header(EntryType::Directory, path, 0);
    header.set_mode(0o755);
    header.set_cksum();
    raw(&header, b"")
}

pub(super) fn link(kind: EntryType, path: &[u8], target: &[u8]) -> Vec<u8> {
    let mut header = header(kind, path, 0);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
    header.set_cksum();
    raw(&header, b"")
}

/// A header of the archive's own with records about the next entry, or about all.
pub(super) fn records(kind: EntryType, records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in records {
        let rest = name.len() + value.len() + 3;
        let length = (rest..rest + 20).find(|length| rest + length.to_string().len() == *length).unwrap();
        text.extend_from_slice(format!("{length} {name}=").as_bytes());
        text.extend_from_slice(value);
        text.push(b'\n');
    }
    raw(&header(kind, b"records", text.len() as u64), &text)
}

pub(super) fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 2 * BLOCK]].concat()
}

pub(super) const LOCAL: EntryType = EntryType::XHeader;

#[test]
fn the_root_has_no_time_of_its_unpacking() {
    let mut place = Place::new();
    let root = |place: &Place| {
        let status = place.path("upper").metadata().unwrap();
        (status.mtime(), status.mtime_nsec(), status.mode() & 0o7777)
    };
    let fixed = (lamina_store::Timestamp::PACKAGE.seconds, 0, 0o755);
    place.unpack(&archive(&[file(b"a", b"1")])).unwrap();
    assert_eq!(root(&place), fixed);
    place.settle();
    place.unpack(&archive(&[directory(b"./"), file(b"b", b"2")])).unwrap();
    let named = root(&place);
    assert_ne!(named, fixed);
    place.settle();
    place.unpack(&archive(&[file(b"c", b"3")])).unwrap();
    assert_eq!(root(&place), named, "it is as it was below");
}

#[test]
fn names_stay_inside() {
    let place = Place::new();
    for name in [&b"../canary"[..], b"etc/../../canary", b"/../canary", b"./..", b"a/./../../canary"] {
        let refused = place.refuses(&archive(&[file(name, b"dead")]));
        let shown = String::from_utf8_lossy(name);
        assert!(refused.contains(&format!("`{shown}` leads out of the image")), "{refused}");
        let refused = place.refuses(&archive(&[file(b"x", b""), link(EntryType::Link, b"y", name)]));
        assert!(refused.contains("leads out of the image"), "{refused}");
        place.refuses(&archive(&[records(LOCAL, &[("path", name)]), file(b"x", b"dead")]));
    }
    place.refuses(&archive(&[records(LOCAL, &[("path", b"x\0y")]), file(b"x", b"dead")]));
    // What begins at the root is meant to.
    place.unpack(&archive(&[file(b"/etc/a", b"1"), file(b"./etc//b", b"2")])).unwrap();
    assert_eq!((place.read("etc/a"), place.read("etc/b")), (b"1".to_vec(), b"2".to_vec()));
}

#[test]
fn names_of_any_bytes_work() {
    let mut place = Place::new();
    let name = b"d/\xff\xfe\n \x01";
    place.unpack(&archive(&[directory(b"d"), file(name, b"x"), file(b"d/kept", b"")])).unwrap();
    assert_eq!(fs_err::read(place.path("upper").join(OsStr::from_bytes(name))).unwrap(), b"x");
    place.settle();
    let deleted = b"d/.wh.\xff\xfe\n \x01";
    // Only root may make the marks of overlays outside of a namespace.
    if rustix::process::getuid().is_root() {
        place.unpack(&archive(&[file(deleted, b"")])).unwrap();
        let mark = fs_err::symlink_metadata(place.path("upper").join(OsStr::from_bytes(name))).unwrap();
        assert!(std::os::unix::fs::FileTypeExt::is_char_device(&mark.file_type()));
    }
    // Names that no Linux takes.
    let place = Place::new();
    for long in [vec![b'n'; 256], b"n/".repeat(3000)] {
        let error = place.unpack(&archive(&[records(LOCAL, &[("path", &long)]), file(b"n", b"")])).unwrap_err();
        assert!(error.message.contains("File name too long"), "{error}");
        assert_eq!(error.kind, MALFORMED);
        assert!(error.message.len() < 1000, "{error}");
    }
}

#[test]
fn links_of_lower_layers_lead_nowhere_outside() {
    let mut place = Place::new();
    let canary = place.path("canary");
    let around = place.directory.path().to_owned();
    let outside = around.as_os_str().as_bytes();
    let up = [&b"../".repeat(8)[..], &outside[1..]].concat();
    for (index, target) in [outside, &up].into_iter().enumerate() {
        let name = format!("etc{index}").into_bytes();
        place.unpack(&archive(&[link(EntryType::Symlink, &name, target)])).unwrap();
        place.settle();
        let inside = |rest: &[u8]| [&name[..], rest].concat();
        let attacks = [
            file(&inside(b"/canary"), b"dead"),
            file(&inside(b"/.wh.canary"), b""),
            link(EntryType::Symlink, &inside(b"/link"), b"canary"),
            directory(&inside(b"/new")),
            directory(&name),
        ];
        for attack in attacks {
            place.unpack(&archive(&[attack])).unwrap();
        }
        // The same in one archive, where the link is this layer's own.
        let own = format!("own{index}").into_bytes();
        let below = [&own[..], b"/canary"].concat();
        place.unpack(&archive(&[link(EntryType::Symlink, &own, target), file(&below, b"dead")])).unwrap();
        // A hard link to what is outside is none to what the image has.
        let error = place.unpack(&archive(&[link(EntryType::Link, b"hard", canary.as_os_str().as_bytes())]));
        assert!(error.is_ok() || error.unwrap_err().kind == MALFORMED);
        place.settle();
    }
    let circle = [link(EntryType::Symlink, b"a", b"b"), link(EntryType::Symlink, b"b", b"a")];
    place.unpack(&archive(&circle)).unwrap();
    place.settle();
    assert!(place.refuses(&archive(&[file(b"a/x", b"")])).contains("circle"));
}

#[test]
fn what_has_no_place_is_said_as_the_archive_has_it() {
    let place = Place::new();
    let cases = [
        [link(EntryType::Symlink, b"l", b"/absent"), file(b"l/x", b"")],
        [file(b"l", b""), file(b"l/x", b"")],
        [file(b"l", b""), directory(b"l/x")],
        [file(b"l", b""), link(EntryType::Symlink, b"l/x", b"target")],
        [file(b"l", b""), link(EntryType::Link, b"l/x", b"l")],
        [link(EntryType::Symlink, b"l", b"l"), file(b"l/x", b"")],
        [file(b"l", b""), file(b"l/x/.wh.y", b"")],
    ];
    for entries in cases {
        let refused = place.refuses(&archive(&entries));
        let is_said = refused.starts_with("the layer `sha256:1234` cannot be unpacked: its entry `l/x");
        assert!(is_said && refused.contains("has no place"), "{refused}");
        let store = place.directory.path().display().to_string();
        assert!(!refused.contains(&store), "{refused}");
    }
}

#[test]
fn attributes_cannot_be_marks_of_overlays() {
    let place = Place::new();
    let attributes: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.kept", b"\0\xff"),
    ];
    place.unpack(&archive(&[records(LOCAL, attributes), directory(b"d")])).unwrap();
    let path = place.path("upper/d");
    let mut names = vec![0; 4096];
    let length = rustix::fs::listxattr(&path, &mut names[..]).unwrap();
    let mut names: Vec<_> = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    let expected: [&[u8]; 3] = [b"user.kept", b"user.overlay.overlay.opaque", b"user.overlay.overlay.redirect"];
    assert_eq!(names, expected);
    // Devices are left out, those among them that would be deletions, too.
    place.unpack(&archive(&[link(EntryType::Char, b"gone", b""), link(EntryType::Block, b"disk", b"")])).unwrap();
    assert_eq!(fs_err::read_dir(place.path("upper")).unwrap().count(), 1);
    let many = vec![b'x'; ATTRIBUTE_LIMIT + 1];
    let refused = place.refuses(&archive(&[records(LOCAL, &[("SCHILY.xattr.user.a", &many)]), file(b"x", b"")]));
    assert!(refused.contains("extended attributes"), "{refused}");
}

#[test]
fn what_describes_a_file_has_limits() {
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, LOCAL, EntryType::XGlobalHeader] {
        let place = Place::new();
        let announced = header(kind, b"long", 1 << 40);
        let endless = std::io::Read::chain(&announced.as_bytes()[..], std::io::repeat(b'a'));
        let counted = AtomicU64::new(0);
        let error = place.unpack_stream(Counting(endless, &counted), "", &|| Ok(())).unwrap_err();
        // Those for all files are passed over, which takes no memory, but time.
        if kind == EntryType::XGlobalHeader {
            continue;
        }
        assert!(error.message.contains("take more than 4 MiB"), "{error}");
        assert!(counted.into_inner() < 2 * HEADERS_LIMIT);
    }
}

struct Counting<'a, R>(R, &'a AtomicU64);

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(buffer)?;
        let before = self.1.fetch_add(count as u64, Ordering::Relaxed);
        // As if somebody had pulled the plug.
        if before > 64 << 20 { Ok(0) } else { Ok(count) }
    }
}

#[test]
fn sizes_that_differ_count_as_posix_says() {
    let place = Place::new();
    // The file's own header says 0, and what follows looks like another entry.
    let hidden = file(b"hidden", b"");
    let size = hidden.len().to_string();
    let entries = [
        records(LOCAL, &[("size", size.as_bytes())]),
        raw(&header(EntryType::Regular, b"visible", 0), &hidden),
        file(b"after", b"1"),
    ];
    place.unpack(&archive(&entries)).unwrap();
    assert_eq!(place.read("visible"), hidden);
    assert!(!place.path("upper/hidden").exists() && place.path("upper/after").exists());
    // Records for all files change none, as in Docker.
    let place = Place::new();
    let entries = [records(EntryType::XGlobalHeader, &[("path", b"other"), ("size", b"7")]), file(b"a", b"1")];
    place.unpack(&archive(&entries)).unwrap();
    assert_eq!(place.read("a"), b"1");
    // Contents of what has none.
    for kind in [EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Fifo] {
        let refused = place.refuses(&archive(&[raw(&header(kind, b"odd", 512), &[7; 512])]));
        assert!(refused.contains("`odd` has contents"), "{refused}");
    }
    let refused = place.refuses(&archive(&[raw(&header(EntryType::Regular, b"x", u64::MAX >> 2), b"1")]));
    assert!(!refused.is_empty());
}

#[test]
fn the_last_of_entries_with_one_name_counts() {
    let place = Place::new();
    let entries = [
        file(b"a", b"1"),
        link(EntryType::Link, b"b", b"a"),
        file(b"a", b"2"),
        directory(b"d"),
        file(b"d/x", b""),
        link(EntryType::Symlink, b"d", b"/etc"),
        file(b"e", b""),
        directory(b"e"),
    ];
    place.unpack(&archive(&entries)).unwrap();
    assert_eq!((place.read("a"), place.read("b")), (b"2".to_vec(), b"1".to_vec()));
    assert!(place.path("upper/d").is_symlink() && place.path("upper/e").is_dir());
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("the stream is cut"))
    }
}

#[test]
fn what_is_cut_or_goes_on_is_refused() {
    let place = Place::new();
    let whole = archive(&[file(b"a", &[1; 700]), file(b"b", b"2")]);
    for cut in [100, 512 + 300, 3 * 512 + 100] {
        place.refuses(&whole[..cut]);
    }
    assert!(place.refuses(b"this is no archive at all").contains("cannot be unpacked"));
    // A compressed one ends with an error in the middle of a file.
    let packed = std::io::Read::chain(&whole[..512 + 300], Broken);
    let error = place.unpack_stream(packed, "", &|| Ok(())).unwrap_err();
    assert_eq!(error.kind, MALFORMED);
    assert!(error.message.ends_with("its entry `a` cannot be read: the stream is cut"), "{error}");
    // What is behind the end belongs to the digest and to no file.
    let longer = [&whole[..], b"garbage"].concat();
    place.unpack(&longer).unwrap();
    let digest = HEXLOWER.encode(&Sha256::digest(&whole));
    let error = place.unpack_stream(&longer[..], &digest, &|| Ok(())).unwrap_err();
    assert!(error.message.contains("configuration says"), "{error}");
}

#[test]
fn owners_and_modes_are_as_the_archive_says() {
    let place = Place::new();
    let mut set_id = header(EntryType::Regular, b"sudo", 0);
    set_id.set_mode(0o6755);
    set_id.set_cksum();
    place.unpack(&archive(&[raw(&set_id, b"")])).unwrap();
    assert_eq!(fs_err::metadata(place.path("upper/sudo")).unwrap().permissions().mode() & 0o7777, 0o6755);
    // The number that stands for no owner.
    let refused = place.refuses(&archive(&[records(LOCAL, &[("uid", b"4294967295")]), file(b"x", b"")]));
    assert!(refused.contains("`4294967295`"), "{refused}");
    for text in [&b"-1"[..], b"x", b""] {
        place.refuses(&archive(&[records(LOCAL, &[("gid", text)]), file(b"x", b"")]));
    }
    for text in [&b"1.-5"[..], b"x", b"1e9", b"99999999999999999999"] {
        place.unpack(&archive(&[records(LOCAL, &[("mtime", text)]), file(b"x", b"")])).unwrap();
    }
}

#[test]
fn holes_take_no_room_and_forms_that_are_not_read_are_refused() {
    let place = Place::new();
    let path = place.path("sparse");
    let mut sparse = fs_err::File::create(&path).unwrap();
    sparse.write_all(b"begin").unwrap();
    sparse.set_len(1 << 30).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_path_with_name(&path, "sparse").unwrap();
    fs_err::remove_file(&path).unwrap();
    place.unpack(&builder.into_inner().unwrap()).unwrap();
    let status = fs_err::metadata(place.path("upper/sparse")).unwrap();
    assert_eq!(status.len(), 1 << 30);
    assert!(status.blocks() * 512 < 1 << 20);
    let mut begin = [1; 6];
    fs_err::File::open(place.path("upper/sparse")).unwrap().read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"begin\0");
    let posix = records(LOCAL, &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")]);
    assert!(place.refuses(&archive(&[posix, file(b"x", b"0\n")])).contains("`x` is a sparse file"));
}

/// A file that is said to have so many bytes, of which the archive has none.
fn hole(size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("hole").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(rustix::process::getuid().as_raw().into());
    header.set_gid(rustix::process::getgid().as_raw().into());
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    // Larger numbers than octal digits have room for.
    gnu.realsize[0] = 0x80;
    gnu.realsize[4..].copy_from_slice(&size.to_be_bytes());
    gnu.sparse[0].offset[0] = 0x80;
    gnu.sparse[0].offset[4..].copy_from_slice(&size.to_be_bytes());
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
    header.set_cksum();
    raw(&header, b"")
}

#[test]
fn a_hole_has_bounds() {
    let place = Place::new();
    place.unpack(&archive(&[hole(1 << 20)])).unwrap();
    assert_eq!(fs_err::metadata(place.path("upper/hole")).unwrap().len(), 1 << 20);
    let refused = place.refuses(&archive(&[hole(1 << 60)]));
    assert!(refused.contains(&format!("`hole` says that it has {} bytes", 1_u64 << 60)), "{refused}");
    // Nobody waits for one that nobody wants.
    let (asked, bytes) = (Cell::new(0), archive(&[hole(SPARSE_LIMIT)]));
    let is_wanted = || {
        asked.set(asked.get() + 1);
        if asked.get() > 3 { Err(JobError::new(JobError::STORE, "nobody wants it")) } else { Ok(()) }
    };
    let error = place.unpack_stream(&bytes[..], "", &is_wanted).unwrap_err();
    assert_eq!(error.message, "nobody wants it");
}

#[test]
fn a_full_disk_ends_it() {
    let mut place = Place::new();
    place.reserve = u64::MAX;
    let size = 512 << 20;
    let header = header(EntryType::Regular, b"bomb", size);
    let bomb = header.as_bytes().chain(std::io::repeat(0).take(size));
    // As if the disk had been emptier before.
    let error = place.unpack_stream(bomb, "", &|| Ok(())).unwrap_err();
    assert!(error.message.contains(EnvVars::MODAL_STORE_RESERVE), "{error}");
    assert!(lamina_ground::Hint::hint(&error).is_some_and(|hint| hint.contains("full")), "{error}");
    assert!(fs_err::metadata(place.path("upper/bomb")).unwrap().len() < size);
}

#[test]
fn nobody_waits_for_a_layer_that_nobody_wants() {
    let place = Place::new();
    let header = header(EntryType::Regular, b"large", 1 << 40);
    let endless = header.as_bytes().chain(std::io::repeat(0));
    let asked = Cell::new(0);
    let is_wanted = || {
        asked.set(asked.get() + 1);
        if asked.get() > 3 { Err(JobError::new(JobError::STORE, "nobody wants it")) } else { Ok(()) }
    };
    let error = place.unpack_stream(endless, "", &is_wanted).unwrap_err();
    assert_eq!(error.message, "nobody wants it");
}
