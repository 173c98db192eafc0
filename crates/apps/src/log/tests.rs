use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags};
use tempfile::TempDir;

use super::format::{Found, MAGIC, decode, encode};
use super::writer::{KEPT, SEGMENT};
use super::*;

/// A directory for a log.
struct Fixture(TempDir);

impl Fixture {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }

    fn earlier(&self) -> PathBuf {
        self.0.path().join("output")
    }

    fn segment(&self, number: u64) -> PathBuf {
        segments::path(&self.log(), number)
    }

    fn writer(&self) -> LogWriter {
        LogWriter::prepare(&self.log(), false).unwrap();
        LogWriter::open(&self.log(), &self.earlier()).unwrap()
    }

    fn reader(&self) -> LogReader {
        LogReader::new(self.log(), self.earlier(), None)
    }

    fn all(&self) -> Vec<(Source, String)> {
        read(&mut self.reader())
    }
}

/// What is read next; pieces of one source are one.
fn read(reader: &mut LogReader) -> Vec<(Source, String)> {
    let mut pieces: Vec<(Source, String)> = Vec::new();
    let outcome = reader.read(&mut |entry| {
        let text = String::from_utf8_lossy(&entry.data);
        match pieces.last_mut().filter(|(last, _)| *last == entry.source) {
            Some((_, all)) => all.push_str(&text),
            None => pieces.push((entry.source, text.into_owned())),
        }
        ControlFlow::Continue(())
    });
    assert!(outcome.unwrap().is_continue());
    pieces
}

fn entry(source: Source, data: &[u8]) -> LogEntry {
    LogEntry::new(Some(1), source, data)
}

fn labelled(data: &[u8]) -> LogEntry {
    let printer = Printer {
        function: Some("f".to_owned()),
        function_call: Some("fc-1".to_owned()),
        input: Some("in-1".to_owned()),
    };
    LogEntry { container: Some("ta-1".to_owned()), printer, ..LogEntry::new(Some(5), Source::Stderr, data) }
}

#[test]
fn the_format_is_what_is_documented() {
    let fixture = Fixture::new();
    fixture.writer().write(&labelled(b"a\n"));
    let body = b"\x05\0\0\0\0\0\0\0\x02\x01\0f\x04\0fc-1\x04\0in-1\x04\0ta-1a\n";
    let checksum = crc32fast::hash(body).to_le_bytes();
    let expected = [b"LAMINA-LOG\x01", &[u8::try_from(body.len()).unwrap(), 0, 0, 0][..], &checksum, body].concat();
    assert_eq!(fs_err::read(fixture.segment(1)).unwrap(), expected);
    assert_eq!(fixture.segment(1).file_name().unwrap(), "0000000001");
    assert_eq!(checksum, [0x23, 0xbd, 0x7f, 0xd4], "CRC-32 as zlib computes it");
}

#[test]
fn entries_are_read_as_they_were_written() {
    for entry in [labelled(b"\xff\0\n"), entry(Source::System, b""), LogEntry::new(None, Source::Stdout, "x")] {
        let bytes = encode(&entry, &entry.data);
        assert_eq!(decode(&bytes), Found::Entry(entry, bytes.len()));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), Found::Part);
        }
        for damaged in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[damaged] ^= 1;
            assert!(!matches!(decode(&bytes), Found::Entry(..)), "byte {damaged}");
        }
    }
    let long = LogEntry { container: Some("ä".repeat(1_000)), ..entry(Source::Stdout, b"x") };
    let Found::Entry(read, _) = decode(&encode(&long, b"x")) else { panic!("it is an entry") };
    assert_eq!(read.container.unwrap(), "ä".repeat(512));
    assert_eq!(decode(&[0; 64]), Found::Nonsense, "blocks that the disk never got");
}

