//! Bytecode of the `modal` package, compiled once for each image.
//!
//! The package in a container is read-only and its files carry a fixed time, so its interpreter would compile the
//! package anew in every container: 12 ms of 15 that importing it takes. The bytecode depends on the image's interpreter,
//! so it is made in a sandbox on the image and kept as a layer of its own. What one image's interpreter made is never used
//! with another image; but where the interpreter is that of the base, the base alone makes it, once for all images on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lamina_events::CancelToken;
use lamina_ground::{Stack, seconds_since_1970};
use lamina_image::container::{INTERPRETERS, PACKAGE};
use lamina_image::{Digest, KeyMaterial};
use lamina_sandbox::{ExitStatus, Launcher, Limits, Network, SandboxError, SandboxSpec, Stdio, Upper};
use lamina_store::{CommitRules, Committed, LayerRecord, Store, StoreError};

/// How the layer is called in the index.
const TITLE: &str = "bytecode of the modal package";
/// How long compiling may take; it takes a fraction of a second.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why there is no bytecode. Containers work without it, they only start more slowly.
#[derive(Debug, thiserror::Error)]
pub enum BytecodeError {
    /// The interpreter could not be started.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The result could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A descriptor could not be had.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A layer of the image turned out to be damaged.
    #[error("a layer of the image is damaged")]
    Damaged,
    /// The interpreter did not do what it was told.
    #[error("the image's interpreter could not compile what it was to: {0}")]
    Failed(String),
}

/// The package, an image, and the image's interpreter.
#[derive(Debug, Clone)]
pub struct Bytecode<'a> {
    /// Digest of the package's files.
    pub package: Digest,
    /// Layers of the package.
    pub package_layers: &'a Stack<Digest>,
    /// Layers of the image.
    pub image: &'a Stack<Digest>,
    /// How many of the lowest layers brought the image's Python, if it still has that.
    pub base: usize,
    /// Where the image looks for its interpreter.
    pub search_path: &'a str,
    /// Where the interpreter finds its shared libraries beside the usual places: `LD_LIBRARY_PATH`.
    pub library_path: Option<&'a str>,
}

impl Bytecode<'_> {
    /// The layer with the bytecode, compiled now if it was not before; [`Store::confirm`] must be called before it is used.
    /// `has_python_of_base` says whether the image's interpreter is the one that the base brought.
    ///
    /// # Errors
    /// When the interpreter cannot do it, or the store fails.
    pub fn layer(
        &self,
        launcher: &Launcher,
        store: &Store,
        cancel: &CancelToken,
        has_python_of_base: impl FnOnce() -> bool,
    ) -> Result<Digest, BytecodeError> {
        let material = self.material();
        if let Some(record) = store.expect_layer(&material.key())? {
            return Ok(record.digest);
        }
        if self.library_path.is_some() || self.image.len() <= self.base || !has_python_of_base() {
            return Ok(self.make(launcher, store, cancel)?.digest);
        }
        let base = Stack::from_bottom_up(self.image.bottom_up()[..self.base].iter().copied());
        let of_base = Bytecode { image: &base, ..*self };
        let made = match store.expect_layer(&of_base.material().key())? {
            Some(record) => record,
            None => of_base.make(launcher, store, cancel)?,
        };
        // So that the next run of the image has one thing to look for.
        store.record_layer(&LayerRecord {
            key: material.key(),
            companion_of: Some(self.image.clone()),
            fetched_from: None,
            material: material.canonical(),
            bytes_new: 0,
            ..made
        })?;
        Ok(made.digest)
    }

    /// Compiles the bytecode and records its layer.
    fn make(&self, launcher: &Launcher, store: &Store, cancel: &CancelToken) -> Result<LayerRecord, BytecodeError> {
        record(store, TITLE, self.image, &self.material(), || self.compile(launcher, store, cancel))
    }

    fn material(&self) -> KeyMaterial {
        let mut material = KeyMaterial::new(std::env::consts::ARCH);
        material.add("step", TITLE);
        material.add("package", self.package.hex());
        material.add("image", self.image.map(Digest::hex).bottom_up());
        material.add("search_path", self.search_path);
        if let Some(path) = self.library_path {
            material.add("library_path", path);
        }
        material
    }

    /// Compiles with the interpreter that containers start: the first name that the image has.
    fn compile(&self, launcher: &Launcher, store: &Store, cancel: &CancelToken) -> Result<Committed, BytecodeError> {
        let compile = |interpreter| compile(self.spec(interpreter, store), PATIENCE, launcher, store, cancel);
        match compile(INTERPRETERS[0]) {
            Err(BytecodeError::Sandbox(SandboxError::CommandNotFound { .. })) => compile(INTERPRETERS[1]),
            outcome => outcome,
        }
    }

    fn spec(&self, interpreter: &str, store: &Store) -> SandboxSpec {
        // What it imports for that is not the package's: it would lie over all that the image has in the same directories.
        let flags = "-IBS";
        let argv = [interpreter, flags, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", PACKAGE];
        let libraries = self.library_path.map(|path| ("LD_LIBRARY_PATH", path));
        let variables = [("PATH", self.search_path)].into_iter().chain(libraries);
        SandboxSpec {
            layers: store.view_paths(&self.image.under(self.package_layers)),
            argv: argv.map(str::to_owned).to_vec(),
            env: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            ..SandboxSpec::default()
        }
    }
}

