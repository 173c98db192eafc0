//! What package managers leave behind and what nobody wants in a layer.

use std::path::Path;

use rustix::fs::{FileType, OFlags};

use crate::worker::disk::{self, Result};
use crate::{JobError, Timestamp};

/// Files left out by their exact path.
const SCRATCH: [&[u8]; 17] = [
    b"etc/.pwd.lock",
    b"etc/group-",
    b"etc/gshadow-",
    b"etc/passwd-",
    b"etc/shadow-",
    b"etc/subgid-",
    b"etc/subuid-",
    b"var/cache/apt/archives/lock",
    b"var/cache/ldconfig/aux-cache",
    b"var/lib/apt/daily_lock",
    b"var/lib/dpkg/lock",
    b"var/lib/dpkg/lock-frontend",
    b"var/lib/dpkg/triggers/Lock",
    b"var/log/alternatives.log",
    b"var/log/bootstrap.log",
    b"var/log/dpkg.log",
    b"var/log/fontconfig.log",
];
/// Directories of which every file is left out, at any depth.
const SCRATCH_BELOW: [&[u8]; 3] = [b"var/cache/apt/archives/partial/", b"var/lib/apt/lists/", b"var/log/apt/"];
/// Directories of which files with these endings are left out.
const SCRATCH_ENDINGS: [(&[u8], &[u8]); 4] = [
    (b"var/cache/apt/", b".bin"),
    (b"var/cache/apt/archives/", b".deb"),
    (b"var/cache/debconf/", b"-old"),
    (b"var/lib/dpkg/", b"-old"),
];

/// Whether the path of something that is no directory is scratch of a package manager. That goes for deletions as well:
/// a layer that deletes scratch would differ from one that never saw any.
pub(super) fn is_package_scratch(path: &[u8]) -> bool {
    let ends = |(directory, ending): &(&[u8], &[u8])| {
        path.strip_prefix(*directory).is_some_and(|name| !name.contains(&b'/') && name.ends_with(ending))
    };
    SCRATCH.contains(&path)
        || SCRATCH_BELOW.iter().any(|directory| path.starts_with(directory))
        || SCRATCH_ENDINGS.iter().any(ends)
}

/// Replaces the day of the last password change, which is the day of the build, by that of packages.
pub(super) fn normalise_shadow(upper: &Path) -> Result<()> {
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
    fn scratch_is_an_exact_list() {
        for path in [
            "var/log/dpkg.log",
            "var/log/apt/history.log",
            "var/lib/apt/lists/deb.example_dists_bookworm_InRelease",
            "var/lib/apt/lists/auxfiles/x",
            "var/cache/apt/archives/zlib1g_1.2_amd64.deb",
            "var/cache/apt/archives/partial/x.deb",
            "var/cache/apt/pkgcache.bin",
            "var/cache/debconf/config.dat-old",
            "var/lib/dpkg/status-old",
            "etc/shadow-",
        ] {
            assert!(is_package_scratch(path.as_bytes()), "{path}");
        }
        for path in [
            "var/log/dpkg.log.1",
            "var/log/app/apt.log",
            "var/lib/apt/extended_states",
            "var/lib/dpkg/status",
            "var/lib/dpkg/info/x-old",
            "var/cache/apt/archives/sub/x.deb",
            "etc/shadow",
            "tmp/etc/shadow-",
        ] {
            assert!(!is_package_scratch(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn only_days_of_password_changes_become_constant() {
        let text = b"root:*:19834:0:99999:7:::\nnew:!:0:0:::::\nold:!::0:::::\nbad line\n";
        let expected = b"root:*:10957:0:99999:7:::\nnew:!:0:0:::::\nold:!::0:::::\nbad line\n";
        assert_eq!(with_constant_day(text), expected);
        assert_eq!(with_constant_day(expected), expected);
    }
}