#[test]
fn a_log_is_read_as_it_was_written() {
    let fixture = Fixture::new();
    let mut log = fixture.writer();
    let long = "x".repeat(300_000);
    log.write(&entry(Source::Stdout, long.as_bytes()));
    log.write(&entry(Source::Stderr, b"two\n"));
    let mut reader = fixture.reader();
    assert_eq!(read(&mut reader), [(Source::Stdout, long), (Source::Stderr, "two\n".to_owned())]);
    log.write(&entry(Source::Stdout, b"three"));
    assert_eq!(read(&mut reader), [(Source::Stdout, "three".to_owned())]);
    assert!(fixture.reader().read(&mut |_| ControlFlow::Break(std::io::Error::other("enough"))).unwrap().is_break());
}

#[test]
fn an_entry_that_is_being_written_is_waited_for() {
    let fixture = Fixture::new();
    fixture.writer().write(&entry(Source::Stdout, b"whole"));
    let mut bytes = fs_err::read(fixture.segment(1)).unwrap();
    let further = encode(&entry(Source::Stdout, b"party"), b"party");
    let mut reader = fixture.reader();
    fs_err::write(fixture.segment(1), [&*bytes, &further[..further.len() - 2]].concat()).unwrap();
    assert_eq!(read(&mut reader), [(Source::Stdout, "whole".to_owned())]);
    bytes.extend_from_slice(&further);
    fs_err::write(fixture.segment(1), &bytes).unwrap();
    assert_eq!(read(&mut reader), [(Source::Stdout, "party".to_owned())]);
    // What makes no sense is said once, and what comes after it is read.
    fs_err::write(fixture.segment(1), [&*bytes, &[0; 99]].concat()).unwrap();
    let said = read(&mut reader);
    assert!(said[0].1.starts_with(&format!("warning: from byte {} on, `", bytes.len())), "{said:?}");
    assert_eq!(read(&mut reader), []);
    fixture.writer().write(&entry(Source::Stdout, b"next"));
    assert_eq!(read(&mut reader), [(Source::Stdout, "next".to_owned())]);
}

#[test]
fn a_segment_of_another_version_is_passed_over() {
    let fixture = Fixture::new();
    fixture.writer().write(&entry(Source::Stdout, b"lost"));
    fs_err::OpenOptions::new()
        .write(true)
        .open(fixture.segment(1))
        .unwrap()
        .into_file()
        .write_all_at(b"\x02", 10)
        .unwrap();
    fixture.writer().write(&entry(Source::Stdout, b"next"));
    let all = fixture.all();
    assert!(all[0].1.contains("from byte 0 on, `") && all[0].0 == Source::System, "{all:?}");
    assert_eq!(all[1], (Source::Stdout, "next".to_owned()));
    // What is being made has no magic yet.
    fs_err::write(fixture.segment(3), &MAGIC[..4]).unwrap();
    assert_eq!(fixture.all(), all);
}

#[test]
fn what_is_no_segment_keeps_nobody_from_reading() {
    let fixture = Fixture::new();
    fixture.writer().write(&entry(Source::Stdout, b"one\n"));
    fs_err::write(fixture.log().join("2"), "").unwrap();
    fs_err::write(fixture.log().join("+000000003"), "").unwrap();
    fs_err::create_dir(fixture.segment(4)).unwrap();
    assert_eq!(fixture.all(), [(Source::Stdout, "one\n".to_owned())]);
}

#[test]
fn a_log_does_not_grow_for_ever() {
    let fixture = Fixture::new();
    fs_err::write(fixture.earlier(), b"LAMINA-OUTPUT\x01\x01\x03\0\0\0old").unwrap();
    let mut log = fixture.writer();
    log.write(&entry(Source::Stdout, b"first\n"));
    let mut slow = fixture.reader();
    assert_eq!(read(&mut slow), [(Source::Stdout, "oldfirst\n".to_owned())]);
    let megabyte = vec![b'x'; 1 << 20];
    for _ in 0..(KEPT as u64 + 2) * (SEGMENT >> 20) {
        log.write(&entry(Source::Stderr, &megabyte));
    }
    log.write(&entry(Source::Stdout, b"last\n"));
    let numbers = segments::all(&fixture.log()).unwrap();
    assert_eq!(numbers.len(), KEPT);
    assert!(!fixture.earlier().exists(), "it is older than everything");
    let bytes: u64 = numbers.iter().map(|number| fs_err::metadata(fixture.segment(*number)).unwrap().len()).sum();
    assert!(bytes <= (KEPT as u64) * (SEGMENT + (1 << 17)), "{bytes}");
    let all = fixture.all();
    assert_eq!(all.last().unwrap(), &(Source::Stdout, "last\n".to_owned()));
    // Who has the first segment open still reads that, and is told of what it has missed.
    let late = read(&mut slow);
    assert_eq!(late.iter().filter(|(source, _)| *source == Source::System).count(), 1);
    assert_eq!(late.last(), all.last());
}

