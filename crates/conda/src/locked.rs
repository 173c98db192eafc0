//! Packages that are named by address, in lists of addresses and in locks: nothing is solved for them, and what they are
//! stands in themselves.

use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use data_encoding::HEXLOWER;
use fs_err::File;
use lamina_fetch::{Download, is_sha256};
use lamina_image::redact;
use lamina_workshop::Workshop;
use md5::Md5;
use rattler_conda_types::package::{DistArchiveIdentifier, IndexJson, PackageFile};
use rattler_conda_types::{PackageRecord, RepoDataRecord};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::archive::Archive;
use crate::fetch::local_path;
use crate::known::{Known, recall, remember};
use crate::request::subdirs;
use crate::{CondaError, Settings};

/// Downloads at a time.
const CONNECTIONS: usize = 8;

/// A package that is named by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Locked {
    pub(crate) url: Url,
    /// Its digests, as far as they are known, in lower-case hexadecimal.
    pub(crate) md5: Option<String>,
    pub(crate) sha256: Option<String>,
}

impl Locked {
    /// An address, or an absolute path, with a digest behind `#` or none.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let (address, digest) = line.split_once('#').map_or((line, None), |(address, digest)| (address, Some(digest)));
        let shown = redact(address);
        let url = if address.starts_with('/') { Url::from_file_path(address).ok() } else { Url::parse(address).ok() };
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https" | "file"));
        let url = url.ok_or_else(|| format!("`{shown}` is no address of a package"))?;
        let mut locked = Self { url, md5: None, sha256: None };
        if let Some(digest) = digest {
            let digest = digest.strip_prefix("sha256:").unwrap_or(digest).to_ascii_lowercase();
            if is_sha256(&digest) {
                locked.sha256 = Some(digest);
            } else if is_md5(&digest) {
                locked.md5 = Some(digest);
            } else {
                return Err(format!("`{digest}` behind `{shown}` is neither an MD5 nor a SHA-256"));
            }
        }
        Ok(locked)
    }

    /// The digest that says which package it is, the stronger one if there are two.
    fn digest(&self) -> Option<&str> {
        self.sha256.as_deref().or(self.md5.as_deref())
    }

    fn file_name(&self) -> &str {
        self.url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default()
    }

    fn wrong(&self, reason: impl Into<String>) -> CondaError {
        CondaError::Package { package: self.file_name().to_owned(), reason: reason.into() }
    }
}

