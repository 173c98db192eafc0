//! Layers in the form `zstd:chunked`, of which only that is fetched which the store lacks.
//!
//! Such a layer is an archive in frames of Zstandard: those of one file's contents begin and end with it, and what describes
//! files is in frames of its own between them. A table of contents behind them says where each file is, and its SHA-256. So a layer
//! is put together from the frames that are fetched and from files that the store has, and what comes of it is the archive itself:
//! it goes through all checks that archives do, and its SHA-256 has to be the one that the image's configuration names.
//! Whatever a table says, it can make the layer no other one; where it is of no use, the whole layer is fetched.
//!
//! Form of the table: <https://github.com/containers/storage/blob/main/docs/containers-storage-zstd-chunked.md>

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use lamina_events::CancelToken;
use lamina_fetch::{Client, FetchError, Progress, is_sha256};
use lamina_store::Store;
use serde::Deserialize;

use crate::client::{Part, check};
use crate::pieces::{FindFiles, Piece};
use crate::unpack::Compression;
use crate::{Descriptor, Registry, RegistryError};

/// How the notes of a layer begin, now and in programs of 2023 and before.
const PREFIXES: [&str; 2] = ["io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."];
/// The only kind of table that is known.
const KIND: &str = "1";
const VERSION: u64 = 1;
/// Most bytes of a table, as it is fetched and unpacked.
const TABLE_LIMIT: u64 = 64 << 20;
/// The header of the frame that a table is in, which unpacks to nothing.
const FRAME_HEADER: u64 = 8;
/// Bytes of a file, as it would be fetched, that are worth a request.
const WORTH_A_REQUEST: u64 = 64 << 10;
/// Most files that are left out of what is fetched, so that there are not more requests.
const MOST_LEFT_OUT: usize = 1000;
/// The part of a layer that has to be here already, or else one request for all of it is faster.
const LEAST_SHARE: u64 = 4;
/// Layers that are shorter are fetched as a whole.
const WORTHWHILE: u64 = 1 << 20;

/// Where a layer's table of contents is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    sha256: String,
    range: Range<u64>,
}

impl Location {
    /// As a layer's annotations say; none if they do not, or make no sense.
    pub(crate) fn of(layer: &Descriptor) -> Option<Self> {
        let note = |name: &str| {
            let mut values = PREFIXES.iter().map(|prefix| layer.annotations.get(format!("{prefix}{name}")));
            values.find_map(|value| value?.as_str())
        };
        let sha256 = note("manifest-checksum")?.strip_prefix("sha256:").filter(|digits| is_sha256(digits))?;
        let numbers: Vec<_> = note("manifest-position")?.split(':').collect();
        let [begin, length, _, KIND] = numbers[..] else { return None };
        let (begin, length): (u64, u64) = (begin.parse().ok()?, length.parse().ok()?);
        let end = begin.checked_add(length).filter(|end| *end <= layer.size && length <= TABLE_LIMIT)?;
        (begin >= FRAME_HEADER && length > 0).then(|| Self { sha256: sha256.to_owned(), range: begin..end })
    }

    /// Bytes of the layer's archive, as they are fetched.
    fn length_of_archive(&self) -> u64 {
        self.range.start - FRAME_HEADER
    }
}

/// A file of a layer that is worth leaving out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contents {
    sha256: String,
    size: u64,
    /// Where its frames are.
    range: Range<u64>,
}

#[derive(Deserialize)]
struct Table {
    version: u64,
    entries: Vec<TableEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TableEntry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    end_offset: u64,
}

