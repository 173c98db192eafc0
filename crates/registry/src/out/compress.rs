//! Compression on all processors, with bytes that do not depend on how many there are: pieces, each a whole frame (zstd) or
//! member (gzip), as both formats allow them one behind the other. Those of gzip have one length, those of zstd are cut where
//! entries end.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::{Arc, mpsc};

use data_encoding::HEXLOWER;
use flate2::{Compression as Level, GzBuilder};
use lamina_image::Digest;
use sha2::{Digest as _, Sha256};

use super::cut::Pieces;
use super::frames::{Frame, Kept};
use crate::unpack::Compression;
use crate::unpack::ahead::read_ahead;

/// Bytes of a piece.
const PIECE: usize = 4 << 20;
/// Levels: the defaults of both formats. Another one makes other bytes.
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 6;

/// What came of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sums {
    /// The SHA-256 of the archive, in hexadecimal digits.
    pub(super) diff_id: String,
    /// The SHA-256 of what was written.
    pub(super) sha256: String,
    /// Bytes that were written.
    pub(super) size: u64,
}

/// Compresses all that is read, in pieces of one length.
pub(super) fn compress(
    reader: &mut (dyn Read + Send),
    writer: &mut (dyn Write + Send),
    compression: Compression,
) -> io::Result<Sums> {
    if compression == Compression::None {
        return copy(reader, writer);
    }
    let mut is_first = true;
    let next = || {
        let mut piece = Vec::with_capacity(PIECE);
        reader.take(PIECE as u64).read_to_end(&mut piece)?;
        let is_end = piece.is_empty() && !std::mem::take(&mut is_first);
        Ok((!is_end).then_some(piece))
    };
    let pack = move |piece| Ok((compressed(piece, compression)?, ()));
    Ok(in_pieces(next, writer, &Arc::new(pack))?.0)
}

/// Compresses the archive of a layer by zstd; frames that are kept are not made again. Answers the frames as well.
pub(super) fn compress_layer(
    reader: &mut (dyn Read + Send),
    writer: &mut (dyn Write + Send),
    kept: &Arc<Kept>,
) -> io::Result<(Sums, Vec<Frame>)> {
    let mut pieces = Pieces::new(reader);
    let kept = Arc::clone(kept);
    let pack = move |piece: Vec<u8>| {
        let content = Digest::of(&piece);
        let bytes = match kept.find(&content) {
            Some(bytes) => bytes,
            None => compressed(piece, Compression::Zstd)?,
        };
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let frame = Frame { content, digest: Digest::of(&bytes), length };
        Ok((bytes, frame))
    };
    in_pieces(|| pieces.next().map(|piece| (!piece.is_empty()).then_some(piece)), writer, &Arc::new(pack))
}

/// Packs the pieces that `next` gives on all processors, and writes them in their order.
fn in_pieces<T: Send + 'static>(
    mut next: impl FnMut() -> io::Result<Option<Vec<u8>>>,
    writer: &mut (dyn Write + Send),
    pack: &Arc<impl Fn(Vec<u8>) -> io::Result<(Vec<u8>, T)> + Send + Sync + 'static>,
) -> io::Result<(Sums, Vec<T>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut output = Hashing { inner: writer, hasher: Sha256::new(), size: 0 };
    // Twice as many pieces are under way as there are processors.
    let (sender, pieces) = mpsc::sync_channel::<mpsc::Receiver<io::Result<(Vec<u8>, T)>>>(2 * threads);
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut notes = Vec::new();
            for piece in pieces {
                let (piece, note) = piece.recv().map_err(|_| io::Error::other("a thread that compresses ended"))??;
                output.write_all(&piece)?;
                notes.push(note);
            }
            io::Result::Ok((HEXLOWER.encode(&output.hasher.finalize()), output.size, notes))
        });
        let mut hasher = Sha256::new();
        while let Some(piece) = next()? {
            hasher.update(&piece);
            let (done, result) = mpsc::channel();
            if sender.send(result).is_err() {
                // The writer has failed, and says why.
                break;
            }
            let pack = Arc::clone(pack);
            rayon::spawn(move || {
                // Nobody waits for it where the writer has failed.
                let _ = done.send(pack(piece));
            });
        }
        drop(sender);
        let written = writing.join().map_err(|_| io::Error::other("a thread that writes archives ended"))?;
        let (sha256, size, notes) = written?;
        io::Result::Ok((Sums { diff_id: HEXLOWER.encode(&hasher.finalize()), sha256, size }, notes))
    })
}

/// Writes all that is read as it is.
fn copy(reader: &mut (dyn Read + Send), writer: &mut dyn Write) -> io::Result<Sums> {
    let (size, diff_id) = read_ahead(reader, |ahead| ahead.write_to(writer));
    Ok(Sums { sha256: diff_id.clone(), diff_id, size: size? })
}

/// What a compressed archive holds.
pub(crate) fn decompressed(file: File, compression: Compression) -> io::Result<Box<dyn Read + Send>> {
    let file = BufReader::with_capacity(256 << 10, file);
    Ok(match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(file)?),
    })
}

fn compressed(piece: Vec<u8>, compression: Compression) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(piece),
        Compression::Zstd => zstd::bulk::compress(&piece, ZSTD_LEVEL),
        Compression::Gzip => {
            let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Level::new(GZIP_LEVEL));
            encoder.write_all(&piece)?;
            encoder.finish()
        }
    }
}

struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let numbers = (0..3_000_000_u32).flat_map(|number| (number / 7).wrapping_mul(2_654_435).to_le_bytes());
        numbers.collect()
    }

    #[test]
    fn what_comes_out_is_what_went_in_and_the_same_every_time() {
        let sample = sample();
        assert!(sample.len() > 2 * PIECE);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut packed = Vec::new();
            let sums = compress(&mut &sample[..], &mut packed, compression).unwrap();
            let mut again = Vec::new();
            assert_eq!(compress(&mut &sample[..], &mut again, compression).unwrap(), sums);
            assert_eq!(packed, again);
            assert_eq!(sums.size, packed.len() as u64);
            assert_eq!(sums.sha256, HEXLOWER.encode(&Sha256::digest(&packed)));
            assert_eq!(sums.diff_id, HEXLOWER.encode(&Sha256::digest(&sample)));
            let mut unpacked = Vec::new();
            match compression {
                Compression::None => unpacked = packed,
                Compression::Gzip => {
                    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut unpacked).map(drop).unwrap();
                }
                Compression::Zstd => zstd::stream::copy_decode(&packed[..], &mut unpacked).unwrap(),
            }
            assert!(unpacked == sample);
        }
    }

    #[test]
    fn nothing_is_a_whole_archive_as_well() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut packed = Vec::new();
            compress(&mut &b""[..], &mut packed, compression).unwrap();
            assert_eq!(packed.is_empty(), compression == Compression::None);
        }
    }

    #[test]
    fn a_full_disk_is_said() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let failed = compress(&mut &sample()[..], &mut Full, Compression::Zstd).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
    }
}