/// Whether a text is an MD5 in lower-case hexadecimal.
pub(crate) fn is_md5(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A package with what it says about itself, and where it is read from.
pub(crate) type Found = (RepoDataRecord, Url);

/// A package, and what it says about itself if that was not known before.
type Answer = (Found, Option<Known>);

/// Fetches packages, and reads what they are.
pub(crate) fn find(locked: &[Locked], settings: &Settings, workshop: &Workshop<'_>) -> Result<Vec<Found>, CondaError> {
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<(usize, Answer)>> = Mutex::default();
    let failure: Mutex<Option<CondaError>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS.min(locked.len()) {
            scope.spawn(|| {
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    let Some(package) = locked.get(position) else { return };
                    match find_one(package, settings, workshop) {
                        Ok(one) => found.lock().unwrap_or_else(PoisonError::into_inner).push((position, one)),
                        Err(error) => {
                            next.store(locked.len(), Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(position, _)| *position);
    let mut fresh = Vec::new();
    let mut all = Vec::new();
    for (position, (one, known)) in found {
        all.push(one);
        fresh.extend(locked[position].digest().map(str::to_owned).zip(known));
    }
    remember(fresh, workshop.store)?;
    Ok(all)
}

/// Finds one package.
fn find_one(locked: &Locked, settings: &Settings, workshop: &Workshop<'_>) -> Result<Answer, CondaError> {
    workshop.cancel.check()?;
    let name = locked.file_name();
    let identifier = DistArchiveIdentifier::try_from_filename(name)
        .ok_or_else(|| locked.wrong("its name is not that of a conda package"))?;
    let outside = || locked.wrong("its address is not below that of a channel and a platform");
    let directory = locked.url.join(".").map_err(|_| outside())?;
    let subdir = directory.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let ours = subdirs()?.map(|subdir| subdir.as_str().to_owned());
    if !ours.contains(&subdir) {
        let reason = format!("it is for `{subdir}`, and the image takes packages for {}", ours.join(" and "));
        return Err(locked.wrong(reason));
    }
    let channel = directory.join("..").map_err(|_| outside())?;
    let channel = settings.channels(channel.as_str())?.pop().ok_or_else(outside)?;
    let below = |base: &Url| base.join(&format!("{subdir}/{name}")).map_err(|_| outside());
    let url = below(&channel.address)?;
    let locations = channel.locations.iter().map(below).collect::<Result<Vec<_>, _>>()?;
    let kept = locked.digest().map(|digest| recall(digest, workshop.store)).transpose()?.flatten();
    let is_new = kept.is_none();
    let (known, location) = match (kept, locations.first()) {
        (Some(known), Some(location)) => (known, location.clone()),
        _ => ask(locked, &locations, workshop)?,
    };
    let understood = |error: &dyn std::fmt::Display| locked.wrong(format!("its `info/index.json` is wrong: {error}"));
    let index = IndexJson::from_slice(known.index.as_bytes()).map_err(|error| understood(&error))?;
    let mut package_record =
        PackageRecord::from_index_json(index, Some(known.size), None, None).map_err(|error| understood(&error))?;
    let digest = HEXLOWER.decode(known.sha256.as_bytes()).unwrap_or_default();
    package_record.sha256 = digest.try_into().ok().map(|digest: [u8; 32]| digest.into());
    package_record.subdir.clone_from(&subdir);
    let stem = format!("{}-{}-{}", package_record.name.as_normalized(), package_record.version, package_record.build);
    if name.strip_prefix(&stem).is_none_or(|ending| !matches!(ending, ".conda" | ".tar.bz2")) {
        return Err(locked.wrong(format!("it says that it is `{stem}`")));
    }
    let channel = Some(channel.address.to_string());
    Ok(((RepoDataRecord { package_record, identifier, url, channel }, location), is_new.then_some(known)))
}

/// Fetches a package, and reads what it says about itself; from the first place that has it.
fn ask(locked: &Locked, locations: &[Url], workshop: &Workshop<'_>) -> Result<(Known, Url), CondaError> {
    let (file, sha256, location) = obtain_first(locked, locations, workshop)?;
    let size = file.metadata()?.len();
    let metadata = Archive::open(file.into(), locked.file_name()).and_then(|mut archive| archive.metadata());
    let mut metadata = metadata.map_err(|reason| locked.wrong(reason))?;
    let index = metadata.remove("index.json").ok_or_else(|| locked.wrong("it has no `info/index.json`"))?;
    let index = String::from_utf8(index).map_err(|_| locked.wrong("its `info/index.json` is no text"))?;
    Ok((Known { sha256, size, index }, location))
}

/// What the first place that has the package gives, and the place.
fn obtain_first(
    locked: &Locked,
    locations: &[Url],
    workshop: &Workshop<'_>,
) -> Result<(File, String, Url), CondaError> {
    let mut failure = None;
    for location in locations {
        match obtain(locked, location, workshop) {
            Ok((file, sha256)) => return Ok((file, sha256, location.clone())),
            Err(error @ (CondaError::Fetch(_) | CondaError::Local(_))) => drop(failure.get_or_insert(error)),
            Err(error) => return Err(error),
        }
    }
    Err(failure.unwrap_or_else(|| locked.wrong("its channel is nowhere")))
}

/// The file of a package and its SHA-256, once it is the one that is meant.
fn obtain(locked: &Locked, location: &Url, workshop: &Workshop<'_>) -> Result<(File, String), CondaError> {
    let downloads = workshop.store.layout().downloads();
    let nothing = |_: u64| ();
    if let Some(path) = local_path(location) {
        let file = File::open(path).map_err(CondaError::Local)?;
        return checked(locked, file, workshop);
    }
    let path = match &locked.sha256 {
        Some(sha256) => {
            let download = Download { url: location.to_string(), sha256: sha256.clone(), size: None };
            workshop.fetch.download(&download, &downloads, &nothing)?
        }
        None => workshop.fetch.download_unknown(location.as_str(), &downloads, &nothing)?,
    };
    checked(locked, File::open::<&Path>(&path)?, workshop)
}

/// Compares a file with the digests that are known.
fn checked(locked: &Locked, mut file: File, workshop: &Workshop<'_>) -> Result<(File, String), CondaError> {
    let mut digests = Digests { sha256: Sha256::new(), md5: locked.md5.as_ref().map(|_| Md5::new()) };
    std::io::copy(&mut workshop.cancel.watch(&mut file), &mut digests).map_err(|error| {
        match workshop.cancel.check() {
            Err(cancelled) => cancelled.into(),
            Ok(()) => CondaError::Local(error),
        }
    })?;
    let sha256 = HEXLOWER.encode(&digests.sha256.finalize());
    let md5 = digests.md5.map(|digest| HEXLOWER.encode(&digest.finalize()));
    for (kind, found, wanted) in
        [("SHA-256", Some(&sha256), locked.sha256.as_ref()), ("MD5", md5.as_ref(), locked.md5.as_ref())]
    {
        if let Some((found, wanted)) = found.zip(wanted).filter(|(found, wanted)| found != wanted) {
            return Err(locked.wrong(format!("its {kind} is `{found}`, but the file asks for `{wanted}`")));
        }
    }
    Ok((file, sha256))
}

/// Digests of what is written.
struct Digests {
    sha256: Sha256,
    md5: Option<Md5>,
}

impl std::io::Write for Digests {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.sha256.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_digests_behind_them() {
        let (md5, sha256) = ("0a".repeat(16), "0b".repeat(32));
        let parse = |line: &str| Locked::parse(line).unwrap();
        let url = "https://x.invalid/c/noarch/a-1-0.conda";
        assert_eq!((parse(url).md5, parse(url).sha256), (None, None));
        assert_eq!(parse(&format!("{url}#{}", md5.to_uppercase())).md5, Some(md5));
        for ending in [sha256.clone(), format!("sha256:{sha256}")] {
            let locked = parse(&format!("{url}#{ending}"));
            assert_eq!((locked.url.as_str(), locked.sha256.as_ref()), (url, Some(&sha256)));
        }
        assert_eq!(parse("/srv/c/noarch/a-1-0.conda").url.as_str(), "file:///srv/c/noarch/a-1-0.conda");
        for line in ["numpy", "ftp://x.invalid/a-1-0.conda", &format!("{url}#12")] {
            assert!(Locked::parse(line).is_err(), "{line}");
        }
    }
}
