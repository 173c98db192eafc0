//! What containers have of the `modal` package and of bytecode, over and in their images.

use std::collections::HashMap;

use lamina_builder::{BuildError, BuiltImage};
use lamina_events::Event;
use lamina_functions::{Bytecode, BytecodeError, Library};
use lamina_ground::{DEFAULT_PATH, Stack, causes};
use lamina_image::Digest;
use lamina_sandbox::SandboxError;
use lamina_store::Store;

use crate::Engine;
use crate::app::Wanted;
use crate::local_files::AppFiles;
use crate::protocol::Failure;

impl Engine {
    /// The layers of each image with what all its containers have, by image id: bytecode of its Python, compilers, and the
    /// package's files with their bytecode above them. Where bytecode cannot be had, containers start all the same.
    pub(crate) fn show_package(
        &self,
        store: &Store,
        images: &HashMap<String, BuiltImage>,
        files: &mut AppFiles,
        wanted: &Wanted<'_>,
    ) -> Result<HashMap<String, Stack<Digest>>, Failure> {
        let mut shown = HashMap::new();
        for image in images.values() {
            if shown.contains_key(&image.id) {
                continue;
            }
            let mut package = files.show_package(store, image)?;
            let search_path = image.config.environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
            if let Some(digest) = package.digest {
                let bytecode = Bytecode {
                    package: digest,
                    package_layers: &package.views,
                    image: &image.layers,
                    base: image.foreign_layers.unwrap_or(1),
                    search_path,
                    library_path: image.config.environment.get("LD_LIBRARY_PATH").map(String::as_str),
                };
                if let Some(layer) = self.bytecode(&bytecode, store, wanted)? {
                    package.views.put(layer);
                }
            }
            let toolchain = Stack::from_bottom_up(image.toolchain);
            let layers = self.with_library(image, store, wanted)?.under(&toolchain).under(&package.views);
            shown.insert(image.id.clone(), layers);
        }
        Ok(shown)
    }

    /// The layer with the package's bytecode; without one, containers start more slowly.
    fn bytecode(&self, bytecode: &Bytecode<'_>, store: &Store, wanted: &Wanted<'_>) -> Result<Option<Digest>, Failure> {
        let views = || store.view_paths(bytecode.image);
        let has_python_of_base = || {
            let found = lamina_wheels::python_of_base(store, &views(), bytecode.search_path, bytecode.base);
            found.is_ok_and(|path| path.is_some())
        };
        let layer = bytecode.layer(&self.launcher, store, wanted.cancel, has_python_of_base);
        or_without(layer.map(Some), "the `modal` package", wanted)
    }

    /// The layers of an image, with the bytecode of a standard library that came without it right above those that brought it.
    fn with_library(&self, image: &BuiltImage, store: &Store, wanted: &Wanted<'_>) -> Result<Stack<Digest>, Failure> {
        let (Some(count), Some(interpreter)) = (image.foreign_layers, &image.python) else {
            return Ok(image.layers.clone());
        };
        let (base, further) = image.layers.bottom_up().split_at(count.min(image.layers.len()));
        let mut layers = Stack::from_bottom_up(base.iter().copied());
        let library = Library { base: &layers, interpreter }.layer(&self.launcher, store, wanted.cancel);
        if let Some(layer) = or_without(library, "what it imports of Python", wanted)? {
            layers.put(layer);
        }
        layers.put_all(&Stack::from_bottom_up(further.iter().copied()));
        Ok(layers)
    }
}

/// The layer with the bytecode of something, or none where there is none.
fn or_without(
    layer: Result<Option<Digest>, BytecodeError>,
    what: &str,
    wanted: &Wanted<'_>,
) -> Result<Option<Digest>, Failure> {
    match layer {
        Ok(layer) => Ok(layer),
        Err(_) if wanted.cancel.is_cancelled() => Err(Failure::of_build(BuildError::Cancelled, true)),
        // The image's interpreter has another name.
        Err(BytecodeError::Sandbox(SandboxError::CommandNotFound { .. })) => Ok(None),
        Err(error) => {
            let message = format!("each container compiles {what} anew, which takes time: {}", causes(&error));
            wanted.sink.emit(Event::Warning { message });
            Ok(None)
        }
    }
}