/// Records the layer with what `compile` makes, which belongs to images with the layers `image`.
pub(crate) fn record(
    store: &Store,
    title: &str,
    image: &Stack<Digest>,
    material: &KeyMaterial,
    compile: impl FnOnce() -> Result<Committed, BytecodeError>,
) -> Result<LayerRecord, BytecodeError> {
    if !store.confirm()? {
        return Err(BytecodeError::Damaged);
    }
    let (created, begun) = (seconds_since_1970(), Instant::now());
    let committed = compile()?;
    let record = LayerRecord {
        companion_of: Some(image.clone()),
        ..LayerRecord::of(&committed, material, title, created, begun.elapsed().as_secs_f64())
    };
    store.record_layer(&record)?;
    Ok(record)
}

/// Has an interpreter compile something, and keeps what it wrote.
pub(crate) fn compile(
    spec: SandboxSpec,
    patience: Duration,
    launcher: &Launcher,
    store: &Store,
    cancel: &CancelToken,
) -> Result<Committed, BytecodeError> {
    let work = store.new_work()?;
    let spec = SandboxSpec {
        upper: Upper::Store { upper: work.upper(), work: work.work_directory() },
        // The image's interpreter may be anything; compiling needs little.
        limits: Limits { memory_bytes: Some(1 << 30), pids: Some(256), ..Limits::default() },
        network: Network::Isolated,
        ignore_sync: true,
        ..spec
    };
    let sandbox = Arc::new(launcher.spawn(&spec, Stdio::null()?)?);
    let killed = Arc::clone(&sandbox);
    let guard = cancel.on_cancel(move || killed.kill());
    let Some(exit) = sandbox.wait_timeout(patience)? else {
        return Err(BytecodeError::Failed(format!("it takes longer than {} seconds", patience.as_secs())));
    };
    drop(guard);
    match exit.status {
        ExitStatus::Exited(0) => {}
        ExitStatus::Exited(code) => return Err(BytecodeError::Failed(format!("exit code {code}"))),
        ExitStatus::Signaled(signal) => return Err(BytecodeError::Failed(crate::signal_name(signal))),
    }
    drop(sandbox);
    let rules = CommitRules { drop_empty: exit.created_mountpoints, ..CommitRules::default() };
    Ok(store.commit(&work, rules)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytecode_is_never_shared_between_images_or_packages() {
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let key = |package, layer, search_path: &str, library_path| {
            let image = &Stack::from_bottom_up([layer]);
            let package_layers = &Stack::new();
            Bytecode { package, package_layers, image, base: 1, search_path, library_path }.material().key()
        };
        let first = key(one, one, "/bin", None);
        assert_eq!(first, key(one, one, "/bin", None));
        for different in [
            key(other, one, "/bin", None),
            key(one, other, "/bin", None),
            key(one, one, "/opt/bin:/bin", None),
            key(one, one, "/bin", Some("/opt/lib")),
        ] {
            assert_ne!(first, different);
        }
    }
}
