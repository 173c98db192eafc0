//! Putting unpacked wheels into a step's upper; runs in the store worker.

use std::os::fd::OwnedFd;

use lamina_ground::{Stack, StorePath};
use lamina_packages::{Content, Contents, File, Layers, Linked, MISSING, NOT_LINKABLE, Package, file_name};
use lamina_store::{Job, JobError, WorkerContext};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::manifest::{Bytecode, Manifest, descriptions, manifest_name};
use crate::place::{LinkedWheel, place, place_bytecode};
use crate::request::{Installer, Target};
use crate::scripts::{ProgramForm, is_reserved_by_uv};

/// Installs wheels, all of them unpacked before, into a bare upper. Of several with the same path, the last one's file
/// stays, as with `uv`; pip's order follows from what the packages need, so that such packages are left to it.
#[derive(Serialize, Deserialize)]
pub(crate) struct LinkWheels {
    pub(crate) work: String,
    pub(crate) layers: Stack<StorePath>,
    pub(crate) target: Target,
    pub(crate) installer: Installer,
    pub(crate) programs: ProgramForm,
    pub(crate) bytecode_key: String,
    pub(crate) wheels: Vec<LinkedWheel>,
    /// An empty file that the installer leaves behind.
    pub(crate) lock: Option<String>,
}

impl Job for LinkWheels {
    const NAME: &'static str = "wheels.link";
    type Output = Linked;

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Linked, JobError> {
        let wheels: Vec<(&LinkedWheel, Manifest, Bytecode)> =
            self.wheels.par_iter().map(|wheel| load(context, wheel, &self.bytecode_key)).collect::<Result<_, _>>()?;
        wheels.iter().try_for_each(|(wheel, manifest, _)| refuse_special(&wheel.name, manifest, self.installer))?;
        let mut placed: Vec<_> = wheels
            .par_iter()
            .map(|(wheel, manifest, bytecode)| {
                place(wheel, manifest, bytecode, &self.target, (self.installer, self.programs))
            })
            .collect();
        placed.extend(self.lock.iter().map(|path| {
            let content = Content::Text { bytes: Vec::new(), mode: 0o666 };
            let file = File { path: path.clone(), content };
            Package { name: "uv".to_owned(), files: vec![file], empty_directories: Vec::new() }
        }));
        let mut contents = Contents::new(placed)?;
        if let Some(conflict) = contents.conflict().filter(|_| self.installer == Installer::Pip) {
            let files = conflict.split(';').next().unwrap_or_default();
            return Err(JobError::new(NOT_LINKABLE, format!("{files}: whose stay follows from what needs what")));
        }
        for (position, (wheel, manifest, bytecode)) in wheels.iter().enumerate() {
            for (source, file) in place_bytecode(wheel, manifest, bytecode, &self.target) {
                if contents.is_of(position, &source) {
                    contents.add(position, file);
                }
            }
        }
        contents.link(context, &self.work, &mut Layers::new(context.content(), &self.layers))
    }
}

/// Leaves wheels to the installer that it treats in a way of its own.
fn refuse_special(wheel: &str, manifest: &Manifest, installer: Installer) -> Result<(), JobError> {
    let refuse = |message| Err(JobError::new(NOT_LINKABLE, message));
    // Both add programs with Python's version to it.
    if wheel == "pip" {
        return refuse("`pip` gets programs that its wheel does not name".to_owned());
    }
    let is_special = |name: &&str| match installer {
        Installer::Uv => is_reserved_by_uv(name),
        // It gets one with Python's version as well.
        Installer::Pip => *name == "easy_install",
    };
    match manifest.scripts().find(is_special) {
        Some(script) => refuse(format!("`{wheel}` has a script `{script}`, a name with a meaning of its own")),
        None => Ok(()),
    }
}

fn load<'a>(
    context: &WorkerContext,
    wheel: &'a LinkedWheel,
    key: &str,
) -> Result<(&'a LinkedWheel, Manifest, Bytecode), JobError> {
    let manifest = descriptions(context).load(&manifest_name(&wheel.sha256))?;
    let manifest = manifest.ok_or_else(|| JobError::new(MISSING, format!("`{}` is not unpacked", wheel.name)))?;
    let bytecode = descriptions(context).load(&file_name(&wheel.sha256, Some(key)))?.unwrap_or_default();
    Ok((wheel, manifest, bytecode))
}
