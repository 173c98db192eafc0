//! Files whose contents a commit makes independent of the day.

use std::path::Path;

use rustix::fs::{FileType, OFlags};

use crate::worker::disk::{self, Result};
use crate::{JobError, Timestamp};

/// Replaces the day of the last password change, which is the day of the build, by that of packages.
pub(super) fn normalise(upper: &Path) -> Result<()> {
    let directory = upper.join("etc");
    let path = directory.join("shadow");
    let is_directory = disk::try_stat(&directory)?.is_some_and(|stat| disk::file_type(&stat) == FileType::Directory);
    let is_file = || {
        Ok::<_, JobError>(disk::try_stat(&path)?.is_some_and(|stat| disk::file_type(&stat) == FileType::RegularFile))
    };
    if !is_directory || !is_file()? {
        return Ok(());
    }
    let mut file = disk::open_with(&path, OFlags::RDWR)?;
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut text).map_err(JobError::file("reading", &path))?;
    let normalised = with_constant_day(&text);
    if normalised == text {
        return Ok(());
    }
    std::os::unix::fs::FileExt::write_all_at(&file, &normalised, 0).map_err(JobError::file("writing", &path))?;
    file.set_len(normalised.len() as u64).map_err(JobError::file("writing", &path))
}

/// The lines with their third field, a day, made constant. No day at all and day 0 have meanings of their own.
fn with_constant_day(text: &[u8]) -> Vec<u8> {
    let day = (Timestamp::PACKAGE.seconds / 86_400).to_string();
    let line = |line: &[u8]| -> Vec<u8> {
        let mut fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        if let Some(field) = fields.get_mut(2)
            && !field.is_empty()
            && *field != b"0"
            && field.iter().all(u8::is_ascii_digit)
        {
            *field = day.as_bytes();
        }
        fields.join(&b':')
    };
    text.split(|byte| *byte == b'\n').map(line).collect::<Vec<_>>().join(&b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_days_of_password_changes_become_constant() {
        let text = b"root:*:19834:0:99999:7:::\nnew:!:0:0:::::\nold:!::0:::::\nbad line\n";
        let expected = b"root:*:10957:0:99999:7:::\nnew:!:0:0:::::\nold:!::0:::::\nbad line\n";
        assert_eq!(with_constant_day(text), expected);
        assert_eq!(with_constant_day(expected), expected);
    }
}
