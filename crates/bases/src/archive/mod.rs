//! Debian's archive: release files, their signatures, and package indexes.

mod release;

use std::io::Read;
use std::path::Path;

use lamina_events::CancelToken;
use lamina_fetch::{Client, Download, FetchError};
use lamina_ground::seconds_since_1970;

use crate::mirror::Mirror;
use crate::openpgp::{self, Keys};
use crate::packages::{Index, add_packages};
use crate::plan::architecture;
use crate::{BaseError, Suite};
use release::Release;

/// Largest release file accepted; real ones have about 150 kB.
const RELEASE_LIMIT: u64 = 16 << 20;
/// Largest unpacked index accepted; real ones have about 50 MB.
const INDEX_LIMIT: u64 = 1 << 30;

/// One of a suite's parts: the release itself, its updates, its security updates.
struct Part<'a> {
    archive: &'a str,
    suite: String,
    optional: bool,
}

/// Fetches and verifies a suite's release files and package indexes; answers all packages, in their newest versions.
pub(crate) fn read(suite: Suite, mirror: &Mirror, fetch: &Client, downloads: &Path) -> Result<Index, BaseError> {
    let keys = Keys::load(&mirror.keyring)?;
    let main = fetch_release(&Part::release(&mirror.archive, suite), mirror, &keys, fetch)?;
    let mut further = vec![Part { archive: &mirror.archive, suite: format!("{suite}-updates"), optional: true }];
    further.extend(mirror.security.as_deref().map(|archive| Part {
        archive,
        suite: format!("{suite}-security"),
        optional: false,
    }));
    let part = Part::release(&mirror.archive, suite);
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> =
            further.into_iter().map(|part| scope.spawn(|| read_part(part, mirror, &keys, fetch, downloads))).collect();
        let text = fetch_index(&part, &main, fetch, downloads)?;
        let mut parts = vec![(part, main, text)];
        for thread in threads {
            parts.extend(thread.join().map_err(|_| std::io::Error::other("a reading thread ended"))??);
        }
        Ok::<_, BaseError>(parts)
    })?;
    merge(&parts, fetch.cancel())
}

impl<'a> Part<'a> {
    fn release(archive: &'a str, suite: Suite) -> Self {
        Self { archive, suite: suite.name().into(), optional: false }
    }

    fn address(&self, name: &str) -> String {
        format!("{}/dists/{}/{name}", self.archive, self.suite)
    }
}

fn is_unknown_suite(error: &BaseError) -> bool {
    matches!(error, BaseError::UnknownSuite { .. })
}

/// A part's release file and index; `None` if it is optional and not there.
fn read_part<'a>(
    part: Part<'a>,
    mirror: &Mirror,
    keys: &Keys,
    fetch: &Client,
    downloads: &Path,
) -> Result<Option<(Part<'a>, Release, Vec<u8>)>, BaseError> {
    let release = match fetch_release(&part, mirror, keys, fetch) {
        Err(error) if part.optional && is_unknown_suite(&error) => return Ok(None),
        other => other?,
    };
    let index = fetch_index(&part, &release, fetch, downloads)?;
    Ok(Some((part, release, index)))
}

fn fetch_release(part: &Part<'_>, mirror: &Mirror, keys: &Keys, fetch: &Client) -> Result<Release, BaseError> {
    let url = part.address("InRelease");
    let bytes = fetch.get(&url, RELEASE_LIMIT).map_err(|error| {
        if matches!(error, FetchError::Cancelled(_)) {
            return BaseError::from(error);
        }
        if !error.is_not_found() {
            return BaseError::Unreachable { origin: mirror.origin.clone(), source: error };
        }
        BaseError::UnknownSuite { suite: part.suite.clone(), url: part.archive.into(), origin: mirror.origin.clone() }
    })?;
    let text = String::from_utf8(bytes).map_err(|_| BaseError::malformed(&url, &"it is no text"))?;
    let now = seconds_since_1970();
    let text = openpgp::verify(&text, keys, now).map_err(|reason| BaseError::Signature { url: url.clone(), reason })?;
    let release = Release::parse(&text, &url)?;
    release.check_suite(&part.suite, &url)?;
    release.check_times(&url, now, mirror.check_valid_until)?;
    Ok(release)
}

/// The verified text of a part's package index.
fn fetch_index(part: &Part<'_>, release: &Release, fetch: &Client, downloads: &Path) -> Result<Vec<u8>, BaseError> {
    let name = format!("main/binary-{}/Packages.xz", architecture()?);
    let url = part.address(&name);
    let listed = release
        .file(&name)
        .ok_or_else(|| BaseError::malformed(part.address("InRelease"), &format!("it does not list `{name}`")))?;
    let download = |url| Download { url, sha256: listed.sha256.clone(), size: Some(listed.size) };
    let get = |url| fetch.download(&download(url), downloads, &|_| ());
    let path = if release.by_hash {
        let directory = name.trim_end_matches("Packages.xz");
        match get(part.address(&format!("{directory}by-hash/SHA256/{}", listed.sha256))) {
            Err(error @ FetchError::Status { .. }) if error.is_not_found() => get(url.clone()),
            other => other,
        }
    } else {
        get(url.clone())
    }?;
    let mut text = Vec::new();
    let packed = fetch.cancel().watch(fs_err::File::open(path)?);
    liblzma::read::XzDecoder::new_multi_decoder(packed)
        .take(INDEX_LIMIT)
        .read_to_end(&mut text)
        .map_err(|error| BaseError::malformed(url, &error))?;
    Ok(text)
}

fn merge(parts: &[(Part<'_>, Release, Vec<u8>)], cancel: &CancelToken) -> Result<Index, BaseError> {
    let mut index = Index::new();
    for (part, _, text) in parts {
        cancel.check()?;
        let text = String::from_utf8_lossy(text);
        add_packages(&mut index, &text, part.archive, &part.address("Packages.xz"))?;
    }
    Ok(index)
}

#[cfg(test)]
mod tests;