/// Files of a table that are worth a request, in their order in the layer; none if the table makes no sense.
fn contents(table: &[u8], length_of_archive: u64) -> Option<Vec<Contents>> {
    let mut unpacked = Vec::new();
    let limit = TABLE_LIMIT + 1;
    zstd::Decoder::with_buffer(table).ok()?.take(limit).read_to_end(&mut unpacked).ok()?;
    if unpacked.len() as u64 == limit {
        return None;
    }
    let table: Table = serde_json::from_slice(&unpacked).ok().filter(|table: &Table| table.version == VERSION)?;
    let (mut found, mut end) = (Vec::new(), 0);
    for entry in table.entries.into_iter().filter(|entry| entry.kind == "reg" && entry.size > 0) {
        if entry.offset < end || entry.end_offset <= entry.offset || entry.end_offset > length_of_archive {
            return None;
        }
        end = entry.end_offset;
        let sha256 = entry.digest.strip_prefix("sha256:").filter(|digits| is_sha256(digits))?;
        if end - entry.offset >= WORTH_A_REQUEST {
            found.push(Contents { sha256: sha256.to_owned(), size: entry.size, range: entry.offset..end });
        }
    }
    Some(found)
}

/// What is left out of a layer, because it is here: its frames' place, and the file's path and length.
type LeftOut = (Range<u64>, PathBuf, u64);

/// What to leave out; nothing if that is so little that one request is faster.
fn left_out(files: Vec<Contents>, here: &HashMap<String, PathBuf>, length_of_archive: u64) -> Vec<LeftOut> {
    let known = |file: Contents| here.get(&file.sha256).map(|path| (file.range, path.clone(), file.size));
    let mut found: Vec<LeftOut> = files.into_iter().filter_map(known).collect();
    found.sort_by_key(|(range, ..)| std::cmp::Reverse(range.end - range.start));
    found.truncate(MOST_LEFT_OUT);
    found.sort_by_key(|(range, ..)| range.start);
    let spared: u64 = found.iter().map(|(range, ..)| range.end - range.start).sum();
    if spared < length_of_archive / LEAST_SHARE { Vec::new() } else { found }
}

/// What is fetched: everything between what is left out.
fn gaps(left_out: &[LeftOut], length_of_archive: u64) -> Vec<Range<u64>> {
    let begins = std::iter::once(0).chain(left_out.iter().map(|(range, ..)| range.end));
    let ends = left_out.iter().map(|(range, ..)| range.start).chain([length_of_archive]);
    begins.zip(ends).map(|(begin, end)| begin..end).collect()
}

/// A layer that is put together from what was fetched and what the store has.
#[derive(Debug)]
pub struct Pieces {
    pub(crate) archive: Vec<Piece>,
    /// What was fetched is in these.
    pub(crate) files: Vec<File>,
    /// Bytes that were fetched, the table of contents included.
    pub fetched: u64,
}

