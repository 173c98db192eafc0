//! The cache of the dynamic loader, `/etc/ld.so.cache`, with further libraries.
//!
//! `ldconfig` of the image would write it too, but it is a program of the image and changes its files.

use std::cmp::Ordering;
use std::collections::HashMap;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// Of the older form, which has the newer one behind it.
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
const OLD_ENTRY: usize = 12;
const HEADER: usize = 48;
const ENTRY: usize = 24;
const EXTENSION_MAGIC: u32 = 0xEAA4_2174;
/// Sections of the extension.
const GENERATOR: u32 = 0;
const CAPABILITIES: u32 = 1;
/// Set in an entry's capabilities if the rest is the place of a name in the extension.
const NAMED: u64 = 1 << 62;

/// What a 64-bit library of this architecture is marked with.
const FLAGS: u32 = if cfg!(target_arch = "aarch64") { 0x0a03 } else { 0x0303 };

/// A library.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    flags: u32,
    name: Vec<u8>,
    path: Vec<u8>,
    system: u32,
    capabilities: u64,
}

/// A cache.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cache {
    entries: Vec<Entry>,
    generator: Vec<u8>,
    capabilities: Vec<Vec<u8>>,
}

/// The cache with further libraries, by name and path, which come before others of their name; `None` if it is not
/// understood. An image without one has an empty one.
pub(crate) fn with(cache: Option<&[u8]>, libraries: &[(String, String)]) -> Option<Vec<u8>> {
    let mut cache = cache.map_or_else(|| Some(Cache::default()), Cache::read)?;
    let added = libraries.iter().map(|(name, path)| Entry {
        flags: FLAGS,
        name: name.clone().into_bytes(),
        path: path.clone().into_bytes(),
        system: 0,
        capabilities: 0,
    });
    cache
        .entries
        .retain(|entry| !(entry.flags == FLAGS && libraries.iter().any(|(name, _)| name.as_bytes() == entry.name)));
    cache.entries.extend(added);
    // The order that the loader searches by; of equal names the first that fits is taken.
    cache.entries.sort_by(|one, other| compare(&other.name, &one.name).then(other.flags.cmp(&one.flags)));
    cache.write()
}

