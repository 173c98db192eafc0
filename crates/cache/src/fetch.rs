//! Layers on their way from a cache into the store.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Duration;

use lamina_events::CancelToken;
use lamina_ground::seconds_since_1970;
use lamina_image::{Digest, LayerKey};
use lamina_store::{Adopted, Committed, LayerRecord, Store};

use crate::CacheError;
use crate::each::each;
use crate::entry::{Blob, Entry, Layer, RECORD_LIMIT, Record};
use crate::group::{self, Group, Object};
use crate::outbox::make_directory;
use crate::pack::{Chunk, TakeChunks, read_foot};
use crate::place::Place;
use crate::pulse::Pulse;

/// Packs that are fetched at the same time.
const CONNECTIONS: usize = 8;
/// Packs of this many bytes or less are fetched whole, unless all that is in them is there.
const SMALL: u64 = 64 << 10;
/// Records of the same kind whose layers may share groups with what is fetched.
const COMPARED: u32 = 20;
/// Chunks with as few bytes between them are fetched together.
const GAP: u64 = 32 << 10;

/// One look for the layers of a key.
pub(crate) struct Fetch<'a> {
    pub(crate) store: &'a Store,
    pub(crate) place: &'a dyn Place,
    pub(crate) key: &'a LayerKey,
    pub(crate) pulse: &'a Pulse,
    pub(crate) stop: &'a CancelToken,
}

/// A group whose chunks are known.
struct Known {
    group: Group,
    /// Where the chunks begin, with the end of the last one; nothing for a group that is known from elsewhere.
    begins: Option<Vec<u64>>,
    /// The whole pack, if it was fetched.
    whole: Option<Vec<u8>>,
}

impl Known {
    /// About how many bytes are to be fetched of a pack of this size.
    fn to_come(&self, size: u64, missing: &HashSet<Digest>) -> u64 {
        match &self.begins {
            _ if self.whole.is_some() => 0,
            Some(begins) => self.wanted(begins, missing).map(|chunk| chunk.length).sum(),
            None => {
                let is_wanted = |objects: &&Vec<Object>| objects.iter().any(|object| missing.contains(&object.digest));
                let wanted = self.group.chunks.iter().filter(is_wanted).count() as u64;
                size.saturating_mul(wanted) / (self.group.chunks.len() as u64).max(1)
            }
        }
    }

    /// The chunks that hold something of what is missing.
    fn wanted<'a>(&'a self, begins: &'a [u64], missing: &'a HashSet<Digest>) -> impl Iterator<Item = Chunk> + 'a {
        let chunks = self.group.chunks.iter().zip(begins.windows(2));
        let chunks = chunks.filter(|(objects, _)| objects.iter().any(|object| missing.contains(&object.digest)));
        chunks.map(|(objects, span)| Chunk { offset: span[0], length: span[1] - span[0], objects: objects.clone() })
    }
}

