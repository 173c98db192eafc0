//! A tree in its encoding, for those who look for a few of its paths: making a whole [`Tree`](super::Tree) of it would take
//! most of their time.

use super::{Node, TreeError, format};

/// A tree as it is on the disk.
#[derive(Debug)]
pub(crate) struct EncodedTree {
    bytes: Vec<u8>,
    /// Where its entries begin, in the order of their paths.
    starts: Vec<usize>,
}

impl EncodedTree {
    /// The tree with this canonical encoding. Only its lengths are checked: the rest was, before it was stored.
    ///
    /// # Errors
    /// When the bytes end in the middle of something.
    pub(crate) fn new(bytes: Vec<u8>) -> Result<Self, TreeError> {
        let starts = format::starts(&bytes)?;
        Ok(Self { bytes, starts })
    }

    /// The names of what is in a directory.
    pub(crate) fn names(&self, directory: &[u8]) -> impl Iterator<Item = &[u8]> {
        let prefix = if directory.is_empty() { Vec::new() } else { [directory, b"/"].concat() };
        let path_at = |start: usize| format::path_at(&self.bytes[start..]);
        let first = self.starts.partition_point(|start| path_at(*start) < &prefix[..]);
        let below = self.starts[first..].iter().map(move |start| path_at(*start));
        let length = prefix.len();
        below
            .take_while(move |path| path.starts_with(&prefix))
            .filter_map(move |path| path.get(length..))
            .filter(|name| !name.is_empty() && !name.contains(&b'/'))
    }

    /// What it has at a path.
    pub(crate) fn node(&self, path: &[u8]) -> Option<Node> {
        let path_at = |start: &usize| format::path_at(&self.bytes[*start..]);
        let found = self.starts.binary_search_by(|start| path_at(start).cmp(path)).ok()?;
        format::node_at(&self.bytes[self.starts[found]..])
    }
}
