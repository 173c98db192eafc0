//! Layers on their way from the store into a cache.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use data_encoding::HEXLOWER;
use lamina_events::CancelToken;
use lamina_image::Digest;
use lamina_registry::original_form;
use lamina_store::{ArchiveRecord, LayerRecord, Store};
use sha2::{Digest as _, Sha256};

use crate::CacheError;
use crate::each::each;
use crate::entry::{Blob, Entry, Layer, MANIFEST_LIMIT, Place as Found, Record};
use crate::group::{self, Group};
use crate::made::MadePacks;
use crate::outbox::make_directory;
use crate::pack::{WriteChunks, foot};
use crate::place::Place;
use crate::pulse::Pulse;

/// Packs that are sent at the same time.
const CONNECTIONS: usize = 4;
const BUFFER_LENGTH: usize = 256 << 10;

/// The layers of a step on their way.
pub(crate) struct Upload<'a> {
    pub(crate) store: &'a Store,
    pub(crate) place: &'a dyn Place,
    pub(crate) made: &'a MadePacks,
    /// Whether an entry that is there is replaced.
    pub(crate) replaces: bool,
    pub(crate) stop: &'a CancelToken,
}

impl Upload<'_> {
    /// Sees to it that the cache has the layers; answers the bytes that were sent for that.
    pub(crate) fn run(&self, step: &LayerRecord) -> Result<u64, CacheError> {
        if !self.replaces && self.is_there(step)? {
            return Ok(0);
        }
        // Layers that are gone are made again by whoever needs them, and offered again.
        if !self.store.hold(step.digests().bottom_up())? {
            return Ok(0);
        }
        let sent = Mutex::new(0);
        let mut packs = Packs::default();
        let mut layers = Vec::new();
        for digest in step.digests().bottom_up() {
            layers.push(self.layer(digest, &mut packs, &sent)?);
        }
        let record = Record::new(step, layers, self.archives(step)?).encode()?;
        let entry = Entry { record: Blob::of(&record), packs: packs.all };
        let manifest = entry.encode()?;
        if manifest.len() as u64 > MANIFEST_LIMIT {
            return Err(CacheError::Damaged(format!(
                "a layer consists of {} parts, which are too many",
                entry.packs.len()
            )));
        }
        if !self.place.has(&entry.record)? {
            let mut file = tempfile::tempfile()?;
            file.write_all(&record)?;
            self.place.put(&entry.record, &file)?;
        }
        self.stop.check()?;
        self.place.put_entry(&step.key, &manifest)?;
        let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(sent + entry.record.size + manifest.len() as u64)
    }

    fn is_there(&self, step: &LayerRecord) -> Result<bool, CacheError> {
        match self.place.entry(&step.key, &Pulse::default()) {
            Err(CacheError::Damaged(_)) => Ok(false),
            manifest => Ok(manifest?.is_some_and(|manifest| Entry::read(&manifest).is_ok())),
        }
    }

    /// Sees to it that the cache has all packs of a layer.
    fn layer(&self, digest: &Digest, packs: &mut Packs, sent: &Mutex<u64>) -> Result<Layer, CacheError> {
        let damaged = || CacheError::Damaged(format!("the layer `{digest}` cannot be read"));
        let tree = self.store.encoded_tree(digest).ok_or_else(damaged)?;
        let groups = group::groups(&tree).map_err(|_| damaged())?;
        let made = each(CONNECTIONS, self.stop, groups.len(), |index| {
            let group = &groups[index];
            if let Some((pack, foot)) = self.made.get(&group.digest)
                && self.place.has(&pack)?
            {
                return Ok((pack, foot));
            }
            let (pack, foot, file) = self.pack(group)?;
            self.made.note(&group.digest, &pack, foot);
            if !self.place.has(&pack)? {
                self.place.put(&pack, &file)?;
                *sent.lock().unwrap_or_else(PoisonError::into_inner) += pack.size;
            }
            Ok((pack, foot))
        })?;
        let found = groups.iter().zip(made);
        let found = found.map(|(group, (pack, foot))| Found { group: group.digest, pack: packs.number(pack), foot });
        Ok(Layer { digest: *digest, groups: found.collect() })
    }

    /// The pack of a group, and how long its foot is.
    fn pack(&self, group: &Group) -> Result<(Blob, u64, File), CacheError> {
        let downloads = self.store.layout().downloads();
        make_directory(&downloads)?;
        let mut file = tempfile::tempfile_in(downloads)?;
        let lengths = self.store.job(&WriteChunks { chunks: group.chunks.clone() }, &[file.as_fd()])?;
        let foot = foot(group, &lengths)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(&foot)?;
        file.seek(SeekFrom::Start(0))?;
        let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER_LENGTH]);
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            size += count as u64;
        }
        Ok((Blob { sha256: HEXLOWER.encode(&hasher.finalize()), size }, foot.len() as u64, file))
    }

    /// The archives in which layers of a registry came: who fetches the layers can push them as they were.
    fn archives(&self, step: &LayerRecord) -> Result<Vec<ArchiveRecord>, CacheError> {
        let layers = step.digests();
        let layers = layers.bottom_up();
        let archive = |index: usize| self.store.archive(&layers[index], &original_form(&layers[..index])).transpose();
        Ok((0..layers.len()).filter_map(archive).collect::<Result<_, _>>()?)
    }
}

/// The distinct packs of an entry.
#[derive(Default)]
struct Packs {
    all: Vec<Blob>,
    numbers: HashMap<String, usize>,
}

impl Packs {
    fn number(&mut self, pack: Blob) -> usize {
        let next = self.all.len();
        let number = *self.numbers.entry(pack.sha256.clone()).or_insert(next);
        if number == next {
            self.all.push(pack);
        }
        number
    }
}
