//! Volumes that are there while a step executes.

use lamina_image::{KeyMaterial, VolumeMount};
use lamina_sandbox::Mount;
use lamina_store::Store;
use lamina_volumes::Volumes;

use super::StepError;

/// Adds to a key which volumes a step sees, and where. A step without any has the key of old.
pub(super) fn add(volumes: &[VolumeMount], material: &mut KeyMaterial) {
    if !volumes.is_empty() {
        material.add("volumes", volumes.iter().map(VolumeMount::key).collect::<Vec<_>>());
    }
}

/// The mounts of volumes whose ids are known.
pub(super) fn mounts(volumes: &[VolumeMount], store: &Store) -> Result<Vec<Mount>, StepError> {
    let mount = |volume: &VolumeMount| {
        let id = volume.volume.id.as_deref().unwrap_or_default();
        let source = Volumes::new(store).mountable(id, volume.sub_path.as_deref()).map_err(StepError::of)?;
        Ok(Mount::Bind { source, target: volume.path.clone(), read_only: volume.read_only })
    };
    volumes.iter().map(mount).collect()
}
