//! What an image has at a path, as the diff trees of its layers say: what an overlay of their views shows.

use std::collections::HashMap;

use lamina_ground::Stack;
use lamina_image::Digest;
use rayon::prelude::*;

use super::Store;
use crate::tree::{EncodedTree, Node, lossy, parent};
use crate::{DamagedFile, Metadata, StoreError};

/// Links that a path may lead through, as in the kernel.
const MAXIMUM_LINKS: usize = 40;

/// The layers of an image, as one tree.
#[derive(Debug)]
pub(super) struct ImageTree {
    layers: Stack<EncodedTree>,
    /// Directories that were looked for.
    known: HashMap<Vec<u8>, Option<Directory>>,
}

/// A directory of the image.
#[derive(Debug, Clone)]
struct Directory {
    /// The layers that it is merged from, by their places in the image.
    layers: Stack<usize>,
    /// That of the uppermost layer, as an overlay shows it.
    meta: Metadata,
}

/// What an image has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing.
    Absent,
    /// A directory.
    Directory(Metadata),
    /// A symbolic link, with its target.
    Link(Vec<u8>),
    /// A file, or a pipe.
    File,
}

/// Why a path cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Impasse {
    /// Links lead to one another, or there are too many of them.
    #[error("the link `{0}` of the image leads in a circle")]
    Circle(String),
    /// Something on the way is a file.
    #[error("`{0}` is a file in the image, not a directory")]
    File(String),
}

