//! `from_scratch`, settings of everything that runs, and `add_local_*`: steps that make no layer.

use lamina_image::{AttachFiles, Cmd, Entrypoint, Env, FromScratch, Node, Shell, Workdir};

use super::{Kind, Local, MetadataKind};
use crate::BuildError;
use crate::state::State;

impl Kind for FromScratch {}

impl MetadataKind for FromScratch {
    fn apply(&self, node: &Node, state: &mut State) -> Result<(), BuildError> {
        state.title.clone_from(&node.title);
        Ok(())
    }
}

impl Kind for Env {}

impl MetadataKind for Env {
    fn apply(&self, node: &Node, state: &mut State) -> Result<(), BuildError> {
        state.title.clone_from(&node.title);
        state.config.extend_environment(&self.variables);
        // They may be settings of package managers.
        state.pristine = false;
        Ok(())
    }
}

impl Kind for Workdir {}

impl MetadataKind for Workdir {
    fn apply(&self, node: &Node, state: &mut State) -> Result<(), BuildError> {
        state.title.clone_from(&node.title);
        state.config.enter_directory(&self.path);
        Ok(())
    }
}

impl Kind for Entrypoint {}

impl MetadataKind for Entrypoint {
    fn apply(&self, node: &Node, state: &mut State) -> Result<(), BuildError> {
        state.title.clone_from(&node.title);
        state.config.entrypoint.clone_from(&self.arguments);
        // As in a Dockerfile: the base's command was for the base's entrypoint.
        state.config.command.clear();
        Ok(())
    }
}

impl Kind for Shell {}

impl MetadataKind for Shell {
    fn apply(&self, node: &Node, state: &mut State) -> Result<(), BuildError> {
        state.title.clone_from(&node.title);
        state.config.shell = (!self.arguments.is_empty()).then(|| self.arguments.clone());
        Ok(())
    }
}

impl Kind for Cmd {}

impl MetadataKind for Cmd {
    fn apply(&self, node: &Node, state: &mut State) -> Result<(), BuildError> {
        state.title.clone_from(&node.title);
        state.config.command.clone_from(&self.arguments);
        Ok(())
    }
}

impl Kind for AttachFiles {
    fn local(&self) -> Local<'_> {
        Local { files: Some(&self.files), ..Local::default() }
    }
}

impl MetadataKind for AttachFiles {
    /// Attached files are no part of the image.
    fn apply(&self, _node: &Node, state: &mut State) -> Result<(), BuildError> {
        state.attached.put(self.files.clone());
        Ok(())
    }
}
