//! Directories and links on an image, as a layer.

use std::collections::BTreeMap;

use lamina_ground::Stack;
use lamina_image::Digest;

use super::Store;
use super::files::beneath;
use super::image_tree::{ImageTree, Impasse, Place};
use crate::tree::{Entry, Node, Tree, lossy, parent};
use crate::{Committed, Metadata, StoreError};

/// Something that is put on an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// A directory with this owner and group, unless it is there. What of its parents is missing is made in the same way.
    Directory(u32, u32),
    /// An empty file to be mounted over, unless something is there.
    Empty,
    /// A symbolic link that leads there; where the image has a link in its place, that leads to it.
    Link(String),
    /// A symbolic link that leads there, in place of a link or file of the image.
    OwnLink(String),
}

/// The layer that these absolute paths make on an image. Links of the image on the way are followed.
pub(super) fn layer(store: &Store, placed: &[(String, Placed)], onto: &Stack<Digest>) -> Result<Committed, StoreError> {
    let mut image = ImageTree::open(store, onto)?;
    let mut nodes: BTreeMap<Vec<u8>, Node> = BTreeMap::new();
    for (path, placed) in placed {
        let refused = |why: String| StoreError::InvalidFileSet(format!("`{path}` cannot be made: {why}"));
        let (resolved, place) = match placed {
            Placed::OwnLink(_) => resolve_parent(&mut image, path.as_bytes()),
            _ => image.resolve(path.as_bytes()),
        }
        .map_err(|impasse| refused(impasse.to_string()))?;
        let owner = match placed {
            Placed::Directory(uid, gid) => (*uid, *gid),
            Placed::Empty | Placed::Link(_) | Placed::OwnLink(_) => (0, 0),
        };
        let add = |nodes: &mut BTreeMap<Vec<u8>, Node>, image: &mut ImageTree, path: &[u8]| {
            let mut path = path;
            while !nodes.contains_key(path) {
                let meta = match image.at(path) {
                    Place::Directory(meta) => meta,
                    _ => Metadata { uid: owner.0, gid: owner.1, ..Metadata::root_owned(0o755) },
                };
                nodes.insert(path.to_vec(), Node::Directory { meta, opaque: false });
                path = parent(path);
            }
        };
        match (placed, place) {
            (Placed::Directory(..), Place::File) => return Err(refused("it is a file in the image".to_owned())),
            (Placed::Empty, Place::Absent) => {
                add(&mut nodes, &mut image, parent(&resolved));
                let (meta, digest) = (Metadata::root_owned(0o644), Digest::of(b""));
                nodes.entry(resolved).or_insert(Node::File { meta, size: 0, digest });
            }
            (Placed::Empty, _) => {}
            (Placed::Directory(..), _) => add(&mut nodes, &mut image, &resolved),
            (Placed::Link(_) | Placed::OwnLink(_), Place::Directory(_)) => {
                return Err(refused("it is a directory in the image".to_owned()));
            }
            (Placed::Link(target) | Placed::OwnLink(target), _) => {
                add(&mut nodes, &mut image, parent(&resolved));
                let target = target.clone().into_bytes();
                nodes.insert(resolved, Node::Symlink { meta: Metadata::root_owned(0o777), target });
            }
        }
    }
    let entries = nodes.into_iter().map(|(path, node)| Entry { path, node }).collect();
    let tree = Tree::new(entries).map_err(|error| StoreError::InvalidFileSet(error.to_string()))?;
    publish(store, &tree)
}

/// Where the directory of a path leads, with the path's own name, and what is there.
fn resolve_parent(image: &mut ImageTree, path: &[u8]) -> Result<(Vec<u8>, Place), Impasse> {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let (directory, place) = image.resolve(&path[..end])?;
    if place == Place::File {
        return Err(Impasse::File(lossy(&directory)));
    }
    let resolved = beneath(&directory, path[end..].strip_prefix(b"/").unwrap_or(path));
    let place = image.at(&resolved);
    Ok((resolved, place))
}

/// Makes the view of a tree whose objects are all there.
pub(super) fn publish(store: &Store, tree: &Tree) -> Result<Committed, StoreError> {
    use crate::DamagedFile;
    use crate::protocol::{Published, Request};
    let encoded = tree.encode();
    let digest = Digest::of(&encoded);
    if !store.is_usable(&digest)?
        && let Published::Missing(_) = store.shared.client.begin(Request::Publish, &encoded, &[])?.wait()?
    {
        let path = store.layout().content().join("trees").join(digest.hex());
        return Err(StoreError::Damaged { path, file: DamagedFile::Tree });
    }
    let (files, bytes) = tree.totals();
    Ok(Committed { digest, content: tree.content(), files, bytes, bytes_new: 0 })
}
