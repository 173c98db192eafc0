//! Entries: what a cache says about the layers of one step.
//!
//! An entry is a manifest as the OCI image specification has it, which is named by the step's key. Its configuration is the record
//! of the step, its layers are packs. What every part is, is said by a digest, and the record says for which key it is.

use std::io::Read;

use data_encoding::HEXLOWER;
use lamina_image::{Digest, LayerKey};
use lamina_store::{ArchiveRecord, LayerRecord};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::CacheError;

/// The version of everything that is in a cache; what is of another one has other names.
pub(crate) const VERSION: u32 = 1;
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const ENTRY_TYPE: &str = "application/vnd.lamina.cache.v1";
const RECORD_TYPE: &str = "application/vnd.lamina.cache.record.v1+json.zstd";
const PACK_TYPE: &str = "application/vnd.lamina.cache.pack.v1";
/// Most bytes of a manifest, as registries have it.
pub(crate) const MANIFEST_LIMIT: u64 = 4 << 20;
/// Most bytes of a record.
pub(crate) const RECORD_LIMIT: u64 = 64 << 20;
/// Most bytes of the foot of a pack.
const FOOT_LIMIT: u64 = 64 << 20;
/// The level of compression: records are small.
const LEVEL: i32 = 19;

/// Bytes that are named by their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    /// Their SHA-256, in hexadecimal digits.
    pub(crate) sha256: String,
    /// How many there are.
    pub(crate) size: u64,
}

/// What a cache says about the layers of a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) record: Blob,
    pub(crate) packs: Vec<Blob>,
}

/// The record of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// As the index of a store has it.
    pub(crate) step: LayerRecord,
    /// Its layers, the lowest first.
    pub(crate) layers: Vec<Layer>,
    /// The archives in which layers of a registry came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) archives: Vec<ArchiveRecord>,
}

/// A layer, as it is taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// The digest of its tree.
    pub(crate) digest: Digest,
    pub(crate) groups: Vec<Place>,
}

/// Where a group is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The digest of its encoding.
    pub(crate) group: Digest,
    /// The number of its pack.
    pub(crate) pack: usize,
    /// How long the foot of that is, in bytes.
    pub(crate) foot: u64,
}

impl Blob {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { sha256: HEXLOWER.encode(&Sha256::digest(bytes)), size: bytes.len() as u64 }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Descriptor {
    fn new(media_type: &str, blob: &Blob) -> Self {
        Self { media_type: media_type.to_owned(), digest: format!("sha256:{}", blob.sha256), size: blob.size }
    }

    fn blob(&self) -> Result<Blob, CacheError> {
        let sha256 = self.digest.strip_prefix("sha256:").filter(|digits| lamina_fetch::is_sha256(digits));
        let sha256 = sha256.ok_or_else(|| damaged(format!("`{}` is no digest", self.digest)))?;
        Ok(Blob { sha256: sha256.to_owned(), size: self.size })
    }
}

impl Entry {
    /// The manifest.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, CacheError> {
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: ENTRY_TYPE.to_owned(),
            config: Descriptor::new(RECORD_TYPE, &self.record),
            layers: self.packs.iter().map(|pack| Descriptor::new(PACK_TYPE, pack)).collect(),
        };
        Ok(serde_json::to_vec(&manifest).map_err(std::io::Error::from)?)
    }

    /// Whether bytes are those of the record.
    pub(crate) fn check_record(&self, bytes: &[u8]) -> Result<(), CacheError> {
        let is_right = Blob::of(bytes) == self.record;
        is_right.then_some(()).ok_or_else(|| damaged("a record is not what its digest says".to_owned()))
    }

    /// Reads a manifest.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, CacheError> {
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|error| damaged(format!("a manifest makes no sense: {error}")))?;
        if manifest.artifact_type != ENTRY_TYPE || manifest.config.media_type != RECORD_TYPE {
            return Err(damaged(format!("a manifest is of the type `{}`", manifest.artifact_type)));
        }
        let packs = manifest.layers.iter().map(Descriptor::blob).collect::<Result<_, _>>()?;
        Ok(Self { record: manifest.config.blob()?, packs })
    }
}

