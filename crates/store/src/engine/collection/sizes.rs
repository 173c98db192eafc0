//! How many bytes sets of layers take, every object counted once.

use std::collections::HashMap;

use lamina_image::Digest;

use crate::ObjectName;
use crate::tree::Tree;

/// Disks give out blocks of this many bytes.
const BLOCK: u64 = 4096;

/// Counts the objects of a changing set of layers.
pub(super) struct Sizes<'a> {
    read: &'a dyn Fn(&Digest) -> Option<Tree>,
    /// Objects of the layers that were read, with the bytes that they take.
    layers: HashMap<Digest, Vec<(ObjectName, u64)>>,
    /// How many of the set's layers have an object.
    counts: HashMap<ObjectName, u64>,
    total: u64,
}

impl<'a> Sizes<'a> {
    /// Of no layers yet; `read` gives a layer's tree.
    pub(super) fn new(read: &'a dyn Fn(&Digest) -> Option<Tree>) -> Self {
        Self { read, layers: HashMap::new(), counts: HashMap::new(), total: 0 }
    }

    /// Bytes of the set's objects.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Adds a layer; one that is added twice has to be removed twice.
    pub(super) fn add(&mut self, layer: &Digest) {
        for (object, bytes) in objects(&mut self.layers, self.read, layer) {
            let count = self.counts.entry(*object).or_insert(0);
            *count += 1;
            self.total += if *count == 1 { *bytes } else { 0 };
        }
    }

    /// Takes a layer away.
    pub(super) fn remove(&mut self, layer: &Digest) {
        for (object, bytes) in objects(&mut self.layers, self.read, layer) {
            if let Some(count) = self.counts.get_mut(object).filter(|count| **count > 0) {
                *count -= 1;
                self.total -= if *count == 0 { *bytes } else { 0 };
            }
        }
    }

    /// Bytes of a layer's objects that would go with it.
    pub(super) fn unique(&mut self, layers: &[Digest]) -> u64 {
        let before = self.total;
        for layer in layers {
            self.remove(layer);
        }
        let unique = before - self.total;
        for layer in layers {
            self.add(layer);
        }
        unique
    }
}

fn objects<'b>(
    layers: &'b mut HashMap<Digest, Vec<(ObjectName, u64)>>,
    read: &dyn Fn(&Digest) -> Option<Tree>,
    layer: &Digest,
) -> &'b [(ObjectName, u64)] {
    layers.entry(*layer).or_insert_with(|| {
        let tree = read(layer);
        let entries = tree.iter().flat_map(Tree::entries);
        entries.filter_map(|entry| Some((entry.node.object()?, on_disk(entry.node.size())))).collect()
    })
}

/// The bytes that a file of this length takes.
fn on_disk(size: u64) -> u64 {
    size.div_ceil(BLOCK) * BLOCK
}
