//! Links in place of directories that a set has already.
//!
//! Files behind links are taken as files. A link to a directory is followed if nothing else leads there; otherwise all of
//! what is behind it would be there twice, or, where directories link to one another, without end.

use std::collections::BTreeSet;

use lamina_image::{Digest, Hasher};

use super::filter::Filter;
use super::{LocalFile, beneath};

/// A link to a directory of the same source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalLink {
    /// Path in the image, without leading slash.
    pub(super) target: Vec<u8>,
    /// The path in the image that it leads to.
    pub(super) leads_to: Vec<u8>,
    /// Which source of the set it comes from.
    pub(super) entry: usize,
}

/// The links behind which there is something that would be taken under the link's own path, too.
pub(super) fn worthwhile(
    mut links: Vec<LocalLink>,
    files: &[LocalFile],
    target: &[u8],
    filter: &Filter,
) -> Vec<LocalLink> {
    if links.is_empty() {
        return links;
    }
    links.sort_unstable_by(|left, right| left.target.cmp(&right.target));
    let mut taken: BTreeSet<Vec<u8>> = files.iter().map(|file| file.target.clone()).collect();
    let mut kept = Vec::new();
    // Behind a link there may be nothing but links.
    loop {
        let (worthwhile, others): (Vec<_>, Vec<_>) = links.into_iter().partition(|link| {
            let name = below(target, &link.target);
            behind(&taken, &link.leads_to).any(|rest| filter.takes_link(name, rest))
        });
        if worthwhile.is_empty() {
            return kept;
        }
        taken.extend(worthwhile.iter().map(|link| link.target.clone()));
        kept.extend(worthwhile);
        links = others;
    }
}

/// The paths below a directory, relative to it.
fn behind<'a>(taken: &'a BTreeSet<Vec<u8>>, directory: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let start = if directory.is_empty() { Vec::new() } else { [directory, b"/"].concat() };
    let length = start.len();
    let prefix = start.clone();
    taken.range(start..).take_while(move |path| path.starts_with(&prefix)).map(move |path| &path[length..])
}

/// A path in the image relative to a directory that it is below.
fn below<'a>(directory: &[u8], path: &'a [u8]) -> &'a [u8] {
    if directory.is_empty() { path } else { path.get(directory.len() + 1..).unwrap_or_default() }
}

/// What stands for all links of a set.
pub(super) fn digest(links: &[LocalLink]) -> Digest {
    let mut hasher = Hasher::new();
    for path in links.iter().flat_map(|link| [&link.target, &link.leads_to]) {
        hasher.update(&(path.len() as u64).to_le_bytes()).update(path);
    }
    hasher.finish()
}

/// The target of a link at `link` that leads to `path`; both are in the image, without links on the way.
pub(super) fn relative(link: &[u8], path: &[u8]) -> Vec<u8> {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let (from, to) = (parts(crate::tree::parent(link)), parts(path));
    let shared = from.iter().zip(&to).take_while(|(left, right)| left == right).count();
    let up = std::iter::repeat_n(b"..".to_vec(), from.len() - shared);
    let target = up.chain(to[shared..].iter().cloned()).fold(Vec::new(), |path, part| beneath(&path, &part));
    if target.is_empty() { b".".to_vec() } else { target }
}

#[cfg(test)]
mod tests {
    use super::relative;

    #[test]
    fn links_lead_from_their_own_directory() {
        for (link, path, target) in [
            ("a/link", "a/b", "b"),
            ("a/link", "a", "."),
            ("link", "", "."),
            ("a/b/link", "a", ".."),
            ("a/b/link", "", "../.."),
            ("a/b/link", "a/c/d", "../c/d"),
            ("a/link", "ab", "../ab"),
        ] {
            let found = relative(link.as_bytes(), path.as_bytes());
            assert_eq!(String::from_utf8_lossy(&found), target, "{link} {path}");
        }
    }
}
