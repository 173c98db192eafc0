//! Compiling a wheel's modules; this side runs in the store worker, next to the objects.
//!
//! The interpreter runs in a sandbox and sees nothing of the store: sources go to it and bytecode comes back through
//! pipes.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;

use lamina_packages::{MISSING, file_name};
use lamina_store::{Job, JobError, JobErrorKind, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::manifest::{Bytecode, Manifest, ManifestFile, descriptions, manifest_name};
use crate::request::Target;

/// The program that the image's interpreter runs; the other end of the pipes.
pub(crate) const DRIVER: &str = include_str!("compile.py");
/// Kind of a [`JobError`]: the interpreter ended or answered nonsense.
pub(crate) const LOST: JobErrorKind = JobErrorKind::new("wheel-compiler-lost");
/// Longer sources are left to be compiled on import.
const SOURCE_LIMIT: u64 = 16 << 20;
/// Longest bytecode that is believed.
const ANSWER_LIMIT: u32 = 256 << 20;

/// Compiles one wheel with the interpreter behind two descriptors: where it reads, and where it writes.
#[derive(Serialize, Deserialize)]
pub(crate) struct CompileWheel {
    pub(crate) name: String,
    pub(crate) sha256: String,
    pub(crate) bytecode_key: String,
    pub(crate) target: Target,
}

impl Job for CompileWheel {
    const NAME: &'static str = "wheels.compile";
    type Output = ();

    fn run(self, context: &WorkerContext, fds: Vec<OwnedFd>) -> Result<(), JobError> {
        let mut fds = fds.into_iter().map(File::from);
        let (Some(requests), Some(answers)) = (fds.next(), fds.next()) else {
            return Err(JobError::new(LOST, "the interpreter's pipes were not handed over"));
        };
        let descriptions = descriptions(context);
        let manifest: Manifest = descriptions
            .load(&manifest_name(&self.sha256))?
            .ok_or_else(|| JobError::new(MISSING, format!("`{}` is not unpacked", self.name)))?;
        let modules: Vec<&ManifestFile> =
            manifest.files.iter().filter(|file| manifest.is_module(&file.path) && file.size <= SOURCE_LIMIT).collect();
        let bytecode = std::thread::scope(|scope| {
            let sender = scope.spawn(|| self.send(context, &manifest, &modules, requests));
            let received = receive(context, &modules, answers);
            let sent = sender.join().unwrap_or_else(|_| Err(JobError::new(LOST, "sending sources failed")));
            received.and_then(|bytecode| sent.map(|()| bytecode))
        })?;
        descriptions.save(&file_name(&self.sha256, Some(&self.bytecode_key)), &bytecode)
    }
}

impl CompileWheel {
    /// Sends every source, an empty one in the place of one that cannot be read: the other side waits for as many answers
    /// as there are modules. The first failure is answered.
    fn send(
        &self,
        context: &WorkerContext,
        manifest: &Manifest,
        modules: &[&ManifestFile],
        requests: File,
    ) -> Result<(), JobError> {
        let mut requests = BufWriter::with_capacity(1 << 16, requests);
        let mut outcome = Ok(());
        for file in modules {
            let path = manifest.path_on(&file.path, &self.target, &self.name).unwrap_or_default();
            let source = read(context, file).unwrap_or_else(|error| {
                outcome = Err(error);
                Vec::new()
            });
            let lengths =
                [path.len(), source.len()].map(|length| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
            requests.write_all(lengths.as_flattened()).map_err(lost)?;
            requests.write_all(path.as_bytes()).map_err(lost)?;
            requests.write_all(&source).map_err(lost)?;
        }
        requests.flush().map_err(lost)?;
        outcome
    }
}

/// The source of a module.
fn read(context: &WorkerContext, file: &ManifestFile) -> Result<Vec<u8>, JobError> {
    let mut source = Vec::new();
    // The store keeps no object for an empty file.
    if file.size > 0 {
        let object = context.open_object(&file.digest)?;
        object.take(SOURCE_LIMIT).read_to_end(&mut source)?;
    }
    Ok(source)
}

fn receive(context: &WorkerContext, modules: &[&ManifestFile], answers: File) -> Result<Bytecode, JobError> {
    let mut answers = BufReader::with_capacity(1 << 16, answers);
    let mut bytecode = Bytecode::default();
    let mut answer = Vec::new();
    // After a failure the rest is read all the same: the interpreter and the sending side would wait for each other.
    let mut outcome = Ok(());
    for file in modules {
        let mut length = [0; 4];
        answers.read_exact(&mut length).map_err(lost)?;
        let length = u32::from_le_bytes(length);
        if length > ANSWER_LIMIT {
            std::io::copy(&mut (&mut answers).take(length.into()), &mut std::io::sink()).map_err(lost)?;
            let text = format!("the interpreter announced {length} bytes for `{}`", file.path);
            outcome = outcome.and(Err(JobError::new(LOST, text)));
            continue;
        }
        answer.resize(usize::try_from(length).unwrap_or(0), 0);
        answers.read_exact(&mut answer).map_err(lost)?;
        if !answer.is_empty() && outcome.is_ok() {
            match context.put_bytes(&answer) {
                Ok(digest) => drop(bytecode.files.insert(file.path.clone(), digest)),
                Err(error) => outcome = Err(error),
            }
        }
    }
    outcome.map(|()| bytecode)
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn lost(error: std::io::Error) -> JobError {
    JobError::new(LOST, format!("the interpreter ended: {error}"))
}
