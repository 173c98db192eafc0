//! Python bytecode that names its source's modification time.
//!
//! Every file that package managers install gets one constant modification time. Bytecode that was valid for its source
//! stays so only if the time in its header becomes that constant as well; otherwise every import compiles again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::scan::Found;
use crate::worker::disk::{self, Result};
use crate::{JobError, Timestamp};

/// Length of the header: magic number, flags, modification time and size of the source, 4 bytes each.
const HEADER: usize = 16;

/// Path of the source that the bytecode at `path` was compiled from; `None` for anything but bytecode.
fn source(path: &[u8]) -> Option<Vec<u8>> {
    let stem = path.strip_suffix(b".pyc")?;
    let name_start = stem.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (directory, name) = stem.split_at(name_start);
    let Some(directory) = directory.strip_suffix(b"__pycache__/") else {
        return Some([stem, b".py"].concat());
    };
    // `name.cpython-311` or `name.cpython-311.opt-1`; module names have no dots.
    let module = name.split(|byte| *byte == b'.').next()?;
    Some([directory, module, b".py"].concat())
}

/// Whether the header is of bytecode for a source with this modification time and size.
fn matches(header: &[u8; HEADER], modified: i64, size: u64) -> bool {
    let [_, _, b'\r', b'\n', 0, 0, 0, 0, t0, t1, t2, t3, s0, s1, s2, s3] = *header else {
        return false;
    };
    // Python keeps the low 32 bits of both.
    u64::from(u32::from_le_bytes([s0, s1, s2, s3])) == size & 0xffff_ffff
        && i64::from(u32::from_le_bytes([t0, t1, t2, t3])) == modified & 0xffff_ffff
}

/// Rewrites the time in the header of the bytecode at `path`, if it was valid for a source among `found`.
pub(super) fn normalise(path: &[u8], on_disk: &Path, found: &[Found]) -> Result<()> {
    let Some(source) = source(path) else { return Ok(()) };
    let Ok(index) = found.binary_search_by(|item| item.path.cmp(&source)) else {
        return Ok(());
    };
    let source = &found[index].stat;
    let file: File = disk::open_with(on_disk, rustix::fs::OFlags::RDWR)?;
    let mut header = [0; HEADER];
    if file.read_exact_at(&mut header, 0).is_err() || !matches(&header, source.st_mtime, disk::size(source)) {
        return Ok(());
    }
    let time = u32::try_from(Timestamp::PACKAGE.seconds).unwrap_or_default().to_le_bytes();
    file.write_all_at(&time, 8).map_err(JobError::file("writing", on_disk))
}

/// When the last source among `found` was changed that has bytecode there, too: in seconds since 1970.
///
/// Python compares whole seconds. An edit in a later step that falls into the same second and keeps the size would run the
/// old bytecode; whoever commits waits until that second is over, as it is by itself where steps take longer.
pub(super) fn youngest_source(found: &[Found]) -> Option<i64> {
    let source_time = |item: &Found| {
        let source = source(&item.path)?;
        let index = found.binary_search_by(|item| item.path.cmp(&source)).ok()?;
        Some(found[index].stat.st_mtime)
    };
    found.iter().filter_map(source_time).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_found_by_name() {
        for (bytecode, expected) in [
            ("lib/a/__pycache__/b.cpython-311.pyc", Some("lib/a/b.py")),
            ("__pycache__/b.cpython-313.opt-2.pyc", Some("b.py")),
            ("lib/legacy.pyc", Some("lib/legacy.py")),
            ("lib/b.py", None),
        ] {
            assert_eq!(source(bytecode.as_bytes()), expected.map(|path| path.as_bytes().to_vec()));
        }
    }

    #[test]
    fn only_timestamped_headers_that_match_count() {
        let header = |flags: u8, time: u32, size: u32| {
            let mut header = [0; HEADER];
            header[..5].copy_from_slice(&[0xa7, 0x0d, b'\r', b'\n', flags]);
            header[8..12].copy_from_slice(&time.to_le_bytes());
            header[12..].copy_from_slice(&size.to_le_bytes());
            header
        };
        assert!(matches(&header(0, 1_700_000_000, 42), 1_700_000_000, 42));
        assert!(!matches(&header(1, 1_700_000_000, 42), 1_700_000_000, 42), "hash-based");
        assert!(!matches(&header(0, 1_700_000_001, 42), 1_700_000_000, 42), "stale");
        assert!(!matches(&header(0, 1_700_000_000, 43), 1_700_000_000, 42), "another size");
    }
}
