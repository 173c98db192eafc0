//! The wheels of a project that `uv` has locked: its lock names them, so nothing is resolved and no index is asked.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use fs_err as fs;
use lamina_workshop::Workshop;

use crate::error::WheelError;
use crate::lock::{self, Resolution, Source};
use crate::request::Target;
use crate::resolve::host_uv;
use crate::uv::Program;

/// A project with its lock.
#[derive(Debug, Clone, Copy)]
pub struct LockedProject<'a> {
    /// The text of `pyproject.toml`.
    pub pyproject: &'a str,
    /// The text of `uv.lock`.
    pub lock: &'a str,
    /// Options that choose groups and extras, in the words that `uv sync` and `uv export` have in common.
    pub selection: &'a [String],
}

/// The wheels that `uv sync --frozen` would install in an environment on `target`.
///
/// What belongs to the selection is the host's `uv` to say; it reads the two texts and nothing else.
///
/// # Errors
/// [`WheelError::NeedsSandbox`] when wheels of an index do not do, or `uv` does not understand the project.
pub fn locked(project: &LockedProject<'_>, target: &Target, workshop: &Workshop<'_>) -> Result<Resolution, WheelError> {
    let (uv, cache) = (host_uv(workshop)?, workshop.store.layout().uv_cache());
    let program = Program { uv, cache: &cache, cancel: workshop.cancel };
    fs::create_dir_all(&cache)?;
    let scratch = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir()?;
    // `uv` looks for a workspace in the directories above, which others may write to, unless the project is one.
    fs::write(scratch.path().join("pyproject.toml"), format!("{}\n[tool.uv.workspace]\n", project.pyproject))?;
    fs::write(scratch.path().join("uv.lock"), project.lock)?;
    let output = scratch.path().join("pylock.toml");
    let mut command = Command::new(uv);
    command.args(["export", "--quiet", "--no-header", "--color", "never", "--no-config", "--offline", "--frozen"]);
    command.args(["--no-emit-workspace", "--format", "pylock.toml"]).args(project.selection);
    command.arg("--project").arg(scratch.path()).arg("--output-file").arg(&output);
    command.arg("--cache-dir").arg(&cache).current_dir(scratch.path());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"UV_")) {
        command.env_remove(name);
    }
    tracing::info!(?project.selection, "locked project");
    program.run(scratch.path(), &mut command).map_err(|message| {
        let first = message.lines().next().unwrap_or_default();
        WheelError::needs_sandbox(format!("`uv` does not export its lock: {}", first.trim_start_matches("error: ")))
    })??;
    let text = fs::read_to_string(&output)?;
    let mut wheels = lock::parse_for(target, &text, scratch.path())?;
    for wheel in &mut wheels {
        if let Source::Path(_) = wheel.source {
            return Err(WheelError::needs_sandbox(format!("`{}` is named by a path", wheel.name)));
        }
        // As far as `uv sync` is concerned, each was asked for.
        wheel.requested = true;
    }
    Ok(Resolution { wheels, kept: Vec::new() })
}