impl Record {
    pub(crate) fn new(step: &LayerRecord, layers: Vec<Layer>, archives: Vec<ArchiveRecord>) -> Self {
        // Of no use elsewhere.
        let step = LayerRecord { log: None, companion_of: None, fetched_from: None, ..step.clone() };
        Self { version: VERSION, step, layers, archives }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, CacheError> {
        let text = serde_json::to_vec(self).map_err(std::io::Error::from)?;
        Ok(zstd::encode_all(&text[..], LEVEL)?)
    }

    /// Reads the record of an entry that a key has led to.
    pub(crate) fn read(bytes: &[u8], entry: &Entry, key: &LayerKey) -> Result<Self, CacheError> {
        entry.check_record(bytes)?;
        let mut text = Vec::new();
        let decoded = zstd::Decoder::new(bytes).and_then(|decoder| decoder.take(RECORD_LIMIT).read_to_end(&mut text));
        decoded.map_err(|error| damaged(format!("a record cannot be read: {error}")))?;
        let record: Self =
            serde_json::from_slice(&text).map_err(|error| damaged(format!("a record makes no sense: {error}")))?;
        let step = &record.step;
        if record.version != VERSION || step.facts.read().is_none() {
            return Err(damaged("a record was written by another version of Lamina".to_owned()));
        }
        if step.key != *key || Digest::of(step.material.to_string().as_bytes()) != key.0 {
            return Err(damaged(format!("the record of `{key}` is one of `{}`", step.key)));
        }
        let digests = record.layers.iter().map(|layer| &layer.digest);
        let places = record.layers.iter().flat_map(|layer| &layer.groups);
        let fits = |place: &Place| {
            place.foot <= FOOT_LIMIT && entry.packs.get(place.pack).is_some_and(|pack| place.foot <= pack.size)
        };
        if !digests.eq(step.digests().bottom_up()) || !places.clone().all(fits) {
            return Err(damaged("a record does not fit to its entry".to_owned()));
        }
        Ok(record)
    }
}

fn damaged(reason: String) -> CacheError {
    CacheError::Damaged(reason)
}

#[cfg(test)]
pub(crate) mod tests {
    use lamina_ground::Stack;
    use serde_json::json;

    use super::*;

    pub(crate) fn step() -> LayerRecord {
        let material = json!({"kind": "run_commands", "commands": ["true"]});
        serde_json::from_value(json!({
            "key": Digest::of(material.to_string().as_bytes()),
            "digest": Digest::of(b"layer"),
            "content": Digest::of(b"content"),
            "below": Stack::<u8>::new(),
            "title": "run_commands(\"true\")",
            "created": 1_700_000_000, "seconds": 2.5, "files": 1, "bytes": 10, "bytes_new": 10,
            "material": material, "log": "secret.log",
            "facts": {"version": 1},
        }))
        .unwrap()
    }

    fn written() -> (Entry, Vec<u8>, LayerKey) {
        let step = step();
        let place = Place { group: Digest::of(b"group"), pack: 0, foot: 7 };
        let layers = vec![Layer { digest: step.digest, groups: vec![place] }];
        let record = Record::new(&step, layers, Vec::new()).encode().unwrap();
        let pack = Blob { sha256: "1".repeat(64), size: 99 };
        (Entry { record: Blob::of(&record), packs: vec![pack] }, record, step.key)
    }

    #[test]
    fn the_form_is_pinned() {
        let (entry, record, _) = written();
        let text = String::from_utf8(zstd::decode_all(&record[..]).unwrap()).unwrap();
        insta::assert_snapshot!(text);
        let with_form = Entry { record: Blob { sha256: "0".repeat(64), size: 1 }, ..entry };
        insta::assert_snapshot!(String::from_utf8(with_form.encode().unwrap()).unwrap());
    }

    #[test]
    fn what_is_written_is_read() {
        let (entry, record, key) = written();
        assert_eq!(Entry::read(&entry.encode().unwrap()).unwrap(), entry);
        let read = Record::read(&record, &entry, &key).unwrap();
        assert_eq!(read.step, LayerRecord { log: None, ..step() });
    }

    #[test]
    fn what_is_damaged_or_foreign_is_refused() {
        let (entry, record, key) = written();
        let reason = |record: &[u8], entry: &Entry, key: &LayerKey| {
            let error = Record::read(record, entry, key).unwrap_err();
            assert!(matches!(error, CacheError::Damaged(_)), "{error}");
            error.to_string()
        };
        assert!(reason(&record[1..], &entry, &key).contains("not what its digest says"));
        assert!(reason(&record, &entry, &LayerKey(Digest::of(b"other"))).contains("is one of"));
        let with = |change: &dyn Fn(&mut Record)| {
            let mut changed = Record::read(&record, &entry, &key).unwrap();
            change(&mut changed);
            let bytes = changed.encode().unwrap();
            reason(&bytes, &Entry { record: Blob::of(&bytes), ..entry.clone() }, &key)
        };
        assert!(with(&|record| record.version = 2).contains("another version"));
        assert!(with(&|record| record.step.material["commands"] = json!(["false"])).contains("is one of"));
        assert!(with(&|record| record.step.digest = Digest::of(b"x")).contains("does not fit"));
        assert!(with(&|record| record.layers[0].groups[0].pack = 1).contains("does not fit"));
        assert!(with(&|record| record.layers[0].groups[0].foot = 100).contains("does not fit"));
        let huge = Entry { packs: vec![Blob { sha256: "1".repeat(64), size: u64::MAX }], ..entry.clone() };
        let mut changed = Record::read(&record, &entry, &key).unwrap();
        changed.layers[0].groups[0].foot = FOOT_LIMIT + 1;
        let bytes = changed.encode().unwrap();
        assert!(reason(&bytes, &Entry { record: Blob::of(&bytes), ..huge }, &key).contains("does not fit"));
        for bad in ["", "{", "{\"schemaVersion\":2}", "null"] {
            assert!(matches!(Entry::read(bad.as_bytes()), Err(CacheError::Damaged(_))), "{bad}");
        }
        let foreign = String::from_utf8(entry.encode().unwrap()).unwrap().replace("cache.v1", "cache.v2");
        assert!(Entry::read(foreign.as_bytes()).is_err());
    }
}