impl Fetch<'_> {
    /// The record of the layers, which are in the store then; nothing if the cache does not have them.
    pub(crate) fn run(&self) -> Result<Option<LayerRecord>, CacheError> {
        self.find().inspect_err(|error| {
            if matches!(error, CacheError::Damaged(_)) {
                self.place.discard(self.key, &[]);
            }
        })
    }

    fn find(&self) -> Result<Option<LayerRecord>, CacheError> {
        let Some(manifest) = self.place.entry(self.key, self.pulse)? else { return Ok(None) };
        self.take(&Entry::read(&manifest)?).map(Some)
    }

    fn take(&self, entry: &Entry) -> Result<LayerRecord, CacheError> {
        if entry.record.size > RECORD_LIMIT {
            return Err(CacheError::Damaged(format!("a record has {} bytes", entry.record.size)));
        }
        let record = self.bytes(&entry.record, 0..entry.record.size)?;
        entry.check_record(&record).inspect_err(|_| self.discard(&entry.record))?;
        let record = Record::read(&record, entry, self.key)?;
        let worth = Duration::try_from_secs_f64(record.step.seconds).unwrap_or_default();
        self.pulse.expect(0, worth);
        let local = self.local_groups(&record.step)?;
        // Until the store knows what the objects are for.
        let _held = self.store.hold_off_collection()?;
        let (mut files, mut bytes, mut bytes_new) = (0, 0, 0);
        for (layer, part) in record.layers.iter().zip(record.step.layers().bottom_up()) {
            self.stop.check()?;
            let (committed, new) = self.layer(layer, entry, &local)?;
            if committed.digest != part.digest || committed.content != part.content {
                return Err(CacheError::Damaged(format!("the layer `{}` is not what its record says", part.digest)));
            }
            files += committed.files;
            bytes += committed.bytes;
            bytes_new += new;
        }
        for archive in &record.archives {
            if record.layers.iter().any(|layer| layer.digest == archive.layer) {
                self.store.record_archive(archive)?;
            }
        }
        // What is said of this store is not for others to say.
        let (created, log, companion_of) = (seconds_since_1970(), None, None);
        Ok(LayerRecord { created, log, companion_of, files, bytes, bytes_new, ..record.step })
    }

    /// Groups of layers that are in the store and most likely have some in common with what is fetched.
    fn local_groups(&self, step: &LayerRecord) -> Result<HashMap<Digest, Vec<u8>>, CacheError> {
        let _working = self.pulse.work();
        let kind = step.material["kind"].as_str().unwrap_or_default();
        let mut local = HashMap::new();
        for record in self.store.recent_layers(kind, COMPARED)? {
            for tree in record.digests().bottom_up().iter().filter_map(|layer| self.store.encoded_tree(layer)) {
                let groups = group::groups(&tree).unwrap_or_default();
                local.extend(groups.into_iter().map(|group| (group.digest, group.encoded)));
            }
        }
        Ok(local)
    }

    /// Brings a layer into the store; answers it, and how many bytes of its files the store lacked.
    fn layer(
        &self,
        layer: &Layer,
        entry: &Entry,
        local: &HashMap<Digest, Vec<u8>>,
    ) -> Result<(Committed, u64), CacheError> {
        if let Some(tree) = self.store.encoded_tree(&layer.digest)
            && let Adopted::Layer(committed) = self.store.adopt_tree(&tree, self.stop)?
        {
            return Ok((committed, 0));
        }
        let known = self.known(layer, entry, local)?;
        let tree = {
            let _working = self.pulse.work();
            group::joined(known.iter().map(|known| &known.group.encoded[..]))
        };
        let tree = tree.ok().filter(|tree| Digest::of(tree) == layer.digest);
        let tree =
            tree.ok_or_else(|| CacheError::Damaged(format!("the layer `{}` is not what its name says", layer.digest)))?;
        let missing = match self.adopt(&tree)? {
            Adopted::Layer(committed) => return Ok((committed, 0)),
            Adopted::Missing(missing) => missing.into_iter().collect::<HashSet<_>>(),
        };
        let bytes_new = self.check_space(&known, &missing)?;
        self.contents(layer, entry, known, &missing)?;
        match self.adopt(&tree)? {
            Adopted::Layer(committed) => Ok((committed, bytes_new)),
            Adopted::Missing(missing) => {
                Err(CacheError::Damaged(format!("it lacks {} files of the layer `{}`", missing.len(), layer.digest)))
            }
        }
    }

    fn adopt(&self, tree: &[u8]) -> Result<Adopted, CacheError> {
        let _working = self.pulse.work();
        Ok(self.store.adopt_tree(tree, self.stop)?)
    }

    /// The groups of a layer, from the store or else from the cache.
    fn known(&self, layer: &Layer, entry: &Entry, local: &HashMap<Digest, Vec<u8>>) -> Result<Vec<Known>, CacheError> {
        let pack = |index: usize| &entry.packs[layer.groups[index].pack];
        let unknown = |index: &usize| !local.contains_key(&layer.groups[*index].group);
        let to_come = (0..layer.groups.len()).filter(unknown).map(|index| pack(index).size).sum();
        self.pulse.expect(to_come, self.pulse.worth());
        each(CONNECTIONS, self.stop, layer.groups.len(), |index| {
            let place = &layer.groups[index];
            if let Some(encoded) = local.get(&place.group) {
                let group = Group::read(encoded.clone()).map_err(|error| CacheError::Damaged(error.to_string()))?;
                return Ok(Known { group, begins: None, whole: None });
            }
            self.foot(pack(index), place.foot, &place.group)
        })
    }

    /// The group of a pack, by way of its foot.
    fn foot(&self, pack: &Blob, length: u64, expected: &Digest) -> Result<Known, CacheError> {
        let begin = if pack.size <= SMALL { 0 } else { pack.size - length };
        let bytes = self.bytes(pack, begin..pack.size)?;
        let foot = usize::try_from(pack.size - length - begin).ok().and_then(|begin| bytes.get(begin..));
        let _working = self.pulse.work();
        let (group, begins) = read_foot(foot.unwrap_or_default()).inspect_err(|_| self.discard(pack))?;
        if group.digest != *expected || begins.last() != Some(&(pack.size - length)) {
            self.discard(pack);
            return Err(CacheError::Damaged(format!("the pack `{}` is not what its record says", pack.sha256)));
        }
        Ok(Known { group, begins: Some(begins), whole: (begin == 0).then_some(bytes) })
    }

    /// Brings what files hold into the store, as far as it is missing there.
    fn contents(
        &self,
        layer: &Layer,
        entry: &Entry,
        known: Vec<Known>,
        missing: &HashSet<Digest>,
    ) -> Result<(), CacheError> {
        let wanted: Vec<(usize, Known)> = known
            .into_iter()
            .enumerate()
            .filter(|(_, known)| known.group.objects().any(|object| missing.contains(&object.digest)))
            .collect();
        let pack = |index: usize| &entry.packs[layer.groups[index].pack];
        let to_come = wanted.iter().map(|(index, known)| known.to_come(pack(*index).size, missing)).sum();
        self.pulse.expect(to_come, self.pulse.worth());
        each(CONNECTIONS, self.stop, wanted.len(), |next| {
            let (index, known) = &wanted[next];
            let (pack, place) = (pack(*index), &layer.groups[*index]);
            let fetched;
            // Of a group that is known from elsewhere, nobody knows the chunks.
            let known = if known.begins.is_some() {
                known
            } else {
                fetched = self.foot(pack, place.foot, &place.group)?;
                &fetched
            };
            let begins = known.begins.as_deref().unwrap_or_default();
            let chunks = known.wanted(begins, missing).collect();
            self.chunks(pack, known.whole.as_deref(), chunks)
        })?;
        Ok(())
    }

    /// Takes chunks of a pack, which may be there already.
    fn chunks(&self, pack: &Blob, whole: Option<&[u8]>, mut chunks: Vec<Chunk>) -> Result<(), CacheError> {
        let mut file = tempfile::tempfile_in(self.store.layout().downloads())?;
        if let Some(whole) = whole {
            file.write_all(whole)?;
        } else {
            let (mut next, mut length) = (0, 0);
            while next < chunks.len() {
                let begin = chunks[next].offset;
                let mut end = begin;
                while let Some(chunk) = chunks.get_mut(next).filter(|chunk| chunk.offset - end <= GAP) {
                    end = chunk.offset + chunk.length;
                    chunk.offset = chunk.offset - begin + length;
                    next += 1;
                }
                self.stop.check()?;
                self.place.read(pack, begin..end, &mut file, self.pulse)?;
                length += end - begin;
            }
        }
        self.stop.check()?;
        let _working = self.pulse.work();
        if self.store.job(&TakeChunks { chunks }, &[file.as_fd()])? {
            return Ok(());
        }
        self.discard(pack);
        Err(CacheError::Damaged(format!("the pack `{}` does not hold what it should", pack.sha256)))
    }

    /// Bytes that are missing, for which there has to be space: whoever has written an entry may have written anything.
    fn check_space(&self, known: &[Known], missing: &HashSet<Digest>) -> Result<u64, CacheError> {
        let objects: HashMap<Digest, u64> =
            known.iter().flat_map(|known| known.group.objects()).map(|object| (object.digest, object.size)).collect();
        let lacking = objects.iter().filter(|(digest, _)| missing.contains(digest)).map(|(_, size)| *size);
        let bytes = lacking.fold(0_u64, u64::saturating_add);
        let disk = rustix::fs::statvfs(self.store.layout().root()).map_err(std::io::Error::from)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if bytes > free {
            return Err(CacheError::Away(format!("a layer needs {bytes} bytes, and the disk of the store has {free}")));
        }
        Ok(bytes)
    }

    fn discard(&self, pack: &Blob) {
        self.place.discard(self.key, std::slice::from_ref(pack));
    }

    /// A part of something that is small.
    fn bytes(&self, blob: &Blob, part: Range<u64>) -> Result<Vec<u8>, CacheError> {
        let downloads = self.store.layout().downloads();
        make_directory(&downloads)?;
        let mut file = tempfile::tempfile_in(downloads)?;
        self.place.read(blob, part, &mut file, self.pulse)?;
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
