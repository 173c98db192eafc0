//! What is still to be uploaded: files in the store, so that it is not lost with the process that has made the layers.

use std::collections::{BTreeMap, HashSet};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lamina_ground::seconds_since_1970;
use lamina_image::{Digest, LayerKey};
use lamina_store::Store;
use serde::{Deserialize, Serialize};

/// What nobody could upload for so long is given up.
const LONGEST: Duration = Duration::from_hours(7 * 24);
const VERSION: u32 = 1;
/// The beginning of names of files that are not complete.
const UNFINISHED: &str = ".new-";

/// The directory `outbox` of a store.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    directory: PathBuf,
}

/// The layers of a step that are to be uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    version: u32,
    /// Where to.
    pub(crate) caches: Vec<String>,
    /// Whether an entry that is there is replaced.
    pub(crate) replaces: bool,
}

impl Item {
    pub(crate) fn new(caches: Vec<String>, replaces: bool) -> Self {
        Self { version: VERSION, caches, replaces }
    }
}

impl Outbox {
    pub(crate) fn of(store: &Store) -> Self {
        Self { directory: store.layout().root().join("outbox") }
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Puts layers in; what is there of the same key is replaced.
    pub(crate) fn put(&self, key: &LayerKey, item: &Item) -> std::io::Result<()> {
        self.write(&key.to_string(), &serde_json::to_vec(item)?)
    }

    fn write(&self, name: &str, contents: &[u8]) -> std::io::Result<()> {
        make_directory(&self.directory)?;
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.directory)?;
        file.write_all(contents)?;
        file.persist(self.directory.join(name)).map(drop).map_err(|error| error.error)
    }

    /// What is in it, the oldest first.
    pub(crate) fn items(&self) -> std::io::Result<Vec<(LayerKey, Item)>> {
        let mut items: BTreeMap<(SystemTime, LayerKey), Item> = BTreeMap::new();
        for file in self.files()? {
            let Some(key) = name(&file).parse().ok() else { continue };
            let Ok(modified) = fs_err::metadata(&file).and_then(|status| status.modified()) else { continue };
            let item = fs_err::read(&file).ok().and_then(|text| serde_json::from_slice::<Item>(&text).ok());
            match item.filter(|item| item.version == VERSION) {
                Some(item) if modified.elapsed().is_ok_and(|age| age > LONGEST) => {
                    tracing::warn!(%key, caches = ?item.caches, "nobody could upload it");
                    let _ = fs_err::remove_file(file);
                }
                Some(item) => drop(items.insert((modified, key), item)),
                // Of another version, which may still come.
                None => {}
            }
        }
        Ok(items.into_iter().map(|((_, key), item)| (key, item)).collect())
    }

    /// Replaces an item by what is left of it, unless it was put in again meanwhile.
    pub(crate) fn settle(&self, key: &LayerKey, item: &Item, left: Vec<String>) -> std::io::Result<()> {
        let path = self.directory.join(key.to_string());
        let present = fs_err::read(&path).ok().and_then(|text| serde_json::from_slice::<Item>(&text).ok());
        if present.as_ref() != Some(item) {
            return Ok(());
        }
        if left.is_empty() { fs_err::remove_file(path) } else { self.put(key, &Item { caches: left, ..item.clone() }) }
    }

    /// Takes out what is to go to a cache, and word of that.
    pub(crate) fn forget(&self, cache: &str) -> std::io::Result<()> {
        for (key, item) in self.items()? {
            let left = item.caches.iter().filter(|other| *other != cache).cloned().collect::<Vec<_>>();
            if left != item.caches {
                self.settle(&key, &item, left)?;
            }
        }
        match fs_err::remove_file(self.word_file(cache)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Leaves word for the next command that something could not be uploaded.
    pub(crate) fn leave_word(&self, cache: &str, message: &str) -> std::io::Result<()> {
        self.write(&name(&self.word_file(cache)), message.as_bytes())
    }

    fn word_file(&self, cache: &str) -> PathBuf {
        self.directory.join(format!("word-{}", Digest::of(cache.as_bytes()).short()))
    }

    /// What others have left word of; it is told once.
    pub(crate) fn take_words(&self) -> Vec<String> {
        let words = self.files().unwrap_or_default().into_iter().filter(|file| name(file).starts_with("word-"));
        words
            .filter_map(|file| {
                let text = fs_err::read_to_string(&file).ok()?;
                // Who removes it tells it.
                fs_err::remove_file(&file).ok().map(|()| text)
            })
            .collect()
    }

    /// Keys that a cache is known to have. What was known long ago is asked for again: somebody may have cleared it.
    pub(crate) fn known(&self, cache: &str) -> HashSet<LayerKey> {
        let text = fs_err::read_to_string(self.known_file(cache)).unwrap_or_default();
        let oldest = seconds_since_1970().saturating_sub(LONGEST.as_secs());
        let known = |line: &str| {
            let (key, seconds) = line.split_once(' ')?;
            key.parse().ok().filter(|_| seconds.parse().is_ok_and(|seconds: u64| seconds >= oldest))
        };
        text.lines().filter_map(known).collect()
    }

    /// Notes that a cache has a key.
    pub(crate) fn note_known(&self, cache: &str, key: &LayerKey) -> std::io::Result<()> {
        make_directory(&self.directory)?;
        let mut file = fs_err::OpenOptions::new().create(true).append(true).open(self.known_file(cache))?;
        file.write_all(format!("{key} {}\n", seconds_since_1970()).as_bytes())
    }

    fn known_file(&self, cache: &str) -> PathBuf {
        self.directory.join(format!("known-{}", Digest::of(cache.as_bytes()).short()))
    }

    fn files(&self) -> std::io::Result<Vec<PathBuf>> {
        match fs_err::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| Ok(entry?.path())).collect(),
        }
    }
}

