//! Small files of a layer become objects at once: their bytes are hashed while they are in memory, and a thread of its own
//! writes them. The upper gets what leads to them, so nothing is read again for the commit.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc;

use lamina_image::Digest;
use lamina_store::{JobError, Metadata, PlacedFile, Timestamp, WorkerContext};

use crate::tree::{Attributes, UNREAD};

/// Files up to this many bytes are filed. What a longer one costs is its bytes, wherever they are written.
const MOST_FILED: u64 = 1 << 20;
/// How many files may wait to be written.
const MOST_WAITING: usize = 32;

/// Bytes that are to become the object of this digest.
type Filed = (Digest, Vec<u8>);

/// Files small files, and knows which ones.
pub(super) struct Filing<'a> {
    context: &'a WorkerContext,
    to_write: mpsc::SyncSender<Filed>,
    /// Files of the upper that lead to objects, by inode.
    placed: HashMap<u64, PlacedFile>,
}

impl Filing<'_> {
    /// Whether a file can be filed: what is unusual about one is left to those who can say what is wrong with it.
    pub(super) fn takes(attributes: &Attributes, size: u64) -> bool {
        (1..=MOST_FILED).contains(&size) && (attributes.uid, attributes.gid) == (0, 0) && attributes.extended.is_empty()
    }

    /// Files what an archive has as a file of so many bytes. Nothing of that name is in the directory.
    pub(super) fn file(
        &mut self,
        directory: &OwnedFd,
        path: &Path,
        attributes: &Attributes,
        size: u64,
        contents: &mut dyn Read,
    ) -> Result<(), JobError> {
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        contents.read_to_end(&mut bytes).map_err(|error| JobError::new(UNREAD, error.to_string()))?;
        let digest = Digest::of(&bytes);
        let size = bytes.len() as u64;
        let (inode, placed) = self.context.place_announced((digest, size), &meta(attributes), directory, path)?;
        self.placed.insert(inode, placed);
        // Why nobody takes it is said in the end.
        self.to_write.send((digest, bytes)).map_err(|_| JobError::new(UNREAD, "it cannot be stored"))
    }

    /// Forgets the file that had the inode which another one has now.
    pub(super) fn forget(&mut self, inode: u64) {
        self.placed.remove(&inode);
    }
}

/// Gives `unpack` what files small files, if there is a context to do so, and says then which files of the upper of `work` lead
/// to objects.
pub(super) fn with_filing<T>(
    context: Option<&WorkerContext>,
    work: &str,
    unpack: impl FnOnce(&mut Option<Filing<'_>>) -> Result<T, JobError>,
) -> Result<T, JobError> {
    let Some(context) = context else { return unpack(&mut None) };
    let (to_write, files) = mpsc::sync_channel::<Filed>(MOST_WAITING);
    std::thread::scope(|scope| {
        let writing =
            scope.spawn(move || files.iter().try_for_each(|(digest, bytes)| context.put_made(&digest, &bytes)));
        let mut filing = Some(Filing { context, to_write, placed: HashMap::new() });
        let unpacked = unpack(&mut filing);
        let placed = filing.map(|filing| filing.placed).unwrap_or_default();
        writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        context.note_placed_files(work, placed);
        unpacked
    })
}

fn meta(attributes: &Attributes) -> Metadata {
    let modified = Timestamp {
        seconds: attributes.seconds,
        nanoseconds: u32::try_from(attributes.nanoseconds).unwrap_or_default(),
    };
    let &Attributes { mode, uid, gid, .. } = attributes;
    Metadata { mode, uid, gid, modified, xattrs: BTreeMap::new() }
}
