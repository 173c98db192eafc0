//! `env`, `workdir` and `add_local_*`: steps that make no layer.

use lamina_image::{AttachFiles, Env, Node, Workdir};

use super::{Kind, Local, MetadataKind};
use crate::state::State;

impl Kind for Env {}

impl MetadataKind for Env {
    fn apply(&self, node: &Node, state: &mut State) {
        state.title.clone_from(&node.title);
        state.config.extend_environment(&self.variables);
        // They may be settings of package managers.
        state.pristine = false;
    }
}

impl Kind for Workdir {}

impl MetadataKind for Workdir {
    fn apply(&self, node: &Node, state: &mut State) {
        state.title.clone_from(&node.title);
        state.config.enter_directory(&self.path);
    }
}

impl Kind for AttachFiles {
    fn local(&self) -> Local<'_> {
        Local { files: Some(&self.files), ..Local::default() }
    }
}

impl MetadataKind for AttachFiles {
    /// Attached files are no part of the image.
    fn apply(&self, _node: &Node, state: &mut State) {
        state.attached.put(self.files.clone());
    }
}
