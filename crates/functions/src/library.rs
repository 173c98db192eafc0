//! Bytecode of a standard library that an image from elsewhere came without, as Docker's `python` does: each of its
//! containers would compile all that it imports.
//!
//! Its interpreter makes it on the layers that brought it, once for all images on these. In containers it lies right over
//! them and under what later steps have made, so that what those have changed is as they left it.

use std::time::Duration;

use lamina_events::CancelToken;
use lamina_ground::Stack;
use lamina_image::{Digest, KeyMaterial};
use lamina_sandbox::{InjectedFile, Launcher, SandboxSpec};
use lamina_store::{LayerRecord, Store};

use crate::bytecode::{BytecodeError, compile, record};

/// How the layer is called in the index.
const TITLE: &str = "bytecode of a standard library";
/// The program that the interpreter runs.
const PROGRAM: &str = include_str!("library.py");
/// Its name in the sandbox.
const NAME: &str = "library.py";
/// How long compiling may take; it takes some seconds.
const PATIENCE: Duration = Duration::from_mins(3);

/// A Python that an image has from elsewhere.
#[derive(Debug, Clone)]
pub struct Library<'a> {
    /// The layers that brought it.
    pub base: &'a Stack<Digest>,
    /// The interpreter, an absolute path.
    pub interpreter: &'a str,
}

impl Library<'_> {
    /// The layer with the bytecode, compiled now if it was not before, and none where there was nothing to compile;
    /// [`Store::confirm`] must be called before it is used.
    ///
    /// # Errors
    /// When the interpreter cannot do it, or the store fails.
    pub fn layer(
        &self,
        launcher: &Launcher,
        store: &Store,
        cancel: &CancelToken,
    ) -> Result<Option<Digest>, BytecodeError> {
        let record = match store.expect_layer(&self.material().key())? {
            Some(record) => record,
            None => self.make(launcher, store, cancel)?,
        };
        Ok((record.files > 0).then_some(record.digest))
    }

    fn make(&self, launcher: &Launcher, store: &Store, cancel: &CancelToken) -> Result<LayerRecord, BytecodeError> {
        record(store, TITLE, self.base, &self.material(), || {
            compile(self.spec(store), PATIENCE, launcher, store, cancel)
        })
    }

    fn spec(&self, store: &Store) -> SandboxSpec {
        let program = format!("/dev/lamina/{NAME}");
        SandboxSpec {
            layers: store.view_paths(self.base),
            files: vec![InjectedFile { name: NAME.to_owned(), contents: PROGRAM.into(), mode: 0o444 }],
            argv: [self.interpreter, "-I", "-S", &program].map(str::to_owned).to_vec(),
            ..SandboxSpec::default()
        }
    }

    fn material(&self) -> KeyMaterial {
        let mut material = KeyMaterial::new(std::env::consts::ARCH);
        material.add("step", TITLE);
        material.add("program", Digest::of(PROGRAM.as_bytes()).hex());
        material.add("image", self.base.map(Digest::hex).bottom_up());
        material.add("interpreter", self.interpreter);
        material
    }
}