impl ImageTree {
    /// The image with these layers.
    pub(super) fn open(store: &Store, layers: &Stack<Digest>) -> Result<Self, StoreError> {
        let read = |digest: &Digest| {
            store.encoded_tree(digest).and_then(|bytes| EncodedTree::new(bytes).ok()).ok_or_else(|| {
                StoreError::Damaged {
                    path: store.layout().content().join("trees").join(digest.hex()),
                    file: DamagedFile::Tree,
                }
            })
        };
        let trees: Vec<EncodedTree> = layers.bottom_up().par_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { layers: Stack::from_bottom_up(trees), known: HashMap::new() })
    }

    /// What is at a path, without leading slash, of which no directory may be a link.
    pub(super) fn at(&mut self, path: &[u8]) -> Place {
        if path.is_empty() {
            return self.directory(path).map_or(Place::Absent, |directory| Place::Directory(directory.meta.clone()));
        }
        let Some(Directory { layers, .. }) = self.directory(parent(path)).cloned() else {
            return Place::Absent;
        };
        match layers.top_down().find_map(|place| self.node(*place, path)) {
            None | Some(Node::Whiteout) => Place::Absent,
            Some(Node::Directory { meta, .. }) => Place::Directory(meta),
            Some(Node::Symlink { target, .. }) => Place::Link(target),
            Some(_) => Place::File,
        }
    }

    /// The node at a path of which no directory may be a link, as the uppermost layer has it.
    pub(super) fn node_at(&mut self, path: &[u8]) -> Option<Node> {
        if path.is_empty() {
            let meta = self.directory(path)?.meta.clone();
            return Some(Node::Directory { meta, opaque: false });
        }
        let layers = self.directory(parent(path))?.layers.clone();
        match layers.top_down().find_map(|place| self.node(*place, path))? {
            Node::Whiteout => None,
            // What the layer of the link calls it may be another file in a layer above.
            Node::HardLink { target } => layers.top_down().find_map(|place| match self.node(*place, path)? {
                Node::HardLink { .. } => self.node(*place, &target),
                _ => None,
            }),
            node => Some(node),
        }
    }

    /// The name that the file at a path is linked with in its layer, and the place of that: files with equal answers are
    /// one file.
    pub(super) fn link_at(&mut self, path: &[u8]) -> Option<(usize, Vec<u8>)> {
        let layers = self.directory(parent(path))?.layers.clone();
        let (place, node) = layers.top_down().find_map(|place| Some((*place, self.node(*place, path)?)))?;
        match node {
            Node::HardLink { target } => Some((place, target)),
            _ => Some((place, path.to_vec())),
        }
    }

    /// The names in a directory, in order.
    pub(super) fn names(&mut self, path: &[u8]) -> Vec<Vec<u8>> {
        let Some(layers) = self.directory(path).map(|directory| directory.layers.clone()) else { return Vec::new() };
        let mut names = std::collections::BTreeSet::new();
        for place in layers.top_down() {
            if let Some(layer) = self.layers.bottom_up().get(*place) {
                names.extend(layer.names(path).map(<[u8]>::to_vec));
            }
        }
        let there = |name: &Vec<u8>| self.node_at(&super::files::beneath(path, name)).is_some();
        names.into_iter().filter(there).collect()
    }

    /// Where a path leads, links followed inside the image, and what is there: never a link.
    pub(super) fn resolve(&mut self, path: &[u8]) -> Result<(Vec<u8>, Place), Impasse> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let meaningful = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
            meaningful.rev().map(<[u8]>::to_vec).collect()
        };
        let mut rest = parts(path);
        let (mut at, mut place) = (Vec::new(), self.at(b""));
        let mut first_link = None;
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if place == Place::File {
                return Err(Impasse::File(lossy(&at)));
            }
            let next = if part == b".." { parent(&at).to_vec() } else { super::files::beneath(&at, &part) };
            match self.at(&next) {
                Place::Link(target) => {
                    links += 1;
                    let link = first_link.get_or_insert(next);
                    if links > MAXIMUM_LINKS {
                        return Err(Impasse::Circle(lossy(link)));
                    }
                    if target.starts_with(b"/") {
                        at = Vec::new();
                    }
                    rest.extend(parts(&target));
                    place = self.at(&at);
                }
                found => (at, place) = (next, found),
            }
        }
        Ok((at, place))
    }

    fn directory(&mut self, path: &[u8]) -> Option<&Directory> {
        if !self.known.contains_key(path) {
            let found = self.merge(path);
            self.known.insert(path.to_vec(), found);
        }
        self.known.get(path)?.as_ref()
    }

    /// The directory that those of the layers make together.
    fn merge(&mut self, path: &[u8]) -> Option<Directory> {
        let candidates = if path.is_empty() {
            Stack::from_bottom_up(0..self.layers.len())
        } else {
            self.directory(parent(path))?.layers.clone()
        };
        // An image of no layers has a root, in which nothing is.
        let root = (path.is_empty() && self.layers.is_empty()).then(|| Metadata::root_owned(0o755));
        let (mut uppermost, mut places) = (root, Vec::new());
        for place in candidates.top_down() {
            match self.node(*place, path) {
                None => {}
                Some(Node::Directory { meta, opaque }) => {
                    uppermost.get_or_insert(meta);
                    places.push(*place);
                    if opaque {
                        break;
                    }
                }
                Some(_) => break,
            }
        }
        uppermost.map(|meta| Directory { layers: Stack::from_top_down(places), meta })
    }

    /// What the layer at a place has at a path. Devices are not in views, so nobody sees them.
    fn node(&self, place: usize, path: &[u8]) -> Option<Node> {
        self.layers.bottom_up().get(place)?.node(path).filter(|node| !matches!(node, Node::Device { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Entry, Tree};

    fn layer(entries: &[(&str, Node)]) -> EncodedTree {
        let root = ("", directory(0o755));
        let entry = |(path, node): &(&str, Node)| Entry { path: path.as_bytes().to_vec(), node: node.clone() };
        let tree = Tree::new(std::iter::once(&root).chain(entries).map(entry).collect()).unwrap();
        EncodedTree::new(tree.encode()).unwrap()
    }

    fn directory(mode: u32) -> Node {
        Node::Directory { meta: Metadata::root_owned(mode), opaque: false }
    }

    fn opaque(mode: u32) -> Node {
        Node::Directory { meta: Metadata::root_owned(mode), opaque: true }
    }

    fn file() -> Node {
        Node::File { meta: Metadata::root_owned(0o644), size: 0, digest: Digest::of(b"") }
    }

    fn link(target: &str) -> Node {
        Node::Symlink { meta: Metadata::root_owned(0o777), target: target.as_bytes().to_vec() }
    }

    fn image(layers: Stack<EncodedTree>) -> ImageTree {
        ImageTree { layers, known: HashMap::new() }
    }

    #[test]
    fn upper_layers_hide_and_merge_lower_ones() {
        let low = layer(&[
            ("etc", directory(0o755)),
            ("etc/a", file()),
            ("gone", directory(0o755)),
            ("gone/a", file()),
            ("opaque", directory(0o755)),
            ("opaque/a", file()),
            ("replaced", directory(0o755)),
            ("replaced/a", file()),
            ("usr", directory(0o755)),
            ("usr/a", file()),
        ]);
        let middle = layer(&[("gone", Node::Whiteout), ("opaque", opaque(0o711)), ("replaced", file())]);
        let top = layer(&[
            ("opaque", directory(0o700)),
            ("opaque/b", file()),
            ("replaced", directory(0o750)),
            ("usr", directory(0o1777)),
            ("usr/a", Node::Whiteout),
        ]);
        let mut image = image(Stack::from_bottom_up([low, middle, top]));
        let directory = |mode| Place::Directory(Metadata::root_owned(mode));
        for (path, place) in [
            ("", directory(0o755)),
            ("etc/a", Place::File),
            ("etc/a/b", Place::Absent),
            ("gone", Place::Absent),
            ("gone/a", Place::Absent),
            ("nowhere/a", Place::Absent),
            ("opaque", directory(0o700)),
            ("opaque/a", Place::Absent),
            ("opaque/b", Place::File),
            ("replaced", directory(0o750)),
            ("replaced/a", Place::Absent),
            ("usr", directory(0o1777)),
            ("usr/a", Place::Absent),
        ] {
            assert_eq!(image.at(path.as_bytes()), place, "{path}");
        }
    }

    #[test]
    fn links_are_followed_inside_the_image() {
        let mut image = image(Stack::from_bottom_up([layer(&[
            ("a", directory(0o755)),
            ("a/absolute", link("/b/")),
            ("a/above", link("../../../b")),
            ("a/chain", link("./absolute/file")),
            ("a/nowhere", link("/new/place")),
            ("a/one", link("two")),
            ("a/through", link("/b/file/x")),
            ("a/two", link("one")),
            ("b", directory(0o700)),
            ("b/file", file()),
        ])]));
        for (path, end, place) in [
            ("a/absolute", "b", Place::Directory(Metadata::root_owned(0o700))),
            ("a/above/file", "b/file", Place::File),
            ("a/absolute/new/x", "b/new/x", Place::Absent),
            ("a/chain", "b/file", Place::File),
            ("a/nowhere/x", "new/place/x", Place::Absent),
        ] {
            assert_eq!(image.resolve(path.as_bytes()), Ok((end.as_bytes().to_vec(), place)), "{path}");
        }
        assert_eq!(image.resolve(b"a/one/x"), Err(Impasse::Circle("/a/one".to_owned())));
        assert_eq!(image.resolve(b"a/through"), Err(Impasse::File("/b/file".to_owned())));
        assert_eq!(image.resolve(b"b/file/x"), Err(Impasse::File("/b/file".to_owned())));
    }
}