impl Cache {
    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = if bytes.starts_with(OLD_MAGIC) {
            let count = usize::try_from(u32_at(bytes, OLD_MAGIC.len())?).ok()?;
            let end = count.checked_mul(OLD_ENTRY)?.checked_add(OLD_MAGIC.len() + 4)?;
            bytes.get(end.next_multiple_of(8)..)?
        } else {
            bytes
        };
        // Little-endian, or written before that was said.
        if !bytes.starts_with(MAGIC) || !matches!(bytes.get(28)? & 3, 0 | 2) {
            return None;
        }
        let count = usize::try_from(u32_at(bytes, 20)?).ok()?;
        let table = bytes.get(HEADER..HEADER.checked_add(count.checked_mul(ENTRY)?)?)?;
        let entries = table.chunks_exact(ENTRY).map(|entry| {
            let text = |at| text_at(bytes, u32_at(entry, at)?).map(<[u8]>::to_vec);
            let capabilities = u64::from(u32_at(entry, 16)?) | u64::from(u32_at(entry, 20)?) << 32;
            let (flags, system) = (u32_at(entry, 0)?, u32_at(entry, 12)?);
            Some(Entry { flags, name: text(4)?, path: text(8)?, system, capabilities })
        });
        let mut cache = Self { entries: entries.collect::<Option<_>>()?, ..Self::default() };
        let extension = u32_at(bytes, 32)?;
        if extension != 0 {
            cache.read_extension(bytes, usize::try_from(extension).ok()?)?;
        }
        Some(cache)
    }

    fn read_extension(&mut self, bytes: &[u8], at: usize) -> Option<()> {
        if u32_at(bytes, at)? != EXTENSION_MAGIC {
            return None;
        }
        for section in 0..usize::try_from(u32_at(bytes, at + 4)?).ok()? {
            let section = at.checked_add(8 + section.checked_mul(16)?)?;
            let start = usize::try_from(u32_at(bytes, section + 8)?).ok()?;
            let size = usize::try_from(u32_at(bytes, section + 12)?).ok()?;
            let contents = bytes.get(start..start.checked_add(size)?)?;
            match u32_at(bytes, section)? {
                GENERATOR => self.generator = contents.to_vec(),
                CAPABILITIES => {
                    let names =
                        contents.chunks_exact(4).map(|place| text_at(bytes, u32_at(place, 0)?).map(<[u8]>::to_vec));
                    self.capabilities = names.collect::<Option<_>>()?;
                }
                _ => return None,
            }
        }
        let known = u64::try_from(self.capabilities.len()).ok()?;
        let is_known =
            |entry: &Entry| entry.capabilities & NAMED == 0 || entry.capabilities & u64::from(u32::MAX) < known;
        self.entries.iter().all(is_known).then_some(())
    }

    fn write(&self) -> Option<Vec<u8>> {
        let mut texts = Texts { start: HEADER + self.entries.len() * ENTRY, bytes: Vec::new(), known: HashMap::new() };
        let mut table = Vec::new();
        for entry in &self.entries {
            for number in [entry.flags, texts.place(&entry.name)?, texts.place(&entry.path)?, entry.system] {
                table.extend(number.to_le_bytes());
            }
            table.extend(entry.capabilities.to_le_bytes());
        }
        let capabilities = self.capabilities.iter().map(|name| texts.place(name)).collect::<Option<Vec<_>>>()?;
        let length = u32::try_from(texts.bytes.len()).ok()?;
        let extension = (texts.start + texts.bytes.len()).next_multiple_of(4);
        let has_extension = !self.generator.is_empty() || !capabilities.is_empty();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::try_from(self.entries.len()).ok()?.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        // Little-endian.
        bytes.extend([2, 0, 0, 0]);
        bytes.extend(if has_extension { u32::try_from(extension).ok()? } else { 0 }.to_le_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(table);
        bytes.extend(texts.bytes);
        if has_extension {
            bytes.resize(extension, 0);
            self.write_extension(&mut bytes, &capabilities)?;
        }
        Some(bytes)
    }

    fn write_extension(&self, bytes: &mut Vec<u8>, capabilities: &[u32]) -> Option<()> {
        let names: Vec<u8> = capabilities.iter().flat_map(|place| place.to_le_bytes()).collect();
        let sections = [(CAPABILITIES, &names), (GENERATOR, &self.generator)];
        let sections: Vec<_> = sections.into_iter().filter(|(_, contents)| !contents.is_empty()).collect();
        let mut start = bytes.len() + 8 + sections.len() * 16;
        bytes.extend(EXTENSION_MAGIC.to_le_bytes());
        bytes.extend(u32::try_from(sections.len()).ok()?.to_le_bytes());
        for (tag, contents) in &sections {
            for number in [*tag, 0, u32::try_from(start).ok()?, u32::try_from(contents.len()).ok()?] {
                bytes.extend(number.to_le_bytes());
            }
            start += contents.len();
        }
        for (_, contents) in &sections {
            bytes.extend(*contents);
        }
        Some(())
    }
}

/// Texts behind the table, each once.
struct Texts {
    start: usize,
    bytes: Vec<u8>,
    known: HashMap<Vec<u8>, u32>,
}

impl Texts {
    fn place(&mut self, text: &[u8]) -> Option<u32> {
        if let Some(place) = self.known.get(text) {
            return Some(*place);
        }
        let place = u32::try_from(self.start + self.bytes.len()).ok()?;
        self.bytes.extend(text);
        self.bytes.push(0);
        self.known.insert(text.to_vec(), place);
        Some(place)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn text_at(bytes: &[u8], at: u32) -> Option<&[u8]> {
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    rest.split(|byte| *byte == 0).next().filter(|text| text.len() < rest.len())
}

/// Compares names as the loader does: runs of digits as numbers, which come after everything else.
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let (mut one, mut other) = (one, other);
    while let Some((first, rest)) = one.split_first() {
        let theirs = other.first().copied().unwrap_or(0);
        match (first.is_ascii_digit(), theirs.is_ascii_digit()) {
            (true, true) => {
                let (number, their_number) = (take_number(&mut one), take_number(&mut other));
                if number != their_number {
                    return number.cmp(&their_number);
                }
            }
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) if *first != theirs => return first.cmp(&theirs),
            (false, false) => (one, other) = (rest, &other[1..]),
        }
    }
    if other.is_empty() { Ordering::Equal } else { Ordering::Less }
}

