//! `add_local_*(copy=True)`: local files as a layer.

use lamina_image::{FileSet, KeyMaterial};
use lamina_store::Committed;

use super::Made;
use crate::BuildError;
use crate::schedule::Tools;
use crate::state::State;

pub(crate) struct FilesPlan {
    layer: Committed,
}

/// Takes the files into the store, as they are to be over the layers so far: their content is the key, and the layer is
/// ready with it.
pub(crate) fn plan(
    tools: &Tools,
    files: &FileSet,
    parent: &State,
    material: &mut KeyMaterial,
) -> Result<FilesPlan, BuildError> {
    let layer = tools.store.file_set_layer(files, &parent.layers)?;
    material.add("kind", "copy_files");
    material.add("files", layer.content.hex());
    Ok(FilesPlan { layer })
}

impl FilesPlan {
    pub(crate) fn into_made(self) -> Made {
        Made::Layer(self.layer)
    }
}
