//! Shells in images and beside functions.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use lamina_functions::{FunctionSpec, Module, Retries, random_id};
use lamina_sandbox::{Sandbox, SandboxSpec, Stdio, TerminalSize, TerminalSpec};

use crate::protocol::DEFAULT_ENVIRONMENT;
use crate::{Engine, EngineError};

/// What a shell is opened in.
#[derive(Debug, Clone, Copy)]
pub enum ShellTarget<'a> {
    /// An image, by its id or the beginning of it; also the state before a failed step.
    Image(&'a str),
    /// What a function's containers see: its image with its files, environment and secrets.
    Function(&'a FunctionSpec),
}

impl Engine {
    /// Starts a command in an image, on a terminal of the given size or on this process's own standard streams. What
    /// it changes is gone with it.
    ///
    /// # Errors
    /// When there is no such image, or the command cannot be started in it.
    pub fn shell(
        &self,
        target: ShellTarget<'_>,
        argv: &[String],
        terminal: Option<TerminalSize>,
    ) -> Result<Sandbox, EngineError> {
        let beside = match target {
            ShellTarget::Image(id) => &self.image_as_function(id)?,
            ShellTarget::Function(function) => function,
        };
        let terminal = terminal.map(|size| TerminalSpec { size, is_stdio: true });
        let spec = beside.sandbox(&random_id("ta"), terminal);
        let spec = SandboxSpec { argv: argv.to_vec(), ..spec };
        Ok(self.launcher.spawn(&spec, own_streams()?)?)
    }

    /// The surroundings of a build step that would follow the last one of an image.
    fn image_as_function(&self, id: &str) -> Result<FunctionSpec, EngineError> {
        let image = self.image(id)?;
        if !self.store.hold(&image.layers)? {
            return Err(EngineError::ImageGone(image.id));
        }
        let directory = image.config.working_directory.unwrap_or_else(|| "/".to_owned());
        Ok(FunctionSpec {
            name: "shell".to_owned(),
            module: Module::Module { name: "shell".to_owned() },
            image_id: image.id,
            layers: image.layers.iter().rev().map(|digest| self.store.view_path(digest)).collect(),
            image_environment: image.config.environment,
            working_directory: Some(directory),
            python: None,
            environment: Vec::new(),
            timeout: Duration::MAX,
            cpus: None,
            memory_bytes: None,
            retries: Retries::default(),
            maximum_containers: None,
            environment_name: DEFAULT_ENVIRONMENT.to_owned(),
        })
    }
}

/// This process's standard streams.
fn own_streams() -> std::io::Result<Stdio> {
    let copy = |fd: BorrowedFd<'_>| -> std::io::Result<OwnedFd> { fd.try_clone_to_owned() };
    Ok(Stdio {
        stdin: copy(rustix::stdio::stdin())?,
        stdout: copy(rustix::stdio::stdout())?,
        stderr: copy(rustix::stdio::stderr())?,
        socket: None,
    })
}
