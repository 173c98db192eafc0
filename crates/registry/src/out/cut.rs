//! Where the archive of a layer is cut into pieces that are compressed each by itself: between entries, at places that depend on
//! the entries around them alone. So a change in one place leaves the pieces elsewhere as they were.

use std::io::{self, BufReader, Read};

use tar::{EntryType, Header};

/// Bytes of the blocks that archives consist of.
const BLOCK: usize = 512;
/// Most bytes of a piece.
pub(super) const LARGEST: usize = 4 << 20;
/// Fewest bytes of a piece, where no large entry comes.
const SMALLEST: usize = 256 << 10;
/// Bytes from which on an entry is in no piece with others.
const ALONE: u64 = 1 << 20;
/// A piece ends behind one of so many entries.
const ONE_OF: u64 = 32;
/// Where the initial value and the factor of the hash FNV-1a are from: its specification.
const FNV: (u64, u64) = (0xcbf2_9ce4_8422_2325, 0x0100_0000_01b3);

/// An archive that we have written, in pieces.
pub(super) struct Pieces<R> {
    archive: BufReader<R>,
    /// The header that the next piece begins with.
    header: Option<[u8; BLOCK]>,
    /// Bytes that are left of the present entry.
    left: u64,
    /// Whether the present entry may be the last of its piece.
    is_end: bool,
}

impl<R: Read> Pieces<R> {
    pub(super) fn new(archive: R) -> Self {
        Self { archive: BufReader::with_capacity(256 << 10, archive), header: None, left: 0, is_end: false }
    }

    /// The next piece, which is empty at the end.
    pub(super) fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = Vec::with_capacity(LARGEST);
        loop {
            if self.left > 0 {
                let most = self.left.min((LARGEST - piece.len()) as u64);
                let count = self.archive.by_ref().take(most).read_to_end(&mut piece)? as u64;
                self.left = if count < most { 0 } else { self.left - count };
                if self.left > 0 {
                    return Ok(piece);
                }
            }
            if self.is_end && piece.len() >= SMALLEST || piece.len() + BLOCK > LARGEST {
                return Ok(piece);
            }
            let Some(header) = self.next_header(&mut piece)? else { return Ok(piece) };
            let size = Header::from_byte_slice(&header).entry_size().unwrap_or_default();
            if size >= ALONE && !piece.is_empty() {
                self.header = Some(header);
                return Ok(piece);
            }
            piece.extend_from_slice(&header);
            self.begin(&header, size, &mut piece)?;
        }
    }

    /// The next header; what is too short for one belongs to the piece.
    fn next_header(&mut self, piece: &mut Vec<u8>) -> io::Result<Option<[u8; BLOCK]>> {
        if let Some(header) = self.header.take() {
            return Ok(Some(header));
        }
        let begin = piece.len();
        self.archive.by_ref().take(BLOCK as u64).read_to_end(piece)?;
        let header = piece[begin..].try_into().ok();
        if header.is_some() {
            piece.truncate(begin);
        }
        Ok(header)
    }

    fn begin(&mut self, header: &[u8; BLOCK], size: u64, piece: &mut Vec<u8>) -> io::Result<()> {
        self.left = size.checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX);
        let is_records = Header::from_byte_slice(header).entry_type() == EntryType::XHeader;
        self.is_end = !is_records && (size >= ALONE || hash(header).is_multiple_of(ONE_OF));
        if is_records && self.left <= (LARGEST - piece.len()) as u64 {
            let begin = piece.len();
            self.archive.by_ref().take(self.left).read_to_end(piece)?;
            self.left = 0;
            if piece[begin..].windows(6).any(|bytes| bytes == b" size=") {
                // The next header does not say how much follows it.
                self.left = u64::MAX;
            }
        }
        Ok(())
    }
}

fn hash(header: &[u8; BLOCK]) -> u64 {
    header.iter().fold(FNV.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV.1))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use lamina_store::Metadata;

    use super::super::tar::{Kind, Writer};
    use super::*;

    fn archive(files: impl IntoIterator<Item = (String, usize)>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        for (name, size) in files {
            let byte = u8::try_from(size % 251).unwrap();
            writer
                .entry(
                    name.as_bytes(),
                    &Metadata::root_owned(0o644),
                    Kind::File { size: size as u64, is_sparse: false },
                )
                .unwrap();
            writer.contents(size as u64, &mut &vec![byte; size][..]).unwrap();
        }
        writer.finish().unwrap();
        bytes
    }

    fn pieces(archive: &[u8]) -> Vec<Vec<u8>> {
        let mut pieces = Pieces::new(archive);
        std::iter::from_fn(|| Some(pieces.next().unwrap()).filter(|piece| !piece.is_empty())).collect()
    }

    fn many(changed: &str) -> Vec<u8> {
        let name = |number: usize| format!("{}/{number:05}.py", "package/".repeat(1 + number % 20));
        let files = (0..3000).map(|number| (name(number), 1000 + number * 7 % 30_000));
        archive(files.flat_map(|(name, size)| {
            let other = (name.contains("/01500.py")).then(|| (changed.to_owned(), 12_345));
            other.into_iter().chain([(name, size)])
        }))
    }

    #[test]
    fn pieces_are_the_archive_and_of_a_bounded_size() {
        let large = [("a", 100), ("b", 9 << 20), ("c", 1 << 20), ("d", 5), ("e", LARGEST - BLOCK)];
        let large = archive(large.map(|(name, size)| (name.to_owned(), size)));
        for archive in [&large[..], &many("x"), &large[..1 << 20], &large[..700], b"abc", b""] {
            let pieces = pieces(archive);
            assert!(pieces.concat() == archive);
            assert!(pieces.iter().all(|piece| piece.len() <= LARGEST));
        }
        let lengths: Vec<_> = pieces(&large).iter().map(Vec::len).collect();
        let rest = (9 << 20) + BLOCK - 2 * LARGEST;
        assert_eq!(lengths, [2 * BLOCK, LARGEST, LARGEST, rest, (1 << 20) + BLOCK, 2 * BLOCK, LARGEST, 2 * BLOCK]);
    }

    #[test]
    fn a_change_leaves_other_pieces_as_they_were() {
        let (before, after) = (pieces(&many("one")), pieces(&many("two/more")));
        assert!(before.len() > 20);
        let before: HashSet<_> = before.into_iter().collect();
        let other: Vec<_> = after.iter().filter(|piece| !before.contains(*piece)).collect();
        assert_eq!(other.len(), 1);
    }

    #[test]
    fn what_follows_a_size_that_is_too_large_for_a_header_is_no_header() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        let kind = Kind::File { size: 9 << 30, is_sparse: false };
        writer.entry(b"large", &Metadata::root_owned(0o644), kind).unwrap();
        // What it holds looks like an archive of large files.
        bytes.extend(archive((0..8).map(|number| (number.to_string(), 3 << 20))));
        let pieces = pieces(&bytes);
        assert!(pieces.concat() == bytes);
        assert!(pieces[..pieces.len() - 1].iter().all(|piece| piece.len() == LARGEST));
    }
}
