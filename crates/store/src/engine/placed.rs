//! Directories and links on an image, as a layer.

use std::collections::BTreeMap;

use lamina_ground::Stack;
use lamina_image::Digest;

use super::Store;
use super::image_tree::{ImageTree, Place};
use crate::tree::{Entry, Node, Tree, parent};
use crate::{Committed, Metadata, StoreError};

/// Something that is put on an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// A directory with this owner and group, unless it is there. What of its parents is missing is made in the same way.
    Directory(u32, u32),
    /// A symbolic link that leads there.
    Link(String),
}

/// The layer that these absolute paths make on an image. Links of the image on the way are followed.
pub(super) fn layer(store: &Store, placed: &[(String, Placed)], onto: &Stack<Digest>) -> Result<Committed, StoreError> {
    let mut image = ImageTree::open(store, onto)?;
    let mut nodes: BTreeMap<Vec<u8>, Node> = BTreeMap::new();
    for (path, placed) in placed {
        let refused = |why: String| StoreError::InvalidFileSet(format!("`{path}` cannot be made: {why}"));
        let (resolved, place) = image.resolve(path.as_bytes()).map_err(|impasse| refused(impasse.to_string()))?;
        let owner = match placed {
            Placed::Directory(uid, gid) => (*uid, *gid),
            Placed::Link(_) => (0, 0),
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
            (Placed::Directory(..), _) => add(&mut nodes, &mut image, &resolved),
            (Placed::Link(_), Place::Directory(_)) => return Err(refused("it is a directory in the image".to_owned())),
            (Placed::Link(target), _) => {
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
