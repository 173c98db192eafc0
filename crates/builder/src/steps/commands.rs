//! `run_commands`, and running a command in a sandbox for the steps that need one.

use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lamina_bases::quote;
use lamina_devices::Lease;
use lamina_ground::{DEFAULT_PATH, Stack, null_device};
use lamina_image::{Digest, FileEntry, FileKind, FileSet, KeyMaterial, RunCommands, VolumeMount};
use lamina_sandbox::{
    Exit, ExitStatus, InjectedFile, Launcher, Limits, Mount, Network, SandboxError, SandboxSpec, Stdio, Upper,
};
use lamina_store::{CommitRules, StoreError, Work};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Kind, LayerKind, Made, Planning, Recipe, StepContext, StepError, volumes};
use crate::BuildError;
use crate::hints;
use crate::host::{HostSettings, add_settings_directories};
use crate::log::StepLog;
use crate::toolchain::{Need, When};

/// Most processes and threads of one step: far above what compilers use, far below what hurts the host.
const PROCESS_LIMIT: u64 = 16_384;

/// Runs each argument as a command of the image's shell, which stands for `SHELL`, until one fails.
const RUN_ALL: &str = r#"
newline='
'
for command do
    SHELL "$command" && continue
    status=$?
    case $command in
        *"$newline"*) ;;
        *) echo "command failed with exit code $status: $command" >&2 ;;
    esac
    exit $status
done
"#;

/// The script that runs commands, for an image with this shell.
fn run_all(shell: Option<&[String]>) -> String {
    let words = |shell: &[String]| shell.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
    RUN_ALL.replace("SHELL", &shell.map_or_else(|| "/bin/sh -c".to_owned(), words))
}

struct CommandsPlan {
    commands: Vec<String>,
    volumes: Vec<VolumeMount>,
}

impl Kind for RunCommands {}

impl LayerKind for RunCommands {
    fn plan(&self, _planning: &Planning<'_>, material: &mut KeyMaterial) -> Result<Box<dyn Recipe>, BuildError> {
        material.add("kind", "run_commands");
        material.add_exact("commands", self.commands.clone());
        volumes::add(&self.volumes, material);
        Ok(Box::new(CommandsPlan { commands: self.commands.clone(), volumes: self.volumes.clone() }))
    }
}

impl Recipe for CommandsPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let work = context.workshop.store.new_work()?;
        let beneath = uv_layer(context)?;
        let mut drop_empty = Vec::new();
        for commands in self.commands.chunk_by(|one, next| Need::of(one) == Need::of(next)) {
            let toolchain = toolchain(Need::of(&commands[0]), context, log)?;
            let mounts = volumes::mounts(&self.volumes, context.workshop.store)?;
            let run = Run { commands, mounts, beneath, toolchain, ..Run::default() };
            drop_empty.extend(run.execute(context, &work, log)?.created_mountpoints);
        }
        let rules = CommitRules { drop_empty, ..CommitRules::default() };
        Ok(Made::Work { work, rules, facts: Box::default(), held: None })
    }
}

/// The toolchain for commands that need it like this. Who perhaps has no use for it does without where it cannot be had.
pub(crate) fn toolchain(
    need: Need,
    context: &StepContext<'_>,
    log: &mut StepLog,
) -> Result<Option<Digest>, BuildError> {
    match need {
        Need::Own => Ok(None),
        Need::Likely => context.toolchain(true, log),
        Need::Unlikely => context.toolchain(false, log),
        Need::Perhaps => context.toolchain(true, log).or_else(|error| match error {
            BuildError::Failed(_) if When::of_environment()? == When::Auto => {
                log.line(&format!("they are not to be had, so it is tried without: {error}"));
                Ok(None)
            }
            error => Err(error),
        }),
    }
}

/// Shell commands to run on a step's upper.
#[derive(Default)]
pub(crate) struct Run<'a> {
    /// The commands, one after the other; the first that fails ends the step.
    pub(crate) commands: &'a [String],
    /// A script for `/bin/sh` that is run instead, with the commands as its arguments.
    pub(crate) script: Option<&'a str>,
    /// Variables beside the image's and the step's own.
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// Variables that hide the image's, but not the step's own.
    pub(crate) over_image: &'a [(&'a str, &'a str)],
    /// Variables that nothing else replaces.
    pub(crate) fixed: &'a [(&'a str, &'a str)],
    /// Where they are run, if the image does not say; `/` where this does not either.
    pub(crate) directory: Option<&'a str>,
    /// Caches and programs to mount.
    pub(crate) mounts: Vec<Mount>,
    /// Further files for `/dev/lamina`: name and contents.
    pub(crate) files: &'a [(String, Vec<u8>)],
    /// Further files for `/dev/lamina` with modes of their own.
    pub(crate) injected: Vec<InjectedFile>,
    /// A program and its arguments in place of commands.
    pub(crate) program: Option<Vec<String>>,
    /// The user, as an image names it.
    pub(crate) user: Option<String>,
    /// The network.
    pub(crate) network: Network,
    /// Layers with tools that lie over the image while the commands run.
    pub(crate) tools: Stack<Digest>,
    /// A layer that lies beneath the image meanwhile: what the image has itself hides it.
    pub(crate) beneath: Option<Digest>,
    /// The layer of the compilers that the image lacks, over the image.
    pub(crate) toolchain: Option<Digest>,
    /// Whether `uv` is not told of this machine's indexes.
    pub(crate) without_indexes_of_uv: bool,
    /// Whether they name an index, which then counts although this machine has none.
    pub(crate) has_index: bool,
    /// What they may use beside the step's own share of memory.
    pub(crate) limits: RunLimits,
}

