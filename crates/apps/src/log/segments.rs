//! The files of a log.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::AppsError;
use crate::files::is_file;

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogPosition {
    /// The number of the segment; 0 before the first one.
    pub(super) segment: u64,
    /// Bytes of it that come before.
    pub(super) offset: u64,
}

/// The file of a segment.
pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}"))
}

/// The numbers of all segments, in their order. What has another name, or is no file, is none: whoever reads goes from each to
/// the next.
pub(super) fn all(directory: &Path) -> Result<Vec<u64>, AppsError> {
    let entries = match fs_err::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut numbers: Vec<u64> = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok()).filter(|number: &u64| *number > 0);
        let is_segment = |number: &u64| path(directory, *number) == entry.path() && is_file(&entry.path());
        numbers.extend(number.filter(is_segment));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The end of a log.
pub(crate) fn end(directory: &Path) -> LogPosition {
    let Some(segment) = all(directory).ok().and_then(|all| all.last().copied()) else { return LogPosition::default() };
    let offset = fs_err::metadata(path(directory, segment)).map_or(0, |metadata| metadata.len());
    LogPosition { segment, offset }
}