#[test]
fn reading_begins_where_it_is_wanted() {
    let fixture = Fixture::new();
    let from_nothing = end_of_log(&fixture.log());
    let mut log = fixture.writer();
    log.write(&entry(Source::Stdout, b"one"));
    let end = end_of_log(&fixture.log());
    log.write(&entry(Source::Stdout, b"two"));
    for (from, text) in [(from_nothing, "onetwo"), (end, "two"), (end_of_log(&fixture.log()), "")] {
        let mut reader = fixture.reader();
        reader.skip_to(from).unwrap();
        assert_eq!(read(&mut reader).into_iter().map(|(_, text)| text).collect::<String>(), text);
    }
}

/// A file that nothing can be written to.
fn full() -> std::fs::File {
    fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap().into_file()
}

#[test]
fn what_cannot_be_written_is_left_out_and_said() {
    let fixture = Fixture::new();
    let mut log = fixture.writer();
    log.write(&entry(Source::Stdout, b"one\n"));
    let file = std::mem::replace(&mut log.file, full());
    log.write(&entry(Source::Stdout, b"two\n"));
    log.write(&entry(Source::Stderr, b"three\n"));
    log.file = file;
    log.write(&entry(Source::Stdout, b"four\n"));
    let all = fixture.all();
    assert_eq!(all.len(), 3);
    assert_eq!((&*all[0].1, &*all[2].1), ("one\n", "four\n"));
    assert!(all[1].1.starts_with("warning: 10 bytes of output were not recorded here: "), "{}", all[1].1);
}

#[test]
fn what_is_missing_at_the_end_is_said() {
    let fixture = Fixture::new();
    let mut log = fixture.writer();
    let file = std::mem::replace(&mut log.file, full());
    log.write(&entry(Source::Stdout, b"lost"));
    log.file = file;
    drop(log);
    let all = fixture.all();
    assert_eq!(all.len(), 1);
    assert!(all[0].1.starts_with("warning: 4 bytes of output were not recorded here: "), "{}", all[0].1);
}

/// A file that cannot become longer than `length`, as on a full disk.
fn bounded_file(contents: &[u8], length: usize) -> std::fs::File {
    let file = std::fs::File::from(rustix::fs::memfd_create("log", MemfdFlags::ALLOW_SEALING).unwrap());
    file.write_all_at(contents, 0).unwrap();
    file.set_len(length as u64).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW).unwrap();
    file
}

#[test]
fn a_note_that_was_written_is_not_taken_back() {
    let fixture = Fixture::new();
    let mut log = fixture.writer();
    let file = std::mem::replace(&mut log.file, full());
    log.write(&entry(Source::Stdout, b"lost"));
    let bounded = bounded_file(MAGIC, 8 << 10);
    let reading = bounded.try_clone().unwrap();
    log.file = bounded;
    log.write(&entry(Source::Stdout, &[b'x'; 16 << 10]));
    let mut bytes = vec![0; 16 << 10];
    let length = reading.read_at(&mut bytes, 0).unwrap();
    let Found::Entry(note, end) = decode(&bytes[MAGIC.len()..length]) else { panic!("the note is there") };
    let text = String::from_utf8_lossy(&note.data);
    assert!(text.starts_with("warning: 4 bytes of output were not recorded here: "), "{text}");
    assert_eq!(MAGIC.len() + end, length, "the torn entry is cut back");
    log.file = file;
}