/// Limits of a step that its declaration names.
#[derive(Default)]
pub(crate) struct RunLimits {
    /// How long all of it may take.
    pub(crate) time: Option<Duration>,
    /// Most processors.
    pub(crate) cpus: Option<f64>,
    /// Most bytes of memory, in place of the step's share.
    pub(crate) memory: Option<u64>,
}

/// Where users' commands find the host's `uv`, unless the image has one of its own.
const UV: &str = "/usr/local/bin/uv";

/// A layer with the host's `uv`. It is there while commands run, as in images that have it, and makes no image larger.
pub(crate) fn uv_layer(context: &StepContext<'_>) -> Result<Option<Digest>, StepError> {
    let Some(uv) = context.workshop.programs.uv.as_deref() else { return Ok(None) };
    let entry =
        FileEntry { source: uv.display().to_string(), target: UV.to_owned(), kind: FileKind::File, ignore: None };
    Ok(Some(context.workshop.store.file_set_layer(&FileSet { entries: vec![entry] }, &Stack::new())?.digest))
}

impl Run<'_> {
    /// Runs the commands; output goes to the log.
    pub(crate) fn execute(self, context: &StepContext<'_>, work: &Work, log: &mut StepLog) -> Result<Exit, StepError> {
        let exit = self.execute_unchecked(context, work, log)?;
        match exit.status {
            ExitStatus::Exited(0) => Ok(exit),
            status => Err(failure(status, &exit, log, context)),
        }
    }

    /// As [`Self::execute`], however they end.
    pub(crate) fn execute_unchecked(
        self,
        context: &StepContext<'_>,
        work: &Work,
        log: &mut StepLog,
    ) -> Result<Exit, StepError> {
        context.workshop.cancel.check().map_err(BuildError::from)?;
        let time = self.limits.time;
        let mut spec = self.spec(context, work)?;
        let lease = lend(context)?;
        if let Some(lease) = &lease {
            lease.give(&mut spec, context.workshop.store);
        }
        run_logged(context, lease.as_ref().map_or(context.workshop.launcher, Lease::launcher), &spec, time, log)
    }

    fn spec(self, context: &StepContext<'_>, work: &Work) -> Result<SandboxSpec, BuildError> {
        let parent = context.parent;
        let mut host = HostSettings::clone(context.host());
        host.add_packages(&parent.facts)?;
        if self.without_indexes_of_uv {
            host.remove_indexes_of_uv();
        }
        if self.has_index {
            host.remove_no_index();
        }
        for (name, contents) in self.files {
            host.add_file(name, contents.clone());
        }
        let mut environment = host.environment;
        // The home of others is looked up where they are.
        if self.user.is_none() {
            environment.insert("HOME".to_owned(), "/root".to_owned());
        }
        environment.insert("PATH".to_owned(), DEFAULT_PATH.to_owned());
        environment.extend(self.environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        environment.extend(parent.config.environment.clone());
        environment.extend(self.over_image.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let own = context.node.variables();
        environment.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        environment.extend(self.fixed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        add_settings_directories(&host.files, &mut environment);
        let store = context.workshop.store;
        let beneath = Stack::from_bottom_up(self.beneath);
        let toolchain = Stack::from_bottom_up(self.toolchain);
        let layers = beneath.under(&parent.layers).under(&toolchain).under(&self.tools);
        host.files.extend(self.injected);
        let in_shell =
            |script: &str| ["/bin/sh", "-c", &(host.prepare.clone() + script), "sh"].map(str::to_owned).to_vec();
        let argv = match self.program {
            Some(words) if host.prepare.is_empty() => words,
            Some(words) => [in_shell("exec \"$@\""), words].concat(),
            None => {
                let script = self.script.map_or_else(|| run_all(parent.config.shell.as_deref()), str::to_owned);
                [in_shell(&script), self.commands.to_vec()].concat()
            }
        };
        let directory = || self.directory.unwrap_or("/").to_owned();
        // The layer is synchronised as a whole. What a command commits to a volume stays, whatever becomes of the step.
        let ignore_sync = !self.mounts.iter().any(|mount| matches!(mount, Mount::Bind { read_only: false, .. }));
        Ok(SandboxSpec {
            hostname: "build".to_owned(),
            layers: store.view_paths(&layers),
            upper: Upper::Store { upper: work.upper(), work: work.work_directory() },
            mounts: self.mounts,
            files: host.files,
            resolv_conf: host.resolv_conf,
            hosts: host.hosts,
            argv,
            user: self.user,
            network: self.network,
            env: environment.into_iter().collect(),
            cwd: parent.config.working_directory.clone().unwrap_or_else(directory),
            limits: Limits {
                pids: Some(PROCESS_LIMIT),
                memory_bytes: self.limits.memory.or(Some(context.memory)),
                cpus: self.limits.cpus,
                ..Limits::default()
            },
            ignore_sync,
            ..SandboxSpec::default()
        })
    }
}

/// The GPUs that the step asks for, if it does.
fn lend(context: &StepContext<'_>) -> Result<Option<Lease>, StepError> {
    let StepContext { workshop, node, parent, .. } = context;
    if node.gpu.is_empty() {
        return Ok(None);
    }
    workshop.devices.lend(&node.gpu, workshop.store, &parent.layers).map(Some).map_err(StepError::of)
}

/// Starts a sandbox with its output in the log and waits for its end, or ends it when its time is up.
fn run_logged(
    context: &StepContext<'_>,
    launcher: &Launcher,
    spec: &SandboxSpec,
    time: Option<Duration>,
    log: &mut StepLog,
) -> Result<Exit, StepError> {
    let until = time.and_then(|time| Instant::now().checked_add(time));
    let (reader, stdio) = output_pipe().map_err(BuildError::failed)?;
    let sandbox = Arc::new(launcher.spawn(spec, stdio).map_err(sandbox_error)?);
    let killed = Arc::clone(&sandbox);
    let guard = context.workshop.cancel.on_cancel(move || killed.kill());
    let is_late = !pump(&reader, until, log).map_err(StoreError::from)?;
    if is_late {
        sandbox.kill();
        pump(&reader, None, log).map_err(StoreError::from)?;
    }
    let exit = sandbox.wait().map_err(sandbox_error)?;
    drop(guard);
    log.finish();
    context.workshop.cancel.check().map_err(BuildError::from)?;
    match time.filter(|_| is_late) {
        Some(time) => Err(StepError::Failed {
            message: format!("it was ended because it took longer than its `timeout` of {} s", time.as_secs()),
            hint: Some("give it more time: `timeout` takes seconds".to_owned()),
        }),
        None => Ok(exit),
    }
}

/// A pipe for both output streams, and standard input from `/dev/null`.
fn output_pipe() -> std::io::Result<(std::io::PipeReader, Stdio)> {
    let (reader, writer) = std::io::pipe()?;
    let stdout = OwnedFd::from(writer.try_clone()?);
    Ok((reader, Stdio { stdin: null_device()?, stdout, stderr: OwnedFd::from(writer), socket: None }))
}

/// Writes to the log what is printed, until all of it is there; false if that is not so at the given time.
fn pump(mut reader: &std::io::PipeReader, until: Option<Instant>, log: &mut StepLog) -> std::io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if let Some(until) = until {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            let mut fds = [PollFd::new(reader, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
        }
        match reader.read(&mut buffer)? {
            0 => return Ok(true),
            count => log.write_all(&buffer[..count])?,
        }
    }
}

pub(crate) fn failure(status: ExitStatus, exit: &Exit, log: &StepLog, context: &StepContext<'_>) -> StepError {
    let message = match (exit.out_of_disk, status) {
        _ if exit.out_of_memory => "it was ended because it used more memory than its limit".to_owned(),
        (Some(shortage), _) => format!("it was ended because the disk of the store has {shortage}"),
        (None, ExitStatus::Exited(code)) => format!("a command ended with exit code {code}"),
        (None, ExitStatus::Signaled(signal)) => format!("it was ended by signal {signal}"),
    };
    // The output explains a failure of a program, not that something from outside ended it.
    let explained =
        || hints::for_output(&log.tail(), &context.parent.facts, context.workshop.store.layout().has_space());
    let hint = matches!(status, ExitStatus::Exited(_)).then(explained).flatten();
    StepError::Failed { message, hint }
}

fn sandbox_error(error: SandboxError) -> StepError {
    match error {
        SandboxError::CommandNotFound { .. }
        | SandboxError::NotExecutable { .. }
        | SandboxError::UnknownUser { .. }
        | SandboxError::WorkingDirectory { .. } => StepError::of(error),
        error => StepError::Other(BuildError::failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_run_by_the_images_shell() {
        let run = |shell: Option<&[String]>, command: &str| {
            let script = "prepared=yes; export prepared\n".to_owned() + &run_all(shell);
            let output = std::process::Command::new("sh").args(["-c", &script, "sh", command, "echo next"]).output();
            let output = output.unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        assert_eq!(run(None, "echo $prepared $0"), (Some(0), "yes /bin/sh\nnext\n".to_owned()));
        assert_eq!(run(None, "exit 3"), (Some(3), String::new()));
        let shell = ["/bin/sh", "-e", "-c"].map(str::to_owned);
        assert_eq!(run(Some(&shell), "false; echo on").0, Some(1));
    }
}