impl Registry {
    /// Fetches what the store lacks of a layer; none where all of it is to be fetched: because it has no table of contents, the
    /// store has little of it, or the registry does not give parts. `progress` hears of bytes so far, and of all that will come.
    ///
    /// # Errors
    /// When it is cancelled, or the store fails.
    pub fn fetch_lacking(
        &self,
        part: &Part,
        store: &Store,
        connections: usize,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Option<Pieces>, RegistryError> {
        let Some(location) = part.table.as_ref().filter(|_| part.compression == Compression::Zstd) else {
            return Ok(None);
        };
        let directory = store.layout().downloads();
        if location.length_of_archive() < WORTHWHILE || directory.join(&part.download.sha256).exists() {
            return Ok(None);
        }
        let fetched = self.fetch_pieces(part, location, store, connections, progress);
        self.client().cancel().check().map_err(FetchError::from)?;
        match fetched {
            // The whole layer may come from elsewhere, with another login, or be said to be missing.
            Err(RegistryError::Fetch(_) | RegistryError::Digest { .. }) => Ok(None),
            fetched => fetched,
        }
    }

    fn fetch_pieces(
        &self,
        part: &Part,
        location: &Location,
        store: &Store,
        connections: usize,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Option<Pieces>, RegistryError> {
        let (url, length) = (&part.download.url, location.length_of_archive());
        let directory = store.layout().downloads();
        let mut file = tempfile::tempfile_in(&directory).map_err(FetchError::Io)?;
        if !self.client().get_only_part(url, location.range.clone(), &mut file, &|_| {})? {
            return Ok(None);
        }
        let mut table = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut table)).map_err(FetchError::Io)?;
        check(&location.sha256, &table)?;
        let Some(files) = contents(&table, length) else { return Ok(None) };
        let wanted = files.iter().map(|file| (file.size, file.sha256.clone())).collect();
        let here: HashMap<_, _> = store.job(&FindFiles { wanted }, &[])?.into_iter().collect();
        let left_out = left_out(files, &here, length);
        if left_out.is_empty() {
            return Ok(None);
        }
        let gaps = gaps(&left_out, length);
        let total: u64 = gaps.iter().map(|gap| gap.end - gap.start).sum();
        let come = AtomicU64::new(0);
        let progress = |bytes| progress(come.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        let Some((files, fetched)) = fetch_gaps(&self.client(), url, &gaps, &directory, connections, &progress)? else {
            return Ok(None);
        };
        let mut archive = Vec::new();
        let mut objects = left_out.into_iter();
        for piece in fetched {
            archive.extend(Some(piece).filter(|piece| !piece.is_empty()));
            archive.extend(objects.next().map(|(_, path, size)| Piece::Object { path, size }));
        }
        Ok(Some(Pieces { archive, files, fetched: total + table.len() as u64 }))
    }
}

/// Files, and the pieces that are in them, in their order in the layer.
type Fetched = (Vec<File>, Vec<Piece>);

/// Fetches ranges over several connections, each into a file of its own; none if the registry gives no parts.
fn fetch_gaps(
    client: &Client,
    url: &str,
    gaps: &[Range<u64>],
    directory: &Path,
    connections: usize,
    progress: Progress<'_>,
) -> Result<Option<Fetched>, FetchError> {
    let (next, stop) = (AtomicUsize::new(0), CancelToken::new());
    let stopping = stop.clone();
    let _guard = client.cancel().on_cancel(move || stopping.cancel());
    let client = client.with_cancel(stop.clone());
    let fetch = |number: usize| {
        let mut file = tempfile::tempfile_in(directory)?;
        let (mut fetched, mut begin) = (Vec::new(), 0);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(gap) = gaps.get(index) else { return Ok(Some((file, fetched))) };
            if !client.get_only_part(url, gap.clone(), &mut file, progress)? {
                return Ok(None);
            }
            let length = gap.end - gap.start;
            fetched.push((index, Piece::Fetched { file: number, begin, length }));
            begin += length;
        }
    };
    let connections = connections.min(gaps.len());
    let answers: Vec<Result<_, FetchError>> = std::thread::scope(|scope| {
        let start = |number| {
            let (fetch, stop) = (&fetch, &stop);
            scope.spawn(move || {
                let fetched = fetch(number);
                if !matches!(fetched, Ok(Some(_))) {
                    stop.cancel();
                }
                fetched
            })
        };
        let threads: Vec<_> = (0..connections).map(start).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let (mut files, mut fetched) = (Vec::new(), Vec::new());
    for answer in answers {
        let Some((file, pieces)) = answer? else { return Ok(None) };
        files.push(file);
        fetched.extend(pieces);
    }
    fetched.sort_by_key(|(index, _)| *index);
    Ok(Some((files, fetched.into_iter().map(|(_, piece)| piece).collect())))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LENGTH: u64 = 10 << 20;

    fn digits(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn file(digit: char, begin: u64, end: u64) -> Value {
        let digest = format!("sha256:{}", digits(digit));
        json!({"type": "reg", "name": "f", "size": 500_000, "digest": digest, "offset": begin, "endOffset": end})
    }

    fn table(version: u64, entries: &[Value]) -> Vec<u8> {
        let text = json!({"version": version, "entries": entries}).to_string();
        zstd::encode_all(text.as_bytes(), 1).unwrap()
    }

    fn layer(checksum: &str, position: &str) -> Descriptor {
        let mut layer = Descriptor::of_digest(&digits('a'));
        layer.size = 1000;
        layer.annotations = json!({
            "io.github.containers.zstd-chunked.manifest-checksum": checksum,
            "io.github.containers.zstd-chunked.manifest-position": position,
        });
        layer
    }

    #[test]
    fn files_of_a_table_are_read() {
        let chunk = json!({"type": "chunk", "name": "f", "offset": 300_000, "chunkSize": 10});
        let link = json!({"type": "hardlink", "name": "l", "linkName": "f"});
        let entries = [file('a', 100, 500_000), chunk, link, file('b', 500_100, 500_200), file('c', 500_300, LENGTH)];
        let found = contents(&table(1, &entries), LENGTH).unwrap();
        let one = |digit, range| Contents { sha256: digits(digit), size: 500_000, range };
        assert_eq!(found, [one('a', 100..500_000), one('c', 500_300..LENGTH)]);
    }

    #[test]
    fn tables_that_make_no_sense_are_of_no_use() {
        let cases = [
            table(2, &[]),
            table(1, &[file('a', 0, LENGTH + 1)]),
            table(1, &[file('a', 0, 100_000), file('b', 99_999, 200_000)]),
            table(1, &[file('a', 200_000, 300_000), file('b', 0, 100_000)]),
            table(1, &[file('a', 100_000, 100_000)]),
            table(1, &[file('A', 0, 100_000)]),
            table(1, &[json!({"type": "reg", "size": -1})]),
            table(1, &[])[..10].to_vec(),
            zstd::encode_all(std::io::repeat(b' ').take(TABLE_LIMIT + 1), 1).unwrap(),
            b"no frame".to_vec(),
        ];
        for (number, table) in cases.iter().enumerate() {
            assert_eq!(contents(table, LENGTH), None, "{number}");
        }
    }

    #[test]
    fn annotations_say_where_a_table_is() {
        let checksum = format!("sha256:{}", digits('b'));
        let found = Location::of(&layer(&checksum, "800:100:5000:1")).unwrap();
        assert_eq!((&found.sha256, found.range.clone(), found.length_of_archive()), (&digits('b'), 800..900, 792));
        let mut old = layer("", "");
        old.annotations = json!({
            "io.containers.zstd-chunked.manifest-checksum": checksum,
            "io.containers.zstd-chunked.manifest-position": "800:200:5000:1",
        });
        assert_eq!(Location::of(&old).unwrap().range, 800..1000);
        for position in ["800:201:5000:1", "7:100:5000:1", "800:0:0:1", "800:100:5000:2", "800:100", "x:100:5000:1", ""]
        {
            assert_eq!(Location::of(&layer(&checksum, position)), None, "{position}");
        }
        assert_eq!(Location::of(&layer(&format!("{checksum}:1"), "18446744073709551615:1:1:1")), None);
        assert_eq!(Location::of(&layer("sha256:b", "800:100:5000:1")), None);
        assert_eq!(Location::of(&Descriptor::of_digest("")), None);
    }

    #[test]
    fn what_is_here_is_left_out_if_it_is_much() {
        let one = |digit, range| Contents { sha256: digits(digit), size: 500_000, range };
        let files = || vec![one('a', 100..3 << 20), one('b', 4 << 20..5 << 20), one('c', 6 << 20..9 << 20)];
        let here = |present: &str| present.chars().map(|digit| (digits(digit), PathBuf::from("objects/A/x"))).collect();
        let found = left_out(files(), &here("ca"), LENGTH);
        assert_eq!(gaps(&found, LENGTH), [0..100, 3 << 20..6 << 20, 9 << 20..LENGTH]);
        assert_eq!(left_out(files(), &here("b"), LENGTH), []);
        assert_eq!(left_out(files(), &here(""), LENGTH), []);
        let many = (0..2000).map(|number| one('a', number * 5000..number * 5000 + 4000 + number)).collect();
        let most = left_out(many, &here("a"), LENGTH);
        assert_eq!((most.len(), most[0].0.start), (MOST_LEFT_OUT, 5_000_000));
    }
}
