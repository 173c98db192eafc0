//! Packs that were made before: of a layer of which little changed, most need not be compressed only to find that a cache has them.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lamina_fetch::is_sha256;
use lamina_image::Digest;

use crate::entry::Blob;
use crate::outbox::make_directory;

/// Bytes after which the file begins anew.
const MOST_BYTES: u64 = 8 << 20;

/// What is known of packs, by the digests of their groups.
#[derive(Debug)]
pub(crate) struct MadePacks {
    path: PathBuf,
    known: Mutex<HashMap<Digest, (Blob, u64)>>,
}

impl MadePacks {
    /// Reads what was noted in a directory. What makes no sense is passed over.
    pub(crate) fn read(directory: &Path) -> Self {
        let path = directory.join("packs");
        if fs_err::metadata(&path).is_ok_and(|status| status.len() > MOST_BYTES) {
            let _ = fs_err::remove_file(&path);
        }
        let text = fs_err::read_to_string(&path).unwrap_or_default();
        let known = text.lines().filter_map(|line| {
            let [group, sha256, size, foot] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
            let (size, foot): (u64, u64) = (size.parse().ok()?, foot.parse().ok()?);
            let blob = Blob { sha256: sha256.to_owned(), size };
            (is_sha256(sha256) && foot <= size).then_some((group.parse().ok()?, (blob, foot)))
        });
        let known = Mutex::new(known.collect());
        Self { path, known }
    }

    /// The pack of a group, and how long its foot is.
    pub(crate) fn get(&self, group: &Digest) -> Option<(Blob, u64)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(group).cloned()
    }

    /// Notes a pack.
    pub(crate) fn note(&self, group: &Digest, pack: &Blob, foot: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(*group, (pack.clone(), foot));
        // Where it cannot be noted, it is made again.
        let _ = self.append(&format!("{group} {} {} {foot}\n", pack.sha256, pack.size));
    }

    fn append(&self, line: &str) -> std::io::Result<()> {
        make_directory(self.path.parent().unwrap_or(Path::new("/")))?;
        fs_err::OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_known_to_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let (group, pack) = (Digest::of(b"group"), Blob::of(b"pack"));
        let packs = MadePacks::read(directory.path());
        assert_eq!(packs.get(&group), None);
        packs.note(&group, &pack, 3);
        assert_eq!(packs.get(&group), Some((pack.clone(), 3)));
        packs.append("some thing else\n").unwrap();
        packs.append(&format!("{} {} 1 2\n", Digest::of(b"other"), pack.sha256)).unwrap();
        let next = MadePacks::read(directory.path());
        assert_eq!(next.get(&group), Some((pack, 3)));
        assert_eq!(next.get(&Digest::of(b"other")), None, "a foot is no longer than its pack");
    }
}
