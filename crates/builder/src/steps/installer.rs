//! Installers inside the sandbox: pip, `uv` and poetry, without what they are given in any argument list.

use std::fmt::Write as _;

use lamina_bases::{apt, quote};
use lamina_ground::Stack;
use lamina_image::{Digest, Facts, FileEntry, FileKind, FileSet};
use lamina_sandbox::InjectedFile;
use lamina_store::{CommitRules, Exclude, Work};

use super::commands::Run;
use super::{Made, StepContext, StepError};
use crate::host::DIRECTORY;
use crate::log::StepLog;

/// Where the host's uv is inside.
const UV: &str = "/__modal/bin/uv";

/// The program that starts an installer without showing what it is given.
const STARTER: &str = "start_installer.py";

/// A script with an installer, to run on a step's upper.
#[derive(Default)]
pub(super) struct Installation {
    /// The script. It may have credentials in it.
    pub(super) script: String,
    /// Files for `/dev/lamina`.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// Layers with tools that lie over the image meanwhile.
    pub(super) tools: Stack<Digest>,
    /// A layer with compilers.
    pub(super) toolchain: Option<Digest>,
    /// Whether `uv` is not told of this machine's indexes.
    pub(super) without_indexes_of_uv: bool,
    /// Whether the step names an index.
    pub(super) has_index: bool,
    /// Variables beside those of every installer.
    pub(super) variables: Vec<(&'static str, &'static str)>,
    /// What the step says about the image then.
    pub(super) facts: Facts,
}

impl Installation {
    /// Runs it on a bare upper, which is what the step makes.
    pub(super) fn run(mut self, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let work = context.workshop.store.new_work()?;
        let facts = Box::new(std::mem::take(&mut self.facts));
        let rules = self.run_on(&work, context, log)?;
        Ok(Made::Work { work, rules, facts, held: None })
    }

    /// Runs it on an upper; answers how to commit that.
    pub(super) fn run_on(
        self,
        work: &Work,
        context: &StepContext<'_>,
        log: &mut StepLog,
    ) -> Result<CommitRules, StepError> {
        let mut files = self.files;
        files.push((STARTER.to_owned(), include_bytes!("start_installer.py").to_vec()));
        let netrc = netrc(&self.script, &files, context);
        let script = if netrc.is_some() { OWN_NETRC.to_owned() + &self.script } else { self.script };
        files.push(("install.sh".to_owned(), script.into_bytes()));
        // No cache is shared: code that is built from source runs beside it and could plant what others will install.
        let mut variables = vec![
            ("PIP_NO_CACHE_DIR", "1"),
            ("UV_NO_CACHE", "1"),
            ("UV_LINK_MODE", "copy"),
            ("PIP_ROOT_USER_ACTION", "ignore"),
            ("PIP_BREAK_SYSTEM_PACKAGES", "1"),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ];
        variables.extend(self.variables);
        // In a file, as arguments may have credentials in them, and the shell is given its commands as arguments.
        let commands = [format!(". {DIRECTORY}/install.sh\n")];
        let run = Run {
            commands: &commands,
            environment: &variables,
            files: &files,
            tools: self.tools,
            toolchain: self.toolchain,
            without_indexes_of_uv: self.without_indexes_of_uv,
            has_index: self.has_index,
            injected: netrc.into_iter().collect(),
            ..Run::default()
        };
        let exit = run.execute(context, work, log)?;
        // Made by `uv`, which leaves it behind.
        let exclude = Exclude { endings: vec![("tmp".to_owned(), ".lock".to_owned())], ..Exclude::default() };
        Ok(CommitRules { package_times: true, drop_empty: exit.created_mountpoints, exclude, ..CommitRules::default() })
    }
}

/// Has installers read this machine's netrc file where the image has none.
const OWN_NETRC: &str = r#"[ -n "${NETRC-}" ] || [ -e "$HOME/.netrc" ] || [ -e "$HOME/_netrc" ] || export NETRC=/dev/lamina/netrc
"#;

