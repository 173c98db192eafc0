//! The indexes of channels, of which only the packages that may be wanted are taken apart.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use lamina_image::{Digest, redact};
use lamina_workshop::Workshop;
use rattler_conda_types::package::DistArchiveIdentifier;
use rattler_conda_types::{PackageRecord, RepoDataRecord, Subdir};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use crate::CondaError;
use crate::channels::Channel;
use crate::fetch::{local_path, read};
use crate::request::subdirs;

/// Largest index accepted; that of the largest public channel has some 300 MB.
const LIMIT: u64 = 2 << 30;
/// How long a fetched index counts.
const FRESH: Duration = Duration::from_hours(1);
/// What a file compressed with zstd begins with.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The names of an index, the smaller first.
const NAMES: [&str; 2] = ["repodata.json.zst", "repodata.json"];

/// The index of a channel for one platform.
#[derive(Debug)]
pub(crate) struct Repodata {
    channel: String,
    /// The public address of its packages, and where they are read from.
    address: Url,
    location: Url,
    /// Where its packages are as well: the channel's other places, in the order in which they are asked.
    others: Vec<Url>,
    json: Vec<u8>,
}

/// Fetches the indexes of channels, the strongest first; `say` is told what the user should know.
pub(crate) fn read_all(
    channels: &[Channel],
    refresh: bool,
    workshop: &Workshop<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Repodata>, CondaError> {
    let subdirs = subdirs()?;
    let mut all = Vec::new();
    for channel in channels {
        let before = all.len();
        for subdir in subdirs {
            workshop.cancel.check()?;
            let Some((json, location)) = read_one(channel, subdir, refresh, workshop, say)? else { continue };
            let below = |base: &Url| {
                let below = base.join(&format!("{}/", subdir.as_str()));
                below.map_err(|error| malformed(base, &error))
            };
            all.push(Repodata {
                channel: channel.address.to_string(),
                address: below(&channel.address)?,
                location: below(location)?,
                others: channel
                    .locations
                    .iter()
                    .filter(|other| *other != location)
                    .map(below)
                    .collect::<Result<_, _>>()?,
                json,
            });
        }
        if all.len() == before {
            return Err(CondaError::NoRepodata {
                channel: channel.name.clone(),
                subdir: subdirs.map(Subdir::as_str).join(" or "),
                url: channel.locations.iter().map(|url| redact(url.as_str())).collect::<Vec<_>>().join("` or `"),
            });
        }
    }
    Ok(all)
}

/// The text of one index, and the place of the channel that it is from; `None` if no place has one. What was kept longer ago
/// counts where no place answers.
fn read_one<'a>(
    channel: &'a Channel,
    subdir: Subdir,
    refresh: bool,
    workshop: &Workshop<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Option<(Vec<u8>, &'a Url)>, CondaError> {
    let mut failure = None;
    for location in &channel.locations {
        match read_from(location, subdir, refresh, workshop) {
            Ok(Some(json)) => {
                if let Some(error) = failure {
                    let shown = redact(location.as_str());
                    say(&format!("`{}` is read from the mirror `{shown}`: {error}", channel.name));
                }
                return Ok(Some((json, location)));
            }
            Ok(None) => {}
            Err(error @ (CondaError::Fetch(_) | CondaError::Repodata { .. } | CondaError::Local(_))) => {
                failure.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let Some(error) = failure else { return Ok(None) };
    for location in channel.locations.iter().filter(|location| local_path(location).is_none()) {
        if let Some(bytes) = Kept::of(&place(location, subdir, NAMES[1])?, workshop).read(None) {
            say(&format!("the kept index of `{}` for {} is used: {error}", channel.name, subdir.as_str()));
            return Ok(Some((text(bytes, location)?, location)));
        }
    }
    Err(error)
}

/// Where a file of an index is.
fn place(location: &Url, subdir: Subdir, name: &str) -> Result<Url, CondaError> {
    location.join(&format!("{}/{name}", subdir.as_str())).map_err(|error| malformed(location, &error))
}

/// The text of an index from this place.
fn text(bytes: Vec<u8>, location: &Url) -> Result<Vec<u8>, CondaError> {
    Ok(unpack(&bytes).map_err(|error| malformed(location, &error))?.unwrap_or(bytes))
}

/// The text of one index in one place, or what was kept of it lately.
fn read_from(
    location: &Url,
    subdir: Subdir,
    refresh: bool,
    workshop: &Workshop<'_>,
) -> Result<Option<Vec<u8>>, CondaError> {
    let kept = if local_path(location).is_none() {
        let kept = Kept::of(&place(location, subdir, NAMES[1])?, workshop);
        if let Some(bytes) = kept.read(Some(FRESH)).filter(|_| !refresh) {
            return text(bytes, location).map(Some);
        }
        Some(kept)
    } else {
        None
    };
    for name in NAMES {
        let Some(bytes) = read(&place(location, subdir, name)?, LIMIT, workshop)? else { continue };
        // What is no index must not take the place of one that was kept.
        let unpacked = unpack(&bytes).map_err(|error| malformed(location, &error))?;
        if let Some(kept) = kept {
            kept.write(&bytes)?;
        }
        return Ok(Some(unpacked.unwrap_or(bytes)));
    }
    Ok(None)
}

/// The text of an index, if that is compressed. An error if it is none.
fn unpack(bytes: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
    let unpacked = if bytes.starts_with(&ZSTD) {
        let mut json = Vec::new();
        zstd::Decoder::new(bytes)?.take(LIMIT + 1).read_to_end(&mut json)?;
        if json.len() as u64 > LIMIT {
            return Err(std::io::Error::other(format!("it is larger than {LIMIT} bytes")));
        }
        Some(json)
    } else {
        None
    };
    serde_json::from_slice::<File<'_>>(unpacked.as_deref().unwrap_or(bytes))?;
    Ok(unpacked)
}

fn malformed(url: &Url, reason: &dyn std::fmt::Display) -> CondaError {
    CondaError::Repodata { url: redact(url.as_str()).into_owned(), reason: reason.to_string() }
}

/// An index that was fetched before.
struct Kept {
    path: PathBuf,
}

impl Kept {
    fn of(url: &Url, workshop: &Workshop<'_>) -> Self {
        let directory = workshop.store.layout().conda_indexes();
        Self { path: directory.join(&Digest::of(url.as_str().as_bytes()).hex()[..32]) }
    }

    /// What was kept, if it is not older than this.
    fn read(&self, age: Option<Duration>) -> Option<Vec<u8>> {
        let written = fs::metadata(&self.path).ok()?.modified().ok()?;
        let is_fresh = age.is_none_or(|age| SystemTime::now().duration_since(written).is_ok_and(|passed| passed < age));
        if is_fresh { fs::read(&self.path).ok() } else { None }
    }

    /// Keeps an index: readers see the former or this one.
    fn write(&self, bytes: &[u8]) -> Result<(), CondaError> {
        let directory = self.path.parent().unwrap_or(&self.path);
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// An index as it is written; the descriptions of packages stay text.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow, default)]
    info: Option<Information<'a>>,
    #[serde(borrow, default)]
    packages: HashMap<&'a str, &'a RawValue>,
    #[serde(borrow, default, rename = "packages.conda")]
    conda_packages: HashMap<&'a str, &'a RawValue>,
}

#[derive(Deserialize)]
struct Information<'a> {
    /// Where the packages are, if not beside the index.
    #[serde(borrow, default)]
    base_url: Option<&'a str>,
}

/// An index by names of packages.
pub(crate) struct Index<'a> {
    channel: &'a str,
    address: Url,
    locations: Vec<Url>,
    files: HashMap<&'a str, Vec<(&'a str, &'a RawValue)>>,
}

impl Repodata {
    /// Where it is read from, for people.
    pub(crate) fn shown(&self) -> String {
        redact(self.location.as_str()).into_owned()
    }

    /// Finds out which files belong to which name.
    pub(crate) fn index(&self) -> Result<Index<'_>, CondaError> {
        let file: File<'_> = serde_json::from_slice(&self.json).map_err(|error| malformed(&self.location, &error))?;
        let moved = file.info.and_then(|info| info.base_url);
        let base = |url: &Url| match moved {
            // A directory, however it is written.
            Some(base) => url.join(&format!("{}/", base.trim_end_matches('/'))).map_err(|error| malformed(url, &error)),
            None => Ok(url.clone()),
        };
        let mut files: HashMap<&str, Vec<_>> = HashMap::new();
        let stems: HashSet<&str> = file.conda_packages.keys().filter_map(|name| name.strip_suffix(".conda")).collect();
        // The same package in the older form is of no use.
        let older = file
            .packages
            .into_iter()
            .filter(|(name, _)| name.strip_suffix(".tar.bz2").is_none_or(|stem| !stems.contains(stem)));
        for (name, record) in older.chain(file.conda_packages) {
            // Records of packages are named after them.
            if let Some(package) = name.rsplitn(3, '-').nth(2).filter(|_| !name.contains('/')) {
                files.entry(package).or_default().push((name, record));
            }
        }
        for files in files.values_mut() {
            files.sort_unstable_by_key(|(name, _)| *name);
        }
        let locations = std::iter::once(&self.location).chain(&self.others).map(base).collect::<Result<_, _>>()?;
        Ok(Index { channel: &self.channel, address: base(&self.address)?, locations, files })
    }
}

impl Index<'_> {
    /// The packages of a name. A description that cannot be understood is one that newer programs understand.
    fn records(&self, name: &str) -> Vec<RepoDataRecord> {
        let files = self.files.get(name).map_or(&[][..], Vec::as_slice);
        let record = |(name, record): &(&str, &RawValue)| {
            let package_record: PackageRecord = serde_json::from_str(record.get()).ok()?;
            let identifier = DistArchiveIdentifier::try_from_filename(name)?;
            let url = self.address.join(name).ok()?;
            Some(RepoDataRecord { package_record, identifier, url, channel: Some(self.channel.to_owned()) })
        };
        files.par_iter().filter_map(record).collect()
    }

    /// Where a package of this index is read from.
    fn locations_of(&self, url: &Url) -> Option<Vec<Url>> {
        let name = url.as_str().strip_prefix(self.address.as_str())?;
        self.locations.iter().map(|location| location.join(name).ok()).collect()
    }
}

/// Where a package is read from: the places that may have it, in the order in which they are asked.
pub(crate) fn locations_of(url: &Url, indexes: &[Index<'_>]) -> Vec<Url> {
    indexes.iter().find_map(|index| index.locations_of(url)).unwrap_or_else(|| vec![url.clone()])
}

/// All packages with these names, and all that they may need, by index.
pub(crate) fn closure(indexes: &[Index<'_>], names: impl IntoIterator<Item = String>) -> Vec<Vec<RepoDataRecord>> {
    let mut found: Vec<Vec<RepoDataRecord>> = indexes.iter().map(|_| Vec::new()).collect();
    let mut seen: HashSet<String> = HashSet::new();
    let mut waiting: BTreeSet<String> = names.into_iter().collect();
    while let Some(name) = waiting.pop_first() {
        if !seen.insert(name.clone()) {
            continue;
        }
        for (index, found) in indexes.iter().zip(&mut found) {
            let records = index.records(&name);
            let needed = records.iter().flat_map(|record| &record.package_record.depends);
            let needed = needed.filter_map(|spec| package_name(spec)).filter(|name| !seen.contains(*name));
            waiting.extend(needed.map(str::to_owned));
            found.extend(records);
        }
    }
    found
}

/// The name in a specification, without taking the rest apart.
fn package_name(spec: &str) -> Option<&str> {
    let spec = spec.rsplit_once("::").map_or(spec, |(_, spec)| spec).trim_start();
    let end = spec.find(|character: char| character.is_whitespace() || "=<>!~[;,".contains(character));
    let name = &spec[..end.unwrap_or(spec.len())];
    (!name.is_empty() && !name.starts_with("__")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repodata(json: &str) -> Repodata {
        let url = |text: &str| Url::parse(text).unwrap();
        Repodata {
            channel: "https://public.invalid/c/".to_owned(),
            address: url("https://public.invalid/c/noarch/"),
            location: url("file:///srv/c/noarch/"),
            others: vec![url("https://mirror.invalid/c/noarch/")],
            json: json.as_bytes().to_vec(),
        }
    }

    fn record(name: &str, version: &str, depends: &str) -> String {
        format!(
            r#"{{"name":"{name}","version":"{version}","build":"0","build_number":0,"depends":[{depends}],"subdir":"noarch"}}"#
        )
    }

    #[test]
    fn only_what_may_be_needed_is_taken_apart() {
        let json = format!(
            r#"{{"info":{{"subdir":"noarch"}},"packages":{{"a-b-1.0-0.tar.bz2":{},"old-1-0.tar.bz2":{},"broken-1-0.tar.bz2":{{}}}},
                "packages.conda":{{"a-b-1.0-0.conda":{},"c-2-0.conda":{},"other-1-0.conda":{{"name":7}}}},"removed":[]}}"#,
            record("a-b", "1.0", ""),
            record("old", "1", ""),
            record("a-b", "1.0", r#""c >=1,<3","__glibc >=2.17","x::broken=1""#),
            record("c", "2", ""),
        );
        let repodata = repodata(&json);
        let index = [repodata.index().unwrap()];
        let found = closure(&index, ["a-b".to_owned()]);
        let names: Vec<_> = found[0].iter().map(|record| record.identifier.to_file_name()).collect();
        assert_eq!(names, ["a-b-1.0-0.conda", "c-2-0.conda"]);
        let url = &found[0][0].url;
        assert_eq!(url.as_str(), "https://public.invalid/c/noarch/a-b-1.0-0.conda");
        let places = locations_of(url, &index).into_iter().map(String::from).collect::<Vec<_>>();
        assert_eq!(places, ["file:///srv/c/noarch/a-b-1.0-0.conda", "https://mirror.invalid/c/noarch/a-b-1.0-0.conda"]);
    }

    #[test]
    fn files_of_packages_are_in_no_other_directory() {
        let json = format!(
            r#"{{"packages.conda":{{"c-2-../../../c.conda":{0},"../c-2-0.conda":{0},"c-2-1.conda":{0}}}}}"#,
            record("c", "2", "")
        );
        let repodata = repodata(&json);
        let found = closure(&[repodata.index().unwrap()], ["c".to_owned()]);
        let names: Vec<_> = found[0].iter().map(|record| record.identifier.to_file_name()).collect();
        assert_eq!(names, ["c-2-1.conda"]);
    }

    #[test]
    fn packages_may_be_elsewhere() {
        let json = format!(
            r#"{{"info":{{"base_url":"../files"}},"packages.conda":{{"c-2-0.conda":{}}}}}"#,
            record("c", "2", "")
        );
        let repodata = repodata(&json);
        let index = [repodata.index().unwrap()];
        let found = closure(&index, ["c".to_owned()]);
        assert_eq!(found[0][0].url.as_str(), "https://public.invalid/c/files/c-2-0.conda");
        assert_eq!(locations_of(&found[0][0].url, &index)[0].as_str(), "file:///srv/c/files/c-2-0.conda");
    }

    #[test]
    fn an_index_that_is_none_is_named() {
        let error = repodata("<html>").index().err().unwrap();
        assert!(error.to_string().starts_with("the package index `file:///srv/c/noarch/` cannot be read: "), "{error}");
    }

    #[test]
    fn compressed_indexes_are_unpacked() {
        let packed = zstd::encode_all(&b"{}"[..], 1).unwrap();
        assert_eq!(unpack(&packed).unwrap().unwrap(), b"{}");
        assert_eq!(unpack(b"{}").unwrap(), None);
        for broken in [&packed[..packed.len() - 1], b"<html>", b"", b"{\"packages\": 7}"] {
            assert!(unpack(broken).is_err(), "{}", String::from_utf8_lossy(broken));
        }
    }
}
