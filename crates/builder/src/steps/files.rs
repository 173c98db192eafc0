//! `add_local_*(copy=True)`: local files as a layer.

use lamina_ground::Stack;
use lamina_image::{CopyFiles, KeyMaterial};
use lamina_store::Committed;

use super::{Kind, LayerKind, Local, Made, Planning, Recipe, StepContext, StepError};
use crate::BuildError;
use crate::log::StepLog;

struct FilesPlan {
    layer: Committed,
}

impl Kind for CopyFiles {
    fn local(&self) -> Local<'_> {
        Local { files: Some(&self.files), ..Local::default() }
    }
}

impl LayerKind for CopyFiles {
    /// The content of the files, as they are to be over the layers so far, is the key; the layer is ready with it.
    fn plan(&self, planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        let layer = planning.local.layer(&self.files, &planning.parent.layers)?;
        material.add("kind", "copy_files");
        material.add("files", layer.content.hex());
        Ok(Box::new(FilesPlan { layer }))
    }
}

impl Recipe for FilesPlan {
    fn execute(self: Box<Self>, _context: &StepContext<'_>, _log: &mut StepLog) -> Result<Made, StepError> {
        Ok(Made::Layers { below: Stack::new(), top: self.layer, facts: Box::default() })
    }
}