/// The lines that a selection gives of entries.
fn lines(selection: Selection, entries: &[LogEntry]) -> Vec<(String, bool)> {
    let (mut feed, mut lines) = (LineFeed::new(selection), Vec::new());
    let mut add = |line: LogLine<'_>| -> Result<(), ()> {
        lines.push((String::from_utf8_lossy(line.text).into_owned(), line.begins));
        Ok(())
    };
    for entry in entries {
        feed.take(entry, &mut add).unwrap();
    }
    feed.finish(&mut add).unwrap();
    lines
}

#[test]
fn lines_are_told_apart_by_who_prints_them() {
    let other = LogEntry { container: Some("ta-2".to_owned()), ..labelled(b"else\n") };
    let entries = [labelled(b"a\nb"), other, labelled(b"c\n"), labelled(b"d")];
    let plain = lines(Selection::default(), &entries);
    let expected = [("a\n", true), ("b", true), ("else\n", true), ("c\n", false), ("d", true)];
    assert_eq!(plain, expected.map(|(text, begins)| (text.to_owned(), begins)));
    let search = |text: &str| lines(Selection { search: Some(text.to_owned()), ..Selection::default() }, &entries);
    assert_eq!(search("bc"), [("bc\n".to_owned(), true)], "the parts of a line are searched as one");
    assert_eq!(search("d"), [("d".to_owned(), true)], "also one that never ends");
    assert_eq!(search("nothing"), []);
    assert_eq!(search("").len(), 4);
}

#[test]
fn lines_that_never_end_are_not_kept_for_ever() {
    let one = |number: usize| {
        let printer = Printer { input: Some(format!("in-{number}")), ..Printer::default() };
        LogEntry { printer, ..entry(Source::Stdout, format!("{number} never").as_bytes()) }
    };
    let entries: Vec<_> = (0..10_000).map(one).collect();
    for search in [None, Some("never".to_owned())] {
        let mut feed = LineFeed::new(Selection { search, ..Selection::default() });
        let mut count = 0;
        let mut add = |line: LogLine<'_>| -> Result<(), ()> {
            count += usize::from(line.begins);
            Ok(())
        };
        for entry in &entries {
            feed.take(entry, &mut add).unwrap();
            assert!(feed.unfinished() <= 1 << 10);
        }
        feed.finish(&mut add).unwrap();
        assert_eq!(count, entries.len());
    }
}

#[test]
fn what_is_not_known_is_not_what_was_asked_for() {
    let known =
        LogEntry { printer: Printer { function: Some("C.m".to_owned()), ..labelled(b"").printer }, ..labelled(b"k") };
    let unknown = LogEntry::new(None, Source::Stdout, "u");
    let taken = |selection: &Selection| [&known, &unknown].map(|entry| selection.takes(entry));
    let text = |text: &str| Some(text.to_owned());
    let nothing = Selection::default();
    let cases = [
        (nothing.clone(), [true, true], false),
        (Selection { since: Some(5), ..nothing.clone() }, [true, false], true),
        (Selection { since: Some(6), ..nothing.clone() }, [false, false], true),
        (Selection { until: Some(6), ..nothing.clone() }, [true, false], true),
        (Selection { until: Some(5), ..nothing.clone() }, [false, false], true),
        (Selection { function: text("C"), ..nothing.clone() }, [true, false], true),
        (Selection { function: text("C.m"), ..nothing.clone() }, [true, false], true),
        (Selection { function: text("C."), ..nothing.clone() }, [false, false], true),
        (Selection { function: text("C.mo"), ..nothing.clone() }, [false, false], true),
        (Selection { function_call: text("fc-1"), ..nothing.clone() }, [true, false], true),
        (Selection { container: text("ta-2"), ..nothing.clone() }, [false, false], true),
        (Selection { source: Some(Source::Stdout), ..nothing }, [false, true], false),
    ];
    for (selection, expected, needs_labels) in cases {
        assert_eq!((taken(&selection), selection.needs_labels()), (expected, needs_labels), "{selection:?}");
    }
}
