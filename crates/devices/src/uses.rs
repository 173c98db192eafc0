//! Which GPUs containers have, in all processes with the same store.

use lamina_events::CancelToken;
use lamina_ground::random_id;
use lamina_image::{Digest, GpuRequest};
use lamina_store::{Lock, Store, StoreError};

use crate::{DevicesError, Gpu, Inventory};

/// The lock of whoever chooses.
const CHOOSING: &str = "gpus";

/// The GPUs of one container, until it is dropped or the process ends: each is a lock that is held.
#[derive(Debug)]
pub(crate) struct Share {
    /// Their places in the inventory.
    pub(crate) places: Vec<usize>,
    _locks: Vec<Lock>,
}

/// Chooses GPUs for a container, those first that the fewest others have.
pub(crate) fn share(inventory: &Inventory, requests: &[GpuRequest], store: &Store) -> Result<Share, DevicesError> {
    // Nobody holds it for longer than it takes to choose.
    let (cancel, waiting) = (CancelToken::new(), || ());
    let _choosing = store.lock(CHOOSING, &cancel, waiting)?;
    let counts = inventory.gpus().iter().map(|gpu| count(gpu, store)).collect::<Result<Vec<_>, _>>()?;
    let places = inventory.choose(requests, &counts)?;
    let lock = |place: &usize| {
        let name = random_id(&name(&inventory.gpus()[*place]));
        store.lock(&name, &cancel, waiting)
    };
    let locks = places.iter().map(lock).collect::<Result<_, _>>()?;
    Ok(Share { places, _locks: locks })
}

/// What the names of a GPU's locks begin with.
fn name(gpu: &Gpu) -> String {
    format!("gpu-{}", &Digest::of(gpu.name.as_bytes()).hex()[..16])
}

/// How many containers have a GPU. What a process left that was killed is cleared away.
fn count(gpu: &Gpu, store: &Store) -> Result<usize, StoreError> {
    let start = format!("lock-{}-", name(gpu));
    let mut count = 0;
    for entry in fs_err::read_dir(store.layout().locks())? {
        let path = entry?.path();
        if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&start)) {
            continue;
        }
        if Lock::is_held(&path)? {
            count += 1;
        } else {
            // Its holder may be about to remove it as well.
            let _ = fs_err::remove_file(path);
        }
    }
    Ok(count)
}