/// The logins of this machine's netrc file for the hosts that the installer is told of. Others are none of its business:
/// what it builds can read them.
fn netrc(script: &str, files: &[(String, Vec<u8>)], context: &StepContext<'_>) -> Option<InjectedFile> {
    let settings = context.host().files.iter().map(|file| &file.contents);
    let texts: Vec<_> =
        files.iter().map(|(_, contents)| contents).chain(settings).map(|text| String::from_utf8_lossy(text)).collect();
    let contents = lamina_wheels::netrc_for(texts.iter().map(|text| &**text).chain([script]))?.into_bytes();
    Some(InjectedFile { name: "netrc".to_owned(), contents, mode: 0o400 })
}

/// Files for `/dev/lamina`, of those that there are, and the commands that copy them to a directory.
pub(super) fn copied(named: &[(&str, Option<&str>)], directory: &str) -> (Vec<(String, Vec<u8>)>, String) {
    let files = named.iter().filter_map(|(name, text)| Some(((*name).to_owned(), text.as_ref()?.as_bytes().to_vec())));
    let files: Vec<_> = files.collect();
    let mut commands = format!("mkdir -p {directory}\n");
    for (name, _) in &files {
        let _ = writeln!(commands, "cat {DIRECTORY}/{name} > {directory}/{name}");
    }
    (files, commands)
}

/// Installs with compilers if something is sure to be built, and else once more with them if it failed for want of one.
pub(super) fn with_compilers(
    builds: bool,
    context: &StepContext<'_>,
    log: &mut StepLog,
    install: impl Fn(Option<Digest>, &mut StepLog) -> Result<Made, StepError>,
) -> Result<Made, StepError> {
    let toolchain = context.toolchain(builds, log)?;
    match install(toolchain, log) {
        Err(StepError::Failed { message, hint }) if toolchain.is_none() => {
            let failed = || StepError::Failed { message, hint };
            let is_lacking = log.tail().iter().any(|line| apt::lacks_compiler(line));
            let toolchain = context.toolchain(is_lacking, log)?.ok_or_else(failed)?;
            log.line("installing once more: a package had to be compiled");
            install(Some(toolchain), log)
        }
        other => other,
    }
}

/// The command that starts pip with arguments in the form of the shell.
pub(super) fn pip(arguments: &str) -> String {
    started("pip", arguments)
}

/// The command that starts `uv`, the host's or a certain version, and the layers that it needs.
pub(super) fn uv(
    version: Option<&str>,
    arguments: &str,
    context: &StepContext<'_>,
) -> Result<(String, Stack<Digest>), StepError> {
    let mut tools = Stack::new();
    let command = if let Some(version) = version {
        let start = started("/dev/shm/uv/bin/uv", arguments);
        format!("python -m pip install --quiet --target /dev/shm/uv {} && {start}", quote(&format!("uv=={version}")))
    } else {
        tools.put(uv_layer(context)?);
        started(UV, arguments)
    };
    Ok((command, tools))
}

fn started(installer: &str, arguments: &str) -> String {
    format!("printf '%s\\0' {arguments} | python {DIRECTORY}/{STARTER} {installer}")
}

/// A layer that holds the host's `uv`, to lie over the image while it is needed.
fn uv_layer(context: &StepContext<'_>) -> Result<Digest, StepError> {
    let uv = context.workshop.programs.uv.as_deref().ok_or_else(|| StepError::Failed {
        message: "`uv` was not found on this machine".to_owned(),
        hint: Some("install it beside the package with `pip install uv`, or use `pip_install`".to_owned()),
    })?;
    let entry =
        FileEntry { source: uv.display().to_string(), target: UV.to_owned(), kind: FileKind::File, ignore: None };
    let files = FileSet { entries: vec![entry] };
    Ok(context.workshop.store.file_set_layer(&files, &context.parent.layers)?.digest)
}