/// Makes a directory of the store, which may have been removed meanwhile and does not come again by that.
pub(crate) fn make_directory(path: &Path) -> std::io::Result<()> {
    match fs_err::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox() -> (tempfile::TempDir, Outbox) {
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox { directory: directory.path().join("outbox") };
        (directory, outbox)
    }

    #[test]
    fn what_is_put_in_stays_until_it_is_settled() {
        let (_directory, outbox) = outbox();
        let key = LayerKey(Digest::of(b"key"));
        let item = Item::new(vec!["/a".to_owned(), "/b".to_owned()], false);
        assert_eq!(outbox.items().unwrap(), []);
        outbox.put(&key, &item).unwrap();
        assert_eq!(outbox.items().unwrap(), [(key, item.clone())]);
        outbox.settle(&key, &item, vec!["/b".to_owned()]).unwrap();
        let left = Item::new(vec!["/b".to_owned()], false);
        assert_eq!(outbox.items().unwrap(), [(key, left.clone())]);
        // Put in again by somebody who has made it again.
        let again = Item::new(vec!["/b".to_owned()], true);
        outbox.put(&key, &again).unwrap();
        outbox.settle(&key, &left, Vec::new()).unwrap();
        assert_eq!(outbox.items().unwrap(), [(key, again.clone())]);
        outbox.settle(&key, &again, Vec::new()).unwrap();
        assert_eq!(outbox.items().unwrap(), []);
    }

    #[test]
    fn what_is_of_no_use_is_passed_over() {
        let (_directory, outbox) = outbox();
        let key = LayerKey(Digest::of(b"key"));
        outbox.write(&key.to_string(), b"{\"version\":2,\"caches\":[],\"replaces\":false}").unwrap();
        outbox.write("something", b"else").unwrap();
        assert_eq!(outbox.items().unwrap(), []);
    }

    #[test]
    fn words_are_told_once() {
        let (_directory, outbox) = outbox();
        outbox.leave_word("/a", "no").unwrap();
        outbox.leave_word("/a", "still no").unwrap();
        assert_eq!(outbox.take_words(), ["still no"]);
        assert!(outbox.take_words().is_empty());
    }

    #[test]
    fn what_is_for_a_cache_is_forgotten_and_the_rest_stays() {
        let (_directory, outbox) = outbox();
        let (both, one) = (LayerKey(Digest::of(b"both")), LayerKey(Digest::of(b"one")));
        outbox.put(&both, &Item::new(vec!["/a".to_owned(), "/b".to_owned()], false)).unwrap();
        outbox.put(&one, &Item::new(vec!["/a".to_owned()], false)).unwrap();
        outbox.leave_word("/a", "no").unwrap();
        outbox.forget("/a").unwrap();
        assert_eq!(outbox.items().unwrap(), [(both, Item::new(vec!["/b".to_owned()], false))]);
        assert!(outbox.take_words().is_empty());
        outbox.forget("/a").unwrap();
    }

    #[test]
    fn each_cache_is_known_to_have_what_it_has() {
        let (_directory, outbox) = outbox();
        let key = LayerKey(Digest::of(b"key"));
        outbox.note_known("/a", &key).unwrap();
        assert!(outbox.known("/a").contains(&key));
        assert!(outbox.known("/b").is_empty());
        outbox
            .write(
                &outbox.known_file("/a").file_name().unwrap().to_string_lossy(),
                format!("1 2\n{key} 1000\n").as_bytes(),
            )
            .unwrap();
        assert!(outbox.known("/a").is_empty(), "what was known long ago");
    }
}