/// The number that a text begins with; takes it off.
fn take_number(text: &mut &[u8]) -> u64 {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    digits.iter().fold(0, |number: u64, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What `ldconfig -p` prints of a cache: pairs of name and path.
    fn printed(path: &std::path::Path) -> Option<Vec<(String, String)>> {
        let output = Command::new("/sbin/ldconfig").arg("-C").arg(path).arg("-p").output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let pair = |line: &str| {
            let (name, path) = line.trim().split_once(" => ")?;
            Some((name.split_whitespace().next()?.to_owned(), path.to_owned()))
        };
        Some(text.lines().filter_map(pair).collect())
    }

    fn library(name: &str, path: &str) -> (String, String) {
        (name.to_owned(), path.to_owned())
    }

    #[test]
    fn the_machines_own_cache_is_read_and_written() {
        let Ok(bytes) = fs_err::read("/etc/ld.so.cache") else { return };
        let own = std::path::Path::new("/etc/ld.so.cache");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache");
        // Sorted as the loader's own program has sorted it.
        fs_err::write(&path, with(Some(&bytes), &[]).unwrap()).unwrap();
        let Some(before) = printed(own) else { return };
        assert_eq!(printed(&path).unwrap(), before);
        let cuda = library("libcuda.so.1", "/usr/lib64/libcuda.so.1");
        let added = with(Some(&bytes), &[cuda.clone(), library("libc.so.6", "/opt/libc.so.6")]).unwrap();
        assert_eq!(with(Some(&added), std::slice::from_ref(&cuda)).unwrap(), added);
        fs_err::write(&path, added).unwrap();
        let after = printed(&path).unwrap();
        assert_eq!(after.len(), before.len() + 1);
        assert!(after.contains(&cuda), "{after:?}");
        assert!(after.contains(&library("libc.so.6", "/opt/libc.so.6")), "{after:?}");
    }

    #[test]
    fn an_image_without_one_gets_one() {
        let cuda = library("libcuda.so.1", "/usr/lib64/libcuda.so.1");
        let bytes = with(None, std::slice::from_ref(&cuda)).unwrap();
        let cache = Cache::read(&bytes).unwrap();
        assert_eq!(cache.entries.len(), 1);
        assert_eq!(cache.entries[0].path, b"/usr/lib64/libcuda.so.1");
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        let whole = with(None, &[library("liba.so.1", "/a"), library("libb.so.2", "/b")]).unwrap();
        for cut in 0..whole.len() {
            let _ = Cache::read(&whole[..cut]);
        }
        assert_eq!(with(Some(b"something else"), &[]), None);
        let mut wrong = whole.clone();
        wrong[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(with(Some(&wrong), &[]), None);
        let mut outside = whole;
        outside[HEADER + 4..HEADER + 8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(with(Some(&outside), &[]), None);
    }

    #[test]
    fn names_are_compared_as_the_loader_does() {
        for (one, other, expected) in [
            ("libc.so.6", "libc.so.6", Ordering::Equal),
            ("libc.so.10", "libc.so.9", Ordering::Greater),
            ("libc.so", "libc.so.6", Ordering::Less),
            ("lib1.so", "liba.so", Ordering::Greater),
            ("libb.so", "liba.so", Ordering::Greater),
        ] {
            assert_eq!(compare(one.as_bytes(), other.as_bytes()), expected, "{one} {other}");
            assert_eq!(compare(other.as_bytes(), one.as_bytes()), expected.reverse(), "{other} {one}");
        }
    }
}
