//! Entries as bytes, see `docs/store-format.md`.

use lamina_events::Printer;

use super::{LogEntry, Source};

/// First bytes of a segment: a name and the version of the format.
pub(super) const MAGIC: &[u8] = b"LAMINA-LOG\x01";

/// The most bytes that an entry holds of what was printed.
pub(super) const MOST_DATA: usize = 64 << 10;

/// Bytes in front of an entry's body: its length and its checksum.
const HEADER: usize = 8;

/// The most bytes of a name; of a longer one the rest is left out.
const MOST_LABEL: usize = 1 << 10;

/// The most bytes of a body.
const MOST_BODY: usize = 9 + 4 * (2 + MOST_LABEL) + MOST_DATA;

/// What stands at some place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An entry, of so many bytes.
    Entry(LogEntry, usize),
    /// Less than an entry: it is being written, or its writer was killed.
    Part,
    /// Something else.
    Nonsense,
}

/// Appends an entry that holds `data` in the place of its own, which has at most [`MOST_DATA`] bytes.
pub(super) fn encode(entry: &LogEntry, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend_from_slice(&entry.time.unwrap_or(0).to_le_bytes());
    bytes.push(number(entry.source));
    let Printer { function, function_call, input } = &entry.printer;
    for label in [function, function_call, input, &entry.container] {
        let label = label.as_deref().unwrap_or_default();
        let label = &label[..label.floor_char_boundary(MOST_LABEL)];
        bytes.extend_from_slice(&u16::try_from(label.len()).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(data);
    let body = &bytes[HEADER..];
    let (length, checksum) = (u32::try_from(body.len()).unwrap_or(0), crc32fast::hash(body));
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..HEADER].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// What `bytes` begin with.
pub(super) fn decode(bytes: &[u8]) -> Found {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Found::Part };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MOST_BODY {
        return Found::Nonsense;
    }
    let Some((checksum, rest)) = rest.split_first_chunk() else { return Found::Part };
    let Some(body) = rest.get(..length) else { return Found::Part };
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return Found::Nonsense;
    }
    body_of(body).map_or(Found::Nonsense, |entry| Found::Entry(entry, HEADER + length))
}

fn body_of(body: &[u8]) -> Option<LogEntry> {
    let (time, rest) = body.split_first_chunk()?;
    let (source, mut rest) = rest.split_first()?;
    let mut label = || -> Option<Option<String>> {
        let (length, after) = rest.split_first_chunk()?;
        let (label, after) = after.split_at_checked(u16::from_le_bytes(*length).into())?;
        rest = after;
        let label = str::from_utf8(label).ok()?;
        Some((!label.is_empty()).then(|| label.to_owned()))
    };
    let printer = Printer { function: label()?, function_call: label()?, input: label()? };
    let container = label()?;
    let time = Some(u64::from_le_bytes(*time)).filter(|time| *time > 0);
    Some(LogEntry { time, source: source_of(*source)?, container, printer, data: rest.to_vec() })
}

fn number(source: Source) -> u8 {
    match source {
        Source::Stdout => 1,
        Source::Stderr => 2,
        Source::System => 3,
    }
}

fn source_of(number: u8) -> Option<Source> {
    [Source::Stdout, Source::Stderr, Source::System].into_iter().find(|source| self::number(*source) == number)
}
