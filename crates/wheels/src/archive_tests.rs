//! Archives from hell.

use std::io::Write;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

type Files<'a> = &'a [(&'a str, &'a [u8])];

fn zip(files: Files<'_>) -> Vec<u8> {
    let mut writer = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, contents) in files {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(contents).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn open(bytes: &[u8]) -> Result<Archive, Refusal> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Archive::open(file)
}

/// What is unusual about an archive.
fn refusal(bytes: &[u8]) -> String {
    match open(bytes).err().expect("an unusual archive was accepted") {
        Refusal::Unusual(detail) => detail,
        Refusal::Dangerous(detail) => panic!("dangerous: {detail}"),
    }
}

/// What is dangerous about an archive.
fn danger(bytes: &[u8]) -> String {
    match open(bytes).err().expect("a hostile archive was accepted") {
        Refusal::Dangerous(detail) => detail,
        Refusal::Unusual(detail) => panic!("unusual: {detail}"),
    }
}

/// Replaces all occurrences of a name by another of the same length.
fn rename(mut bytes: Vec<u8>, from: &str, to: &str, times: usize) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut at = 0;
    for _ in 0..times {
        at += bytes[at..].windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

#[test]
fn an_honest_archive_is_read() {
    let mut archive = open(&zip(&[("pkg/a.py", b"a = 1\n"), ("pkg/b.txt", b"")])).unwrap();
    let entry = archive.find("pkg/a.py").unwrap();
    assert_eq!(archive.read(&entry).unwrap(), b"a = 1\n");
    assert_eq!(archive.entries().len(), 2);
}

#[test]
fn paths_out_of_the_tree_are_refused() {
    for (name, is_dangerous) in [
        ("../x", true),
        ("/etc/x", true),
        ("a/../../x", true),
        ("..", true),
        ("a\0b", true),
        ("a/./x", false),
        ("./x", false),
        ("a//x", false),
    ] {
        let bytes = rename(zip(&[(&"n".repeat(name.len()), b"x")]), &"n".repeat(name.len()), name, 2);
        let message = if is_dangerous { danger(&bytes) } else { refusal(&bytes) };
        assert!(message.contains("plain relative path"), "{name}: {message}");
    }
    assert!(check_path(&"a".repeat(256)).is_err());
    assert!(check_path(&"a/".repeat(3000)).is_err());
}

#[test]
fn symbolic_links_are_refused() {
    let mut writer = ZipWriter::new(io::Cursor::new(Vec::new()));
    writer.add_symlink("pkg/link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    assert!(refusal(&bytes).contains("`pkg/link` is neither"));
}

#[test]
fn what_is_executable_is_said_to_be_a_file() {
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    let mut writer = ZipWriter::new(io::Cursor::new(Vec::new()));
    writer.start_file("pkg/tool", options).unwrap();
    let mut bytes = writer.finish().unwrap().into_inner();
    assert!(open(&bytes).unwrap().entries()[0].executable);
    let record = bytes.windows(4).position(|window| window == [0x50, 0x4b, 1, 2]).unwrap();
    bytes[record + 38..record + 42].copy_from_slice(&(0o755_u32 << 16).to_le_bytes());
    assert!(refusal(&bytes).contains("`pkg/tool` is executable"));
}

#[test]
fn a_directory_is_one_by_its_name() {
    let mut writer = ZipWriter::new(io::Cursor::new(Vec::new()));
    writer.add_directory("pkg/", SimpleFileOptions::default()).unwrap();
    writer.start_file("pkg/a", SimpleFileOptions::default()).unwrap();
    let mut bytes = writer.finish().unwrap().into_inner();
    let record = bytes.windows(4).position(|window| window == [0x50, 0x4b, 1, 2]).unwrap();
    bytes[record + 38..record + 42].copy_from_slice(&(0o100_644_u32 << 16).to_le_bytes());
    assert_eq!(open(&bytes).unwrap().entries().len(), 1);
}

#[test]
fn empty_directories_are_known() {
    let mut writer = ZipWriter::new(io::Cursor::new(Vec::new()));
    for directory in ["pkg/", "pkg/empty/", "pkg/full/"] {
        writer.add_directory(directory, SimpleFileOptions::default()).unwrap();
    }
    writer.start_file("pkg/full/a", SimpleFileOptions::default()).unwrap();
    let archive = open(&writer.finish().unwrap().into_inner()).unwrap();
    assert_eq!(archive.empty_directories(), ["pkg/empty"]);
}

#[test]
fn duplicates_are_refused() {
    let bytes = rename(zip(&[("pkg/a", b"1"), ("pkg/b", b"2")]), "pkg/b", "pkg/a", 2);
    assert!(refusal(&bytes).contains("`pkg/a` is in it twice"));
}

#[test]
fn a_name_that_differs_in_the_local_header_is_refused() {
    let bytes = rename(zip(&[("pkg/a", b"1")]), "pkg/a", "pkg/b", 1);
    assert!(refusal(&bytes).contains("differently in two places"));
}

#[test]
fn a_file_that_is_also_a_directory_is_refused() {
    assert!(refusal(&zip(&[("pkg", b"1"), ("pkg/a", b"2")])).contains("both a file and a directory"));
}

#[test]
fn overlapping_entries_are_refused() {
    let mut bytes = zip(&[("aaaa", b"1"), ("bbbb", b"2")]);
    // The second central record points at the first local header, whose name is made to match.
    let record = bytes.windows(4).rposition(|window| window == [0x50, 0x4b, 1, 2]).unwrap();
    bytes[record + 42..record + 46].copy_from_slice(&0_u32.to_le_bytes());
    assert!(open(&bytes).is_err());
    assert!(check_overlaps(vec![(0, 10, "a".into()), (5, 15, "b".into())], 20).is_err());
    assert!(check_overlaps(vec![(0, 10, "a".into())], 9).is_err());
}

#[test]
fn bombs_are_refused() {
    let size = usize::try_from(SMALL_WHEEL_ALLOWANCE).unwrap() * 3 / 2;
    let message = danger(&zip(&[("zeros", &vec![0; size])]));
    assert!(message.contains("unpacks to more than"), "{message}");
}

#[test]
fn a_lie_about_the_length_is_refused() {
    let mut bytes = zip(&[("pkg/a", b"some contents")]);
    for signature in [[0x50, 0x4b, 3, 4], [0x50, 0x4b, 1, 2]] {
        let at = bytes.windows(4).position(|window| window == signature).unwrap();
        let field = if signature[2] == 3 { 22 } else { 24 };
        bytes[at + field..at + field + 4].copy_from_slice(&5_u32.to_le_bytes());
    }
    if let Ok(mut archive) = open(&bytes) {
        let entry = archive.find("pkg/a").unwrap();
        assert!(archive.read(&entry).is_err());
    }
}

#[test]
fn rubbish_is_refused() {
    assert!(refusal(b"not a zip").contains("not a readable zip"));
    let mut prefixed = b"#!/bin/sh\n".to_vec();
    prefixed.extend(zip(&[("a", b"1")]));
    open(&prefixed).err().expect("a prefixed archive was accepted");
    let whole = zip(&[("a", b"1")]);
    open(&whole[..whole.len() - 4]).err().expect("a truncated archive was accepted");
}
