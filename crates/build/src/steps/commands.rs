//! `run_commands`, and running a command in a sandbox for the steps that need one.

use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lamina_image::{Digest, KeyMaterial};
use lamina_sandbox::{Exit, ExitStatus, Limits, Mount, SandboxError, SandboxSpec, Stdio, Upper};
use lamina_store::{CommitRules, Work};
use serde_json::Value;

use super::{Made, StepContext, StepError};
use crate::BuildError;
use crate::error::causes;
use crate::hints;
use crate::host::HostSettings;
use crate::log::StepLog;

/// Most processes and threads of one step: far above what compilers use, far below what hurts the host.
const PROCESS_LIMIT: u64 = 16_384;

/// Most memory of one step: what leaves the host alive when a step takes all it can get.
fn memory_limit() -> u64 {
    let memory = rustix::system::sysinfo();
    let total = memory.totalram as u64 * u64::from(memory.mem_unit);
    total / 10 * 9
}

/// Runs each argument as a shell command until one fails. Where the image still has its default apt sources, apt uses
/// the host's mirror.
const RUN_ALL: &str = r#"
if cmp -s /etc/apt/sources.list /dev/lamina/image.list; then export APT_CONFIG=/dev/lamina/apt-mirror.conf; fi
newline='
'
for command do
    /bin/sh -c "$command" && continue
    status=$?
    case $command in
        *"$newline"*) ;;
        *) echo "command failed with exit code $status: $command" >&2 ;;
    esac
    exit $status
done
"#;

pub(crate) struct CommandsPlan {
    commands: Vec<String>,
}

pub(crate) fn plan(commands: &[String], material: &mut KeyMaterial) -> CommandsPlan {
    material.add("kind", "run_commands");
    material.add_exact("commands", commands.to_vec());
    CommandsPlan { commands: commands.to_vec() }
}

impl CommandsPlan {
    pub(crate) fn execute(self, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let work = context.tools.store.new_work()?;
        let run = Run { commands: &self.commands, ..Run::default() };
        let exit = run.execute(context, &work, log)?;
        let rules = CommitRules { package_step: false, drop_empty: exit.created_mountpoints };
        Ok(Made::Work { work, rules, facts: Value::Null })
    }
}

/// Shell commands to run on a step's upper.
#[derive(Default)]
pub(crate) struct Run<'a> {
    /// The commands, one after the other; the first that fails ends the step.
    pub(crate) commands: &'a [String],
    /// Variables beside the image's and the step's own.
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// Caches and programs to mount.
    pub(crate) mounts: Vec<Mount>,
    /// Further files for `/dev/lamina`: name and contents.
    pub(crate) files: &'a [(String, Vec<u8>)],
    /// Layers with tools that lie over the image while the commands run.
    pub(crate) tools: Vec<Digest>,
}

impl Run<'_> {
    /// Runs the commands; output goes to the log.
    pub(crate) fn execute(self, context: &StepContext<'_>, work: &Work, log: &mut StepLog) -> Result<Exit, StepError> {
        context.cancel.check().map_err(BuildError::from)?;
        let spec = self.spec(context, work)?;
        let exit = run_logged(context, &spec, log)?;
        match exit.status {
            ExitStatus::Exited(0) => Ok(exit),
            status => Err(failure(status, &exit, log)),
        }
    }

    fn spec(self, context: &StepContext<'_>, work: &Work) -> Result<SandboxSpec, BuildError> {
        let parent = context.parent;
        let mut host = HostSettings::clone(context.tools.host());
        if let Some(base) = &parent.base {
            host.add_mirror(base.suite)?;
        }
        for (name, contents) in self.files {
            host.add_file(name, contents.clone());
        }
        let mut environment = host.environment;
        environment.insert("HOME".to_owned(), "/root".to_owned());
        environment
            .insert("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        environment.extend(self.environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        environment.extend(parent.config.environment.clone());
        let own = context.node.variables();
        environment.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let store = &context.tools.store;
        let script = ["/bin/sh", "-c", RUN_ALL, "sh"].map(str::to_owned);
        Ok(SandboxSpec {
            hostname: "build".to_owned(),
            layers: self.tools.iter().chain(parent.layers.iter().rev()).map(|digest| store.view_path(digest)).collect(),
            upper: Upper::Store { upper: work.upper(), work: work.work_directory() },
            mounts: self.mounts,
            files: host.files,
            resolv_conf: host.resolv_conf,
            hosts: host.hosts,
            argv: script.into_iter().chain(self.commands.iter().cloned()).collect(),
            env: environment.into_iter().collect(),
            cwd: parent.config.working_directory.clone().unwrap_or_else(|| "/".to_owned()),
            limits: Limits { pids: Some(PROCESS_LIMIT), memory_bytes: Some(memory_limit()), ..Limits::default() },
            ignore_sync: true,
            ..SandboxSpec::default()
        })
    }
}

/// Starts a sandbox with its output in the log and waits for its end.
fn run_logged(context: &StepContext<'_>, spec: &SandboxSpec, log: &mut StepLog) -> Result<Exit, StepError> {
    let (reader, stdio) = output_pipe().map_err(|error| BuildError::failed(&error))?;
    let sandbox = Arc::new(context.tools.launcher.spawn(spec, stdio).map_err(sandbox_error)?);
    let killed = Arc::clone(&sandbox);
    let guard = context.cancel.on_cancel(move || killed.kill());
    pump(reader, log).map_err(|error| BuildError::failed(&error))?;
    let exit = sandbox.wait().map_err(sandbox_error)?;
    drop(guard);
    log.finish();
    context.cancel.check().map_err(BuildError::from)?;
    Ok(exit)
}

/// A pipe for both output streams, and standard input from `/dev/null`.
fn output_pipe() -> std::io::Result<(std::io::PipeReader, Stdio)> {
    let (reader, writer) = std::io::pipe()?;
    let stdin = OwnedFd::from(fs_err::File::open("/dev/null")?.into_parts().0);
    let stdout = OwnedFd::from(writer.try_clone()?);
    Ok((reader, Stdio { stdin, stdout, stderr: OwnedFd::from(writer), socket: None }))
}

fn pump(mut reader: std::io::PipeReader, log: &mut StepLog) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            count => log.write_all(&buffer[..count])?,
        }
    }
}

fn failure(status: ExitStatus, exit: &Exit, log: &StepLog) -> StepError {
    let message = match status {
        _ if exit.out_of_memory => "it was ended because it used more memory than its limit".to_owned(),
        _ if exit.out_of_disk.is_some() => format!(
            "it was ended because the disk of the store has less than `{}` MiB left, which MODAL_STORE_RESERVE keeps free",
            exit.out_of_disk.unwrap_or_default() >> 20
        ),
        ExitStatus::Exited(code) => format!("a command ended with exit code {code}"),
        ExitStatus::Signaled(signal) => format!("it was ended by signal {signal}"),
    };
    // The output explains a failure of a program, not that something from outside ended it.
    let hint = matches!(status, ExitStatus::Exited(_)).then(|| hints::for_output(&log.tail())).flatten();
    StepError::Failed { message, hint }
}

fn sandbox_error(error: SandboxError) -> StepError {
    match error {
        SandboxError::CommandNotFound { .. }
        | SandboxError::NotExecutable { .. }
        | SandboxError::WorkingDirectory { .. } => StepError::failed(causes(&error)),
        error => StepError::Other(BuildError::failed(&error)),
    }
}
