//! `run_function`: a Python function, run as in a container; what it changed is the layer.

use std::time::Duration;

use lamina_bases::quote;
use lamina_ground::{EnvVars, Stack, random_id};
use lamina_image::container::{HOME, INTERPRETERS, RUNNER, python_path};
use lamina_image::{Digest, FileSet, KeyMaterial, RunFunction, VolumeMount, VolumeReference};
use lamina_sandbox::{Exit, ExitStatus};
use lamina_store::CommitRules;
use serde_json::{Map, Value, json};

use super::commands::{Run, RunLimits, failure, uv_layer};
use super::{Kind, LayerKind, Local, Made, Planning, Recipe, StepContext, StepError, volumes};
use crate::BuildError;
use crate::host::DIRECTORY;
use crate::log::StepLog;

/// The file under [`DIRECTORY`] that says what is to be run.
const DESCRIPTION: &str = "function.json";
/// What the runner ends with when the function has raised an exception, which is the last that it prints.
const RAISED: i32 = 1;

struct FunctionPlan {
    step: RunFunction,
}

impl Kind for RunFunction {
    fn local(&self) -> Local<'_> {
        Local { files: Some(&self.source), ..Local::default() }
    }
}

impl LayerKind for RunFunction {
    /// The function's own text counts, not that of the file it is in.
    fn plan(&self, planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        material.add("kind", "run_function");
        material.add("function", self.function.as_str());
        material.add_exact("text", self.code.text.as_str());
        for (name, digests) in [("helpers", &self.code.helpers), ("globals", &self.code.globals)] {
            let digests = digests.iter().map(|(name, digest)| (name.clone(), digest.as_str().into()));
            material.add(name, digests.collect::<Map<_, _>>());
        }
        material.add("arguments", self.code.arguments.clone());
        volumes::add(&self.volumes, material);
        let entrypoint = &planning.parent.config.entrypoint;
        if !entrypoint.is_empty() {
            material.add_exact("entrypoint", entrypoint.clone());
        }
        Ok(Box::new(FunctionPlan { step: self.clone() }))
    }
}

impl Recipe for FunctionPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let step = &self.step;
        let work = context.workshop.store.new_work()?;
        let description = json!({
            "function": step.function,
            "module": step.module,
            "arguments": step.arguments,
            "volumes": step.volumes.iter().map(volume).collect::<Vec<_>>(),
        });
        let files = [(DESCRIPTION.to_owned(), description.to_string().into_bytes())];
        let image = context.parent.image_id();
        let task = random_id("ta");
        let given = context.node.variables().filter(|(name, _)| *name == "PYTHONPATH").last().map(|(_, value)| value);
        let given = given.or_else(|| context.parent.config.environment.get("PYTHONPATH").map(String::as_str));
        let run = Run {
            script: Some(&script(context)),
            fixed: &[
                ("PYTHONPATH", &python_path(given)),
                (EnvVars::MODAL_IS_REMOTE, "1"),
                (EnvVars::MODAL_IMAGE_ID, &image),
                (EnvVars::MODAL_TASK_ID, &task),
                (EnvVars::MODAL_ENVIRONMENT, &step.environment_name),
                (EnvVars::MODAL_REGION, "local"),
                (EnvVars::MODAL_CLOUD_PROVIDER, "local"),
            ],
            directory: Some(HOME),
            mounts: volumes::mounts(&step.volumes, context.workshop.store)?,
            files: &files,
            tools: tools(context, &step.source)?,
            beneath: uv_layer(context)?,
            toolchain: context.toolchain(context.parent.compiles, log)?,
            limits: RunLimits {
                time: Some(Duration::from_secs(step.timeout.into())),
                cpus: step.milli_cpu.map(|thousandths| f64::from(thousandths) / 1000.0),
                memory: step.memory.map(|mebibytes| u64::from(mebibytes) << 20),
            },
            ..Run::default()
        };
        let exit = run.execute_unchecked(context, &work, log)?;
        if exit.status != ExitStatus::Exited(0) {
            return Err(said(&step.function, &exit, log, context));
        }
        let rules = CommitRules { drop_empty: exit.created_mountpoints, ..CommitRules::default() };
        Ok(Made::Work { work, rules, facts: Box::default(), held: None })
    }
}

/// A volume as the package in a container knows it.
fn volume(VolumeMount { path, volume, read_only, sub_path }: &VolumeMount) -> Value {
    let VolumeReference { id, name, environment, .. } = volume;
    json!({
        "path": path, "id": id, "name": name, "environment": environment, "sub_path": sub_path, "read_only": read_only,
    })
}

/// Why the function did not come to its end.
fn said(function: &str, exit: &Exit, log: &StepLog, context: &StepContext<'_>) -> StepError {
    let status = exit.status;
    match failure(status, exit, log, context) {
        StepError::Failed { hint, .. } if matches!(status, ExitStatus::Exited(_)) && !exit.out_of_memory => {
            let last = log.tail().pop();
            let message = match (status, last) {
                (ExitStatus::Exited(RAISED), Some(last)) => format!("the function `{function}` failed: {last}"),
                (ExitStatus::Exited(code), _) => format!("the function `{function}` ended with exit code {code}"),
                (ExitStatus::Signaled(signal), _) => format!("the function `{function}` was ended by signal {signal}"),
            };
            StepError::Failed { message, hint }
        }
        other => other,
    }
}

/// The package and the source, which lie over the image while the function runs.
fn tools(context: &StepContext<'_>, source: &FileSet) -> Result<Stack<Digest>, StepError> {
    let mut tools = Stack::new();
    for files in [&context.workshop.programs.package, source] {
        if !files.is_empty() {
            let view = context.workshop.store.file_set(files, &context.parent.layers.under(&tools))?;
            tools.put_all(&view.views);
        }
    }
    Ok(tools)
}

/// Starts the runner with the interpreter that the PATH names, or else the one that the base brought; an entrypoint of the
/// image starts that. What it compiles on the way is no part of the layer.
fn script(context: &StepContext<'_>) -> String {
    let of_base = context.parent.facts.python.as_ref().map(|python| &*python.interpreter);
    let entrypoint = context.parent.config.entrypoint.iter().map(|word| quote(word) + " ").collect::<String>();
    let names: Vec<_> = INTERPRETERS.into_iter().chain(of_base).map(quote).collect();
    format!(
        "for python in {}; do\n    if command -v \"$python\" >/dev/null; then exec {entrypoint}\"$python\" -B {RUNNER} \
         {DIRECTORY}/{DESCRIPTION}; fi\ndone\necho 'the image has no Python to run a function with' >&2\nexit 127\n",
        names.join(" ")
    )
}
